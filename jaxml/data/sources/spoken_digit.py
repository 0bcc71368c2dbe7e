"""The spoken_digit data set of TensorFlow Datasets, without TensorFlow.

TFDS fetches the archive; its builder would need TensorFlow, so the recordings are read here.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxml.data.audio import read_frames
from jaxml.data.sources import download
from jaxml.files.errors import DataError
from jaxml.files.tar import read_tar

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
    return _read(download.fetch(NAME, stall_seconds))


def _read(archive: Path):
    recordings = {}
    try:
        for name, content in read_tar(archive, r"(?:.*/)?recordings/[^/]*\.wav").items():
            channels, rate = read_frames(io.BytesIO(content))
            digit, speaker, take = Path(name).stem.split("_")
            if rate != RATE or channels.shape[1] != 1 or not len(channels):
                raise DataError(f"{Path(name).name} is not {RATE} Hz mono")
            recordings[speaker, int(digit), int(take)] = channels[:, 0]
    except (OSError, ValueError) as error:
        raise DataError(f"{archive}: not the archive of {NAME} ({error}); delete it") from error
    if not recordings:
        raise DataError(f"{archive}: no recordings in it; delete it")
    places = sorted(recordings)
    waveforms = [recordings[place] for place in places]
    return waveforms, [speaker for speaker, _, _ in places], [digit for _, digit, _ in places]
