"""Spatial transforms of any tool: affine maps and displacement fields, and points through them.

A transform maps points of the fixed image to points of the moving one. In Python they are in mm
along the axes right, anterior, superior (RAS), as in nibabel; ITK's files have left and posterior
(LPS) in their place.
"""

import dataclasses
import functools
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from jaxml.files.errors import DataError, check_permission, unreadable
from jaxml.files.limits import MAX_BYTES

Unit = Literal["mm", "voxels"]
# Points that are mapped at a time.
_BLOCK = 2**18
ACCEPTED = (
    "an affine (.mat, .txt or .tfm of ITK and ANTs) or a displacement field "
    "(.nii or .nii.gz with vectors in the fifth axis, .nrrd or .mha, or fields.npz of jaxml "
    "register)"
)


@dataclasses.dataclass(frozen=True)
class Affine:
    """A map of points x to A x + b.

    Attributes:
      matrix: A and b over a row of zeros and a one, `[ndim + 1, ndim + 1]`.
      unit: of the points on both sides: "mm" (RAS), or "voxels" for images without an affine.
    """

    matrix: Float[np.ndarray, "rows rows"]
    unit: Unit = "mm"


@dataclasses.dataclass(frozen=True)
class Field:
    """A map of points x to x + d(x), where d is linear between voxels of a grid.

    Outside of the grid, which reaches half a voxel beyond the outer voxel centers, d is 0, as
    ITK has it.

    Attributes:
      vectors: d at the voxels, `[H, W, 2]` or `[D, H, W, 3]`, in `unit`.
      affine: voxel index to position in `unit`, `[4, 4]`; the identity where that is voxels.
      unit: "mm" (RAS), or "voxels" for images without an affine.
    """

    vectors: Float[np.ndarray, "*volume ndim"]
    affine: Float[np.ndarray, "4 4"]
    unit: Unit = "mm"


Transform = Affine | Field
# What takes a displacement in voxels and returns that of the inverse map.
Inverse = Callable[[np.ndarray], np.ndarray]


def load_transform(path: Path | str, *, max_bytes: int = MAX_BYTES) -> tuple[Transform, ...]:
    """Read a transform of this library, of ITK or of ANTs.

    Args:
      path: an affine as .mat, .txt or .tfm, or a composite of affines as .tfm; a displacement
        field as NIfTI with five axes, NRRD or MetaImage; or fields.npz.
      max_bytes: most memory that reading it may take.

    Returns:
      Transforms in the order in which they are applied to a point of the fixed image.

    Raises:
      DataError: the file is missing, damaged, too large, or no transform of these kinds.
    """
    path = Path(path)
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise DataError(f"{path}: {what}; give {ACCEPTED}")
    check_permission(path)
    accepted = f"give {ACCEPTED}"
    try:
        return _read(path, max_bytes)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        what = "not readable as a transform"
        raise unreadable(path, error, what=what, accepted=accepted) from error


def map_points(
    transforms: Sequence[Transform], points: Float[np.ndarray, "*batch ndim"]
) -> Float[np.ndarray, "*batch ndim"]:
    """Return where points of the fixed image lie in the moving one.

    The first transform is applied first, as antsApplyTransforms takes them: a warp on the grid
    of the fixed image stands before the affine. ITK's CompositeTransform lists them in reverse.

    Args:
      transforms: as of `load_transform`, of one unit.
      points: in that unit.

    Returns:
      Array of the same shape, float64.

    Raises:
      ValueError: points of another number of axes than a transform has.
    """
    # Loaders import no JAX: it is loaded with the checks.
    from jaxml import checks

    if any(axes_of(transform) != points.shape[-1] for transform in transforms):
        raise checks.refused("points", points, f"[..., {axes_of(transforms[0])}]")
    points = np.asarray(points, np.float64)
    return functools.reduce(
        lambda points, transform: _mapped(transform, points), transforms, points
    )


def inverted(transforms: Sequence[Transform], inverse: Inverse) -> tuple[Transform, ...]:
    """Return transforms that undo others.

    Args:
      transforms: as of `load_transform`.
      inverse: function from a displacement in voxels to that of the inverse map, such as
        `registration.inverse`.

    Returns:
      The inverse of each, in reverse order; that of a field lies on its own grid.
    """
    return tuple(_inverted(transform, inverse) for transform in reversed(transforms))


def in_voxels(field: Field) -> Float[np.ndarray, "*volume ndim"]:
    """Return the displacement of a field in voxels of its grid, along the axes of its array."""
    return field.vectors @ np.linalg.inv(axes(field.affine, field.vectors.ndim - 1)).T


def from_voxels(u: Float[np.ndarray, "*volume ndim"], field: Field) -> Field:
    """Return a displacement in voxels as a field on the grid of another, in its type of numbers."""
    vectors = np.asarray(u, np.float64) @ axes(field.affine, u.ndim - 1).T
    return dataclasses.replace(field, vectors=vectors.astype(field.vectors.dtype))


