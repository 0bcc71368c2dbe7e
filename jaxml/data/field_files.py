"""Displacement fields in files: of ITK and ANTs, and fields.npz of `jaxml register`."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxml.data.affine_files import matrix_of
from jaxml.data.grid import Grid, SeveralError, Stored
from jaxml.data.nifti import checked_header, kind_of, vector_bytes
from jaxml.data.transforms import Affine, Field
from jaxml.extras import extra
from jaxml.files.errors import DataError
from jaxml.files.limits import check_memory
from jaxml.files.names import one_line
from jaxml.files.npz import read_npz


def read_field(path: Path, max_bytes: int) -> Field:
    """Read a displacement field of ITK as NIfTI: vectors in mm along the fifth axis, LPS.

    Raises:
      DataError: no such field, damaged, or too large.
      OSError, EOFError, ValueError, zlib.error: damaged.
    """
    image = _opened(path, max_bytes)
    shape = image.shape
    ndim = shape[4] if len(shape) == 5 else 0
    grid = shape[:3] if ndim == 3 else shape[:2]
    if ndim not in (2, 3) or shape[len(grid) : 4] != (1,) * (4 - ndim):
        accepted = "[D, H, W, 1, 3] or [H, W, 1, 1, 2]"
        raise DataError(f"shape {list(shape)}, where ITK's fields have {accepted}")
    if image.header.get_intent()[2].startswith("NREG_TRANS"):
        raise DataError("a transform of NiftyReg, whose vectors are others than ITK's")
    # What overflows is found below, as infinite.
    with np.errstate(all="ignore"):
        stored = np.asanyarray(image.dataobj).reshape(*grid, ndim)
        size = abs(np.linalg.det(image.affine[:ndim, :ndim]))
    vectors = _single_or_double(stored)
    if not 0 < size < np.inf:
        raise DataError("its affine has no inverse")
    vectors[..., :2] *= -1
    return Field(vectors, np.asarray(image.affine, np.float64))


def read_components(path: Path, max_bytes: int, read: Callable[..., Stored]) -> Field:
    """Read a displacement field of ITK from an image whose voxels are vectors in LPS mm.

    Args:
      path: of a file of NRRD or MetaImage.
      max_bytes: most memory that a component may take.
      read: reader of the format, for which the components are images of one file.

    Raises:
      DataError: no such field, damaged, or too large.
    """
    first = read(path, volume=0, max_bytes=max_bytes)
    ndim = first.data.ndim
    if first.affine is None or ndim not in (2, 3):
        raise DataError(f"shape {list(first.data.shape)} without directions of its axes")
    rest = [read(path, volume=k, max_bytes=max_bytes).data for k in range(1, ndim)]
    # One component more must not be there: of an image of one, any number would be that.
    with contextlib.suppress(SeveralError):
        read(path, volume=ndim, max_bytes=max_bytes)
        raise DataError(f"an image of {ndim} axes whose voxels are no vectors of {ndim} components")
    vectors = _single_or_double(np.stack([first.data, *rest], axis=-1))
    vectors[..., :2] *= -1
    return Field(vectors, np.asarray(first.affine, np.float64))


def read_fields(path: Path, max_bytes: int) -> tuple[Field | Affine, ...]:
    """Read fields.npz of `jaxml register`: a displacement, and maybe an affine, in voxels.

    Raises:
      DataError: no such arrays, damaged, or too large.
    """
    arrays = read_npz(path, "displacement", "affine", max_bytes=max_bytes)
    u = arrays.get("displacement", np.zeros(0))
    ndim = u.ndim - 1
    if ndim not in (2, 3) or u.shape[-1] != ndim or min(u.shape[:-1]) < 3 or u.dtype.kind != "f":
        raise DataError("no array displacement [H, W, 2] or [D, H, W, 3]")
    field = Field(_single_or_double(u), np.eye(4), "voxels")
    if "affine" not in arrays:
        return (field,)
    matrix = arrays["affine"]
    if matrix.shape != (ndim, ndim + 1) or matrix.dtype.kind != "f":
        raise DataError(f"affine of shape {list(matrix.shape)}, not {[ndim, ndim + 1]}")
    return field, Affine(matrix_of(matrix[:, :-1], matrix[:, -1]), "voxels")


def field_bytes(
    vectors: Float[np.ndarray, "*volume ndim"], affine: Float[np.ndarray, "4 4"]
) -> bytes:
    """Return a gzipped NIfTI-1 file of a displacement field, as ITK and ANTs read it.

    Args:
      vectors: displacement in RAS mm, `[H, W, 2]` or `[D, H, W, 3]`, float32 or float64, which is
        the type of the file.
      affine: voxel index to RAS mm, `[4, 4]`; the file has this grid and orientation.

    Returns:
      The content of the file: vectors in LPS mm along the fifth axis, with their intent.
    """
    return vector_bytes(vectors, file_grid(vectors.shape[:-1], affine))


def file_grid(shape: tuple[int, ...], affine: Float[np.ndarray, "4 4"] | None) -> Grid:
    """Return the grid of an image that is used in the axes of its file.

    Args:
      shape: of 2 or 3 axes.
      affine: voxel index to RAS mm, if there is one.
    """
    return Grid(shape, affine, (*range(len(shape)),), (False,) * len(shape))


def _opened(path: Path, max_bytes: int) -> Any:
    """Return the image of nibabel, whose vectors have not been read."""
    with extra("experiments"):
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError

    try:
        kind, _, _ = kind_of(path)
        shape, dtype, start = checked_header(path, path, kind.header_class)
        # As stored, and as the float that is returned; what lies before it is read too.
        check_memory(start + math.prod(shape) * (dtype.itemsize + 8), max_bytes)
        with np.errstate(all="ignore"):
            return kind.load(path)
    except (ImageFileError, HeaderDataError, KeyError, OverflowError, StopIteration) as error:
        raise DataError(f"no NIfTI image: {one_line(error)}") from error


def _single_or_double(stored: np.ndarray) -> np.ndarray:
    """Return finite vectors in the float of 4 or 8 bytes that holds the numbers of the file."""
    double = stored.dtype.kind != "f" or stored.itemsize > 4
    vectors = stored.astype(np.float64 if double else np.float32)
    bad = np.count_nonzero(~np.isfinite(vectors))
    if bad:
        raise DataError(f"{bad} numbers are NaN or infinite")
    return vectors
