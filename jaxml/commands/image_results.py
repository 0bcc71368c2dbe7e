"""Images as results: in the format and type of numbers of the files that were given."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Num

from jaxml.data.grid import Grid
from jaxml.data.nifti import nifti_bytes
from jaxml.data.volume import PICTURES, Volume, as_stored
from jaxml.files.write import write_whole

# NIfTI has neither of these types; all of their numbers are among those of the next.
_WIDER = {"bool": np.uint8, "float16": np.float32}


def write_image(
    stem: Path, values: Num[np.ndarray, "*volume"], source: Volume, grid: Grid, like: Path
) -> tuple[Path, np.dtype]:
    """Write an image in the type of numbers of the one that it was made of.

    Args:
      stem: path of the file without its suffix: .nii.gz where the grid has an affine, .png where
        `like` is a picture and has such numbers, else .npy.
      values: on the voxels of the grid.
      source: the image, as it was read.
      grid: where the voxels lie.
      like: path of an image in the format that is wanted.

    Returns:
      Path of the file, and the type of its numbers.

    Raises:
      OSError: it cannot be written.
    """
    stored = as_stored(np.asarray(values, np.float64), source)
    if grid.affine is None and (source.slope, source.intercept) != (1, 0):
        # Only NIfTI files have room for these.
        stored = values
    if grid.affine is not None:
        stored = stored.astype(_WIDER.get(stored.dtype.name, stored.dtype), copy=False)
        content = nifti_bytes(stored, grid, slope=source.slope, intercept=source.intercept)
        suffix = ".nii.gz"
    elif like.name.lower().endswith(PICTURES) and stored.dtype in (np.bool_, np.uint8, np.uint16):
        content, suffix = _png(stored), ".png"
    else:
        buffer = io.BytesIO()
        np.save(buffer, stored)
        content, suffix = buffer.getvalue(), ".npy"
    path = stem.with_name(stem.name + suffix)
    write_whole(path, content)
    return path, stored.dtype


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()