def axes_of(transform: Transform) -> int:
    """Return the number of axes of a transform."""
    if isinstance(transform, Field):
        return transform.vectors.shape[-1]
    return len(transform.matrix) - 1


def axes(affine: Float[np.ndarray, "4 4"], ndim: int) -> Float[np.ndarray, "ndim ndim"]:
    """Return the steps in mm along the axes of an image, a column an axis."""
    return np.asarray(affine, np.float64)[:ndim, :ndim]


def to_index(
    affine: Float[np.ndarray, "4 4"], points: Float[np.ndarray, "*batch ndim"]
) -> Float[np.ndarray, "*batch ndim"]:
    """Return positions as fractional voxel indices of an image with an affine."""
    ndim = points.shape[-1]
    return (points - affine[:ndim, 3]) @ np.linalg.inv(axes(affine, ndim)).T


def from_index(
    affine: Float[np.ndarray, "4 4"], index: Float[np.ndarray, "*batch ndim"]
) -> Float[np.ndarray, "*batch ndim"]:
    """Return the positions of voxel indices of an image with an affine."""
    ndim = index.shape[-1]
    return index @ axes(affine, ndim).T + affine[:ndim, 3]


def inside(
    index: Float[np.ndarray, "*batch ndim"], shape: tuple[int, ...]
) -> Bool[np.ndarray, "*batch"]:
    """Return which voxel indices lie in an image, up to half a voxel beyond its outer centers."""
    return np.asarray(((index >= -0.5) & (index < np.array(shape) - 0.5)).all(axis=-1))


def sampled(
    image: Float[np.ndarray, "*volume"], index: Float[np.ndarray, "*batch ndim"]
) -> Float[np.ndarray, "*batch"]:
    """Return an image at fractional voxel indices, linear between voxels and 0 outside of it."""
    from scipy.ndimage import map_coordinates

    # Half a voxel beyond the outer centers holds the value of these.
    coordinates = index.reshape(-1, image.ndim).T
    values = map_coordinates(image, coordinates, np.float64, order=1, mode="nearest")
    return np.where(inside(index, image.shape), values.reshape(index.shape[:-1]), 0)


def sampled_vectors(
    vectors: Float[np.ndarray, "*volume ndim"], index: Float[np.ndarray, "*batch ndim"]
) -> Float[np.ndarray, "*batch ndim"]:
    """Return vectors at fractional voxel indices, as `sampled` returns an image."""
    return np.stack([sampled(part, index) for part in np.moveaxis(vectors, -1, 0)], axis=-1)


def index_blocks(
    shape: tuple[int, ...],
) -> Iterator[tuple[slice, Float[np.ndarray, "*block ndim"]]]:
    """Yield rows of a volume, some at a time, with the voxel indices in them: a slice and floats.

    Args:
      shape: of the volume.
    """
    rows = max(1, _BLOCK // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):
        part = slice(start, min(start + rows, shape[0]))
        index = np.moveaxis(np.indices((part.stop - start, *shape[1:]), float), 0, -1)
        index[..., 0] += start
        yield part, index


def _read(path: Path, max_bytes: int) -> tuple[Transform, ...]:
    # They make what is defined here.
    from jaxml.data.affine_files import read_matlab, read_text
    from jaxml.data.field_files import read_components, read_field, read_fields
    from jaxml.data.metaimage import SUFFIXES as META
    from jaxml.data.metaimage import read_metaimage
    from jaxml.data.nrrd import SUFFIXES as NRRD
    from jaxml.data.nrrd import read_nrrd

    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return (read_field(path, max_bytes),)
    for suffixes, read in ((NRRD, read_nrrd), (META, read_metaimage)):
        if name.endswith(suffixes):
            return (read_components(path, max_bytes, read),)
    if name.endswith(".npz"):
        return read_fields(path, max_bytes)
    if name.endswith(".mat"):
        return (read_matlab(path),)
    if name.endswith((".txt", ".tfm")):
        return read_text(path)
    if name.endswith((".h5", ".hdf5")):
        raise DataError(
            "HDF5 is taken apart by CompositeTransformUtil --disassemble FILE PREFIX, of ANTs"
        )
    raise DataError("unknown suffix")


def _mapped(transform: Transform, points: np.ndarray) -> np.ndarray:
    if isinstance(transform, Affine):
        return points @ transform.matrix[:-1, :-1].T + transform.matrix[:-1, -1]
    index = to_index(transform.affine, points)
    return points + sampled_vectors(transform.vectors, index)


def _inverted(transform: Transform, inverse: Inverse) -> Transform:
    if isinstance(transform, Affine):
        return dataclasses.replace(transform, matrix=np.linalg.inv(transform.matrix))
    return from_voxels(np.asarray(inverse(in_voxels(transform))), transform)
