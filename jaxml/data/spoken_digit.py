"""The spoken_digit data set of TensorFlow Datasets, without TensorFlow.

TFDS names, fetches, verifies and caches the archive; its builder would need TensorFlow, so
the recordings are read from the archive here. A download has no time limit of its own in
TFDS: it runs in a process (`python -m jaxml.data.spoken_digit FOLDER`) that is ended when
nothing arrives.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxml.data.errors import DataError

NAME = "spoken_digit"
RATE = 8000


def load_spoken_digit(
    stall_seconds: float,
) -> tuple[list[Float[np.ndarray, " time"]], list[str], list[int]]:
    """Return the recordings of English digits, from the cache of TFDS or from its source.

    Args:
      stall_seconds: end the download when no byte arrives for so long.

    Returns:
      float32 waveforms in [-1, 1] at 8000 Hz, the speaker of each and the digit said.

    Raises:
      DataError: TFDS is not installed, the download stalls or fails, or the archive is not
        what it should be.
    """
    downloads = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"), "downloads")
    return _read(_fetch(downloads.expanduser(), stall_seconds))


def _fetch(downloads: Path, stall_seconds: float) -> Path:
    """Return the archive, fetched by a process that is ended when it stalls."""
    before = _unfinished(downloads)
    child = subprocess.Popen(
        [sys.executable, "-m", "jaxml.data.spoken_digit", str(downloads)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    arrived, since = 0, time.monotonic()
    try:
        while True:
            try:
                out, said = child.communicate(timeout=min(0.5, stall_seconds))
                break
            except subprocess.TimeoutExpired:
                size = sum(_size(folder) for folder in _unfinished(downloads) - before)
                if size != arrived:
                    arrived, since = size, time.monotonic()
                elif time.monotonic() - since > stall_seconds:
                    reason = f"nothing arrived for {stall_seconds:g} s"
                    raise DataError(f"TFDS {NAME}: {reason}") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
        if child.returncode:
            for folder in _unfinished(downloads) - before:
                shutil.rmtree(folder, ignore_errors=True)
    if child.returncode:
        reason = (said.strip() or f"exit status {child.returncode}").splitlines()[-1]
        raise DataError(f"TFDS {NAME}: {reason[:200]}")
    return Path(out.strip().splitlines()[-1])


def _unfinished(downloads: Path) -> set[Path]:
    """Return the folders that TFDS writes downloads into until they are complete."""
    return set(downloads.glob(f"{NAME}/*.tmp.*"))


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed meanwhile
            pass
    return total


def _serve(downloads: Path) -> None:
    """Print the path of the archive, fetched unless TFDS has it."""
    import tensorflow_datasets as tfds

    known = dict(tfds.builder_cls(NAME).url_infos or {})
    manager = tfds.download.DownloadManager(
        download_dir=downloads, url_infos=known, dataset_name=NAME
    )
    print(manager.download(*known))


def _read(archive: Path):
    import soundfile

    found = {}
    try:
        with tarfile.open(archive) as files:
            for file in files.getmembers():
                name = Path(file.name)
                if name.suffix != ".wav" or name.parent.name != "recordings":
                    continue
                content = files.extractfile(file)
                assert content is not None
                waveform, rate = soundfile.read(io.BytesIO(content.read()), dtype="float32")
                digit, speaker, take = name.stem.split("_")
                if rate != RATE or waveform.ndim != 1 or not len(waveform):
                    raise DataError(f"{archive}: {name.name} is not {RATE} Hz mono")
                found[speaker, int(digit), int(take)] = waveform
    except (tarfile.TarError, OSError, EOFError, ValueError, soundfile.SoundFileError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{archive}: not the archive of {NAME} ({error}); delete it") from error
    if not found:
        raise DataError(f"{archive}: no recordings in it; delete it")
    order = sorted(found)
    return [found[key] for key in order], [key[0] for key in order], [key[1] for key in order]


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
