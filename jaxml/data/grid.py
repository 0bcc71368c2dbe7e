"""The grid of an image file, and the way between its axes and those that images are used in."""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped

from jaxml.extras import extra
from jaxml.files.errors import DataError


class SeveralError(DataError):
    """A file of several images, none of which is asked for; it may be whole."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """An image as a reader of one format returns it.

    Attributes:
      data: its numbers, in the axes of the file.
      affine: voxel index of the file to position in mm along right, anterior, superior,
        `[4, 4]`; None for a file without one.
      dtype: of the numbers in the file.
      slope: what those were multiplied by.
      intercept: what was then added.
      code: what the positions are of, as NIfTI numbers it: 1 scanner, 2 another image.
      notes: what was changed or assumed in reading, for the user.
    """

    data: Shaped[np.ndarray, "..."]
    affine: Float[np.ndarray, "4 4"] | None = None
    dtype: np.dtype | None = None
    slope: float = 1.0
    intercept: float = 0.0
    code: int = 2
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Grid:
    """The voxels of a file, and how its axes became those of the image in use.

    Attributes:
      shape: of the file, 2 or 3 axes.
      affine: voxel index of the file to position in mm, as in `Stored`.
      axes: for each axis of the image in use, the axis of the file that it is.
      flipped: for each axis of the file, whether its order was reversed.
      code: as in `Stored`.
    """

    shape: tuple[int, ...]
    affine: Float[np.ndarray, "4 4"] | None
    axes: tuple[int, ...]
    flipped: tuple[bool, ...]
    code: int = 2


def chosen(count: int, volume: int | None) -> int:
    """Return which image of a file to read.

    Args:
      count: how many it has.
      volume: which is asked for, from 0; of no account where there is one.

    Returns:
      0 for a file of one image.

    Raises:
      SeveralError: there are several, and none or another one is asked for.
    """
    if count == 1:
        return 0
    if volume is None or not 0 <= volume < count:
        asked = "" if volume is None else f", none is number {volume}"
        raise SeveralError(
            f"{count} images in one file{asked}: give volume, in a terminal --volume, as a number "
            f"from 0 to {count - 1} to read that one"
        )
    return volume


def turned(
    data: Shaped[np.ndarray, "..."], stored: Stored
) -> tuple[Shaped[np.ndarray, "..."], Float[np.ndarray, "4 4"] | None, Grid]:
    """Return an image in the axes in which it is used, its affine, and the way back.

    Axes of one voxel are left out; with an affine, the others are ordered and reversed to point
    right, anterior, superior as nearly as they can.

    Args:
      data: image of 2 or 3 axes, with the shape of the file or one axis more of one voxel.
      stored: where it lies.

    Returns:
      The image; its affine `[4, 4]`, of which the columns of 2-D images are those of their axes
      and then that of the axis across; and the `Grid`.

    Raises:
      DataError: the affine has no inverse.
    """
    shape = data.shape
    order, signs = [*range(data.ndim)], [1] * data.ndim
    if stored.affine is not None:
        order, signs = _closest(stored.affine, data.ndim)
    for axis in (a for a, sign in enumerate(signs) if sign < 0):
        data = np.flip(data, axis)
    kept = [a for a in order if shape[a] > 1]
    grid = Grid(shape, stored.affine, (*kept,), (*(s < 0 for s in signs),), stored.code)
    data = np.transpose(data, (*kept, *(a for a in order if a not in kept)))
    return data.reshape([shape[a] for a in kept]), _affine(grid), grid


def on_file_grid(
    values: Shaped[np.ndarray, "..."], grid: Grid, *, vectors: bool = False
) -> Shaped[np.ndarray, "..."]:
    """Return an array in the axes of the file, the way back from `turned`.

    Args:
      values: `[*volume]`, or vectors `[*volume, ndim]` in voxels along the axes of the volume.
      grid: of the file.
      vectors: whether these are vectors; theirs have as many components as the file has axes.

    Returns:
      Array of the shape of the file, with the vectors in voxels along the axes of the file.
    """
    if vectors:
        parts = np.zeros((*values.shape[:-1], len(grid.shape)), values.dtype)
        for component, axis in enumerate(grid.axes):
            sign = -1 if grid.flipped[axis] else 1
            parts[..., axis] = sign * values[..., component]
        moved = [on_file_grid(parts[..., a], grid) for a in range(len(grid.shape))]
        return np.stack(moved, axis=-1)
    values = np.transpose(values, np.argsort(grid.axes)).reshape(grid.shape)
    return np.flip(values, tuple(a for a, turned_back in enumerate(grid.flipped) if turned_back))


def _affine(grid: Grid) -> Float[np.ndarray, "4 4"] | None:
    """Return the affine of the image in use."""
    if grid.affine is None:
        return None
    affine = np.array(grid.affine, float)
    for axis, count in enumerate(grid.shape):
        if grid.flipped[axis]:
            affine[:3, 3] += affine[:3, axis] * (count - 1)
            affine[:3, axis] *= -1
    columns = [*grid.axes, *(a for a in range(3) if a not in grid.axes), 3]
    return affine[:, columns]


def _closest(affine, ndim) -> tuple[list[int], list[int]]:
    """Return the axes of a file in the order right, anterior, superior, and their directions."""
    with extra("experiments"):
        from nibabel.orientations import io_orientation

    # An affine beyond floats is infinite, or no number.
    with np.errstate(all="ignore"):
        size = abs(np.linalg.det(affine)) if np.isfinite(affine).all() else np.nan
        if not 0 < size < np.inf:
            raise DataError("its affine has no inverse; give a file with a valid one")
        world, signs = io_orientation(affine).T
    if np.isnan(world).any():
        raise DataError("its affine has no inverse; give a file with a valid one")
    order = [int(a) for a in np.argsort(world) if a < ndim]
    return order, [int(sign) for sign in signs[:ndim]]


def names_of_axes(affine: Float[np.ndarray, "4 4"]) -> str:
    """Return where the axes point as letters, such as LPS.

    Args:
      affine: voxel index to position in mm along right, anterior, superior.
    """
    with extra("experiments"):
        import nibabel

    return "".join(map(str, nibabel.aff2axcodes(affine)))


def is_axial(affine: Float[np.ndarray, "4 4"]) -> bool:
    """Return whether the first two axes span the plane of right and anterior.

    Args:
      affine: voxel index to position in mm.
    """
    level = np.allclose(affine[2, :2], 0, atol=1e-6)
    return bool(level and np.linalg.matrix_rank(affine[:2, :2]) == 2)


def lifted(matrix: np.ndarray, offset: np.ndarray, to_ras: np.ndarray) -> np.ndarray:
    """Return the affine `[4, 4]` of an image of 2 or 3 axes from the directions of its axes.

    Args:
      matrix: `[ndim, ndim]`, whose columns are the steps of the axes.
      offset: position of the first voxel.
      to_ras: sign of each direction of space that makes it point right, anterior, superior.
    """
    affine = np.eye(4)
    count = len(offset)
    affine[:count, :count] = matrix * to_ras[:count, None]
    affine[:count, 3] = offset * to_ras[:count]
    return affine
