"""A corpus of many sentences by few speakers: the user's, else fetched, else synthesised.

Every corpus is at 8 kHz, so that scales and features mean the same whatever the source.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxml.data.audio import AUDIO_SUFFIXES, load_audio
from jaxml.data.folder import named_folder
from jaxml.files.errors import DataError, unreadable
from jaxml.files.limits import MAX_BYTES, check_memory
from jaxml.files.npz import read_npz

RATE = 8000
PREPARED = "bangla5x80_8k.npz"
ARRAYS = ("audio", "offsets", "speaker", "text")
LAYOUT = (
    "an npz with audio (int16, joined), offsets, speaker and text at 8 kHz, "
    f"or SPEAKER/*{'|*'.join(AUDIO_SUFFIXES)} of at least 2 speakers"
)


@dataclasses.dataclass(frozen=True)
class SpeechCorpus:
    """Utterances, who spoke each and which sentence it is.

    Attributes:
      audio: one float32 `[time]` in [-1, 1] an utterance.
      rate: samples a second.
      speaker: `[utterance]`, index into `speakers`.
      sentence: `[utterance]`, number of the sentence, for folds without a shared sentence.
      speakers: names.
      source: one line that says what was used.
    """

    audio: tuple[Float[np.ndarray, " _"], ...]
    rate: int
    speaker: Int[np.ndarray, " utterance"]
    sentence: Int[np.ndarray, " utterance"]
    speakers: tuple[str, ...]
    source: str


def load_speech_corpus(
    folder: Path | str | None, *, download_seconds: float = 15.0, max_bytes: int = MAX_BYTES
) -> SpeechCorpus:
    """Return the first corpus there is: folder, TFDS `spoken_digit`, synthesised Bengali.

    Args:
      folder: the user's data, else the folder that the variable JAXML_DATA names: an npz file
        (`audio` int16 joined, `offsets` n+1, `speaker`, `text` the sentence's number, 8 kHz),
        or a folder with one, in it or in its `speech` folder, or with `SPEAKER/*.wav|flac|ogg`,
        where equal file names are the same sentence. Files of other rates are resampled.
      download_seconds: a download that stalls for so long is ended; the log says so.
      max_bytes: most memory that the recordings may take.

    Returns:
      The corpus at 8 kHz.

    Raises:
      DataError: a named folder is missing or holds no usable speech, or too much; without one,
        no source worked.
    """
    named = named_folder(folder)
    if named is not None:
        return _from_folder(named, max_bytes)
    reasons = []
    for source in (lambda: _fetched(download_seconds), _synthesised):
        try:
            return source()
        except DataError as error:
            reasons.append(str(error))
            logging.getLogger(__name__).warning("%s: trying the next source of speech", error)
    raise DataError(f"no speech ({'; '.join(reasons)}); name a folder with {LAYOUT}")


def _from_folder(folder: Path, max_bytes: int) -> SpeechCorpus:
    if not folder.exists():
        raise DataError(f"{folder}: no such folder; give {LAYOUT}")
    if folder.is_file():
        return _from_npz(folder, max_bytes)
    inner = folder / "speech"
    folder = inner if inner.is_dir() else folder
    prepared = folder / PREPARED
    archives = [prepared] if prepared.exists() else sorted(folder.glob("*.npz"))
    if len(archives) > 1:
        names = ", ".join(path.name for path in archives)
        raise DataError(f"{folder}: several npz files ({names}); name one of them")
    if archives:
        return _from_npz(archives[0], max_bytes)
    return _from_recordings(folder, max_bytes)


def _from_npz(path: Path, max_bytes: int) -> SpeechCorpus:
    try:
        arrays = read_npz(path, *ARRAYS, max_bytes=max_bytes)
        # The recordings again, as float32.
        taken = sum(array.nbytes for array in arrays.values())
        check_memory(taken + 4 * arrays.get("audio", np.empty(0)).size, max_bytes)
    except (OSError, ValueError) as error:
        accepted = f"give {LAYOUT}"
        raise unreadable(path, error, what="not readable", accepted=accepted) from error
    return _from_arrays(arrays, str(path))


def _from_arrays(arrays: Mapping[str, np.ndarray], source: str) -> SpeechCorpus:
    """Return the corpus of joined recordings, if the arrays describe one."""
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise DataError(f"{source}: no array {missing[0]}; give {LAYOUT}")
    audio, offsets, text = arrays["audio"], arrays["offsets"], arrays["text"]
    rows = (len(offsets) - 1,) if offsets.ndim == 1 else ()
    integers = all(a.dtype.kind in "iu" for a in (offsets, text))
    if (
        not integers
        or audio.dtype != np.int16
        or audio.ndim != 1
        or not rows
        or rows[0] < 1
        or arrays["speaker"].shape != rows
        or text.shape != rows
        or offsets[0] != 0
        or offsets[-1] != len(audio)
        or (offsets[1:] <= offsets[:-1]).any()
        or arrays["speaker"].dtype.kind not in "iuUS"
    ):
        raise DataError(f"{source}: its arrays do not describe recordings; give {LAYOUT}")
    waveforms = np.split(audio.astype(np.float32) / 32768, offsets[1:-1])
    speaker = arrays["speaker"]
    speaker = np.char.decode(speaker, "latin1") if speaker.dtype.kind == "S" else speaker
    return _corpus(waveforms, speaker.astype(str), text, source)


def _from_recordings(folder: Path, max_bytes: int) -> SpeechCorpus:
    files = sorted(
        file
        for file in folder.glob("*/*")
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(".")
    )
    if len({file.parent for file in files}) < 2:
        raise DataError(f"{folder}: no speech of 2 speakers or more; give {LAYOUT}")
    stems = sorted({file.stem for file in files})
    waveforms, taken = [], 0
    for file in files:
        waveforms.append(load_audio(file, rate=RATE, max_bytes=max_bytes)[0])
        taken += waveforms[-1].nbytes
        check_memory(taken, max_bytes, prefix=f"{folder}: ")
    sentence = [stems.index(file.stem) for file in files]
    return _corpus(waveforms, [file.parent.name for file in files], sentence, str(folder))


def _fetched(download_seconds: float) -> SpeechCorpus:
    from jaxml.data.sources import spoken_digit

    waveforms, speaker, digit = spoken_digit.load_spoken_digit(download_seconds)
    return _corpus(waveforms, speaker, digit, "TFDS spoken_digit, English digits")


def _synthesised() -> SpeechCorpus:
    from jaxml.data.sources import bengali

    return _from_arrays(bengali.spoken_by_voices(RATE), "espeak-ng, synthesised Bengali voices")


def _corpus(waveforms, names, sentence, what: str) -> SpeechCorpus:
    speakers, speaker = np.unique(np.asarray(names), return_inverse=True)
    if len(speakers) < 2:
        raise DataError(f"{what}: one speaker only; give {LAYOUT}")
    return SpeechCorpus(
        audio=tuple(waveforms),
        rate=RATE,
        speaker=speaker,
        sentence=np.asarray(sentence),
        speakers=tuple(str(name) for name in speakers),
        source=f"{what} ({len(waveforms)} utterances of {len(speakers)} speakers)",
    )
