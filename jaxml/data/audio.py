"""One series from one file: a recording, a numpy array or a column of numbers."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxml.extras import extra
from jaxml.files.errors import DataError, check_permission, unreadable
from jaxml.files.limits import MAX_BYTES, check_memory
from jaxml.files.npz import read_npy

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
ACCEPTED = f"{', '.join(AUDIO_SUFFIXES)}, .npy (one axis) or .csv (one column)"
# Samples that are read at once.
BLOCK = 2**20
# Of a recording by resampling: a header may claim a sample a second.
MOST_STRETCH = 100
# Memory of a sample: as float32, in its part and in the whole.
_SAMPLE_BYTES = 2 * 4
# What libsndfile says of a recording that was written as a stream.
_UNKNOWN_LENGTH = 2**63 - 1
# Of a line of a csv, as a text and as a number.
_LINE_BYTES = 100


def load_audio(
    path: Path | str, *, rate: int | None = None, max_bytes: int = MAX_BYTES
) -> tuple[Float[np.ndarray, " time"], int]:
    """Read a recording, its channels averaged.

    Args:
      path: wav, flac or ogg file.
      rate: samples a second to resample to; that of the file if None.
      max_bytes: most memory that reading it may take.

    Returns:
      float32 `[time]` in [-1, 1] for integer formats (resampling may overshoot), and samples a
      second.

    Raises:
      DataError: the file is missing, unreadable, too large, empty, holds NaN or inf, or has less
        than a hundredth of `rate` samples a second.
      ValueError: `rate` is no whole number, 1 or more.
    """
    # Loaders import no JAX: the processes that download and speak start sooner without.
    from jaxml import checks

    if rate is not None:
        checks.counts(rate=rate)
    path = _existing(path)
    try:
        channels, own_rate = read_frames(path, max_bytes=max_bytes)
        resampled = len(channels) * (rate or own_rate) // max(own_rate, 1)
        check_memory(_SAMPLE_BYTES * resampled, max_bytes)
    except (OSError, ValueError) as error:
        what, accepted = "not readable as audio", f"give {_audio()}"
        raise unreadable(path, error, what=what, accepted=accepted) from error
    # Opposite infinities have no mean; what is not finite is found below.
    with np.errstate(invalid="ignore", over="ignore"):
        waveform = _filled(path, channels.mean(axis=1))
    if rate is not None and own_rate * MOST_STRETCH < rate:
        least = f"{rate / MOST_STRETCH:g} or more"
        raise DataError(f"{path}: {own_rate} samples a second; give {least}")
    return resample(waveform, own_rate, rate or own_rate), rate or own_rate


def read_frames(
    file: Path | io.BytesIO, *, max_bytes: int = MAX_BYTES
) -> tuple[Float[np.ndarray, "time channel"], int]:
    """Return the samples of a recording and their rate.

    Args:
      file: path, or an open file.
      max_bytes: most memory that reading it may take.

    Returns:
      float32 `[time, channel]`, in [-1, 1] for integer formats, and samples a second.

    Raises:
      OSError: it cannot be opened.
      DataError: it is no recording, damaged, or too large.
    """
    with extra("speech"):
        import soundfile

    # Of a name as text it makes UTF-8, which a name need not be.
    source: Any = os.fsencode(file) if isinstance(file, Path) and os.name == "posix" else file
    try:
        with soundfile.SoundFile(source) as sound:
            # A part at a time: a header may claim any number of them.
            count = max(1, BLOCK // sound.channels)
            frame_bytes = _SAMPLE_BYTES * sound.channels
            if sound.frames != _UNKNOWN_LENGTH:
                check_memory(frame_bytes * sound.frames, max_bytes)
            parts, frames = [sound.read(count, "float32", always_2d=True)], 0
            while len(parts[-1]):
                frames += len(parts[-1])
                check_memory(frame_bytes * frames, max_bytes)
                parts.append(sound.read(count, "float32", always_2d=True))
            return np.concatenate(parts), sound.samplerate
    except soundfile.SoundFileError as error:
        raise DataError(str(error)) from error


def load_series(
    path: Path | str, *, max_bytes: int = MAX_BYTES
) -> tuple[Float[np.ndarray, " time"], int | None]:
    """Read a series from a recording, a `.npy` array or a `.csv` column.

    Args:
      path: wav, flac or ogg (channels averaged); npy with one axis of real numbers; csv with
        one column of numbers, a header line allowed, and no gaps.
      max_bytes: most memory that reading it may take.

    Returns:
      `[time]`: float32 for audio, the array's own floating dtype for npy (float64 for
      integers), float64 for csv; and the rate of audio in samples a second, else None.

    Raises:
      DataError: the suffix is another, or the file is missing, unreadable, too large, empty, of
        more than one axis or column, or holds NaN, inf or a gap.
    """
    path = _existing(path)
    suffix = path.suffix.lower()
    if suffix in AUDIO_SUFFIXES:
        return load_audio(path, max_bytes=max_bytes)
    if suffix not in (".npy", ".csv"):
        raise DataError(f"{path}: unknown suffix '{path.suffix}'; give {ACCEPTED}")
    read = _read_npy if suffix == ".npy" else _read_csv
    return _filled(path, read(path, max_bytes)), None


def resample(
    waveform: Float[np.ndarray, " time"], rate: int, target: int
) -> Float[np.ndarray, " resampled"]:
    """Return a waveform at another rate, band-limited (soxr).

    Args:
      waveform: samples `[time]`, float32.
      rate: samples a second of the waveform.
      target: samples a second wanted.

    Returns:
      float32 `[ceil(time * target / rate)]`.
    """
    if rate == target:
        return waveform
    with extra("speech"):
        import librosa

    return librosa.resample(waveform, orig_sr=rate, target_sr=target)


def _audio() -> str:
    return f"a {', '.join(AUDIO_SUFFIXES[:-1])} or {AUDIO_SUFFIXES[-1]} file"


def _existing(path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: {'not a file' if path.exists() else 'no such file'}; give {ACCEPTED}"
        )
    check_permission(path)
    return path


def _filled(path, series):
    """Return the series if there is one, and every number in it is finite."""
    if series.size == 0:
        raise DataError(f"{path}: empty; give at least one sample")
    bad = np.flatnonzero(~np.isfinite(series))
    if bad.size:
        raise DataError(
            f"{path}: {bad.size} NaN or inf (first at sample {bad[0]}); give finite numbers"
        )
    return series


def _read_npy(path, max_bytes):
    accepted = "give one axis of real numbers"
    try:
        series = read_npy(path, max_bytes=max_bytes)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, what="not readable as .npy", accepted=accepted) from error
    if series.ndim != 1:
        raise DataError(
            f"{path}: shape {series.shape}; give one axis [time], one channel at a time"
        )
    if series.dtype.kind not in "fiu":
        raise DataError(f"{path}: dtype {series.dtype}; give real numbers")
    return series if series.dtype.kind == "f" else series.astype(np.float64)


def _read_csv(path, max_bytes):
    try:
        content = path.read_bytes()
        check_memory(len(content) + _LINE_BYTES * (content.count(b"\n") + 1), max_bytes)
        # Not splitlines: a cell may hold other separators than the end of a line.
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except (UnicodeDecodeError, OSError, DataError) as error:
        accepted = "give a .csv with one column"
        raise unreadable(path, error, what="not readable as text", accepted=accepted) from error
    cells = [line.strip().strip('"').strip() for line in lines]
    while cells and not cells[-1]:
        cells.pop()
    numbers = []
    for row, cell in enumerate(cells, 1):
        if not cell:
            raise DataError(
                f"{path}: line {row} is empty, and a series has no gaps; give one number a line"
            )
        try:
            numbers.append(float(cell))
        except ValueError:
            if row == 1 and "," not in cell:
                continue
            raise DataError(
                f"{path}: line {row} is not one number ({cell[:40]}); give one column"
            ) from None
    return np.asarray(numbers, np.float64)
