"""Maps of a registration between voxels, millimetres and the axes of files.

A map is `[ndim, ndim + 1]`: a point p goes to map[:, :-1] @ p + map[:, -1].
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Num

from jaxml.commands.register_inputs import Side, point_axes
from jaxml.data.grid import Grid, on_file_grid
from jaxml.data.transforms import index_blocks, inside, sampled, sampled_vectors
from jaxml.data.volume import Volume
from jaxml.files.errors import DataError

Map = Float[np.ndarray, "ndim row"]
Sample = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Of the volume of a voxel that a plane turned to the other keeps: less is no map between them.
_LEAST = 1e-3


def from_headers(fixed: Side, moving: Side) -> Map | None:
    """Return the map of voxels that the positions of both files say; None if they say nothing.

    Raises:
      DataError: they are slices in planes across each other.
    """
    ours, theirs = fixed.image.affine, moving.image.affine
    if ours is None or theirs is None:
        return None
    ndim = fixed.image.data.ndim
    between = np.linalg.solve(theirs, ours)
    between = between[:ndim, [*range(ndim), 3]]
    sizes = math.prod(fixed.image.spacing) / math.prod(moving.image.spacing)
    if np.linalg.det(between[:, :-1]) < _LEAST * sizes:
        raise DataError(
            f"{fixed.path}, {moving.path}: by their affines they lie in planes across each other; "
            "give two slices of about one orientation"
        )
    return between


def carried(
    image: Num[np.ndarray, "*moving"],
    u: Float[np.ndarray, "*volume ndim"] | None,
    between: Map,
    shape: tuple[int, ...],
    sample: Sample = sampled,
) -> Num[np.ndarray, "*volume"]:
    """Return a moving image on the voxels of the fixed one.

    Args:
      image: image or labels, in voxels of the moving image.
      u: displacement in voxels of the fixed image; None for none.
      between: map of voxels, applied to the displaced ones.
      shape: of the fixed image.
      sample: function of an image and of fractional indices to values.

    Returns:
      Array of that shape and of the type of `image`; 0 outside of the moving image.
    """
    values = np.zeros(shape, image.dtype)
    for part, index in index_blocks(shape):
        moved = index if u is None else index + u[part]
        values[part] = sample(image, apply(between, moved))
    return values


def apply(between: Map, points: Float[np.ndarray, "*batch ndim"]) -> np.ndarray:
    """Return where a map takes points."""
    return points @ between[:, :-1].T + between[:, -1]


def landmark_distances(
    fixed: Side, moving: Side, u: Float[np.ndarray, "*volume ndim"] | None, between: Map
) -> Float[np.ndarray, " point"]:
    """Return how far the points of the fixed image come from their partners in the moving one.

    Args:
      fixed, moving: both with points.
      u: displacement in voxels of the fixed image; None for none.
      between: map of voxels, applied to the displaced points.

    Returns:
      Distances in mm, or in pixels for images that do not say where they lie.
    """
    assert fixed.points is not None and moving.points is not None
    voxels = to_voxels(fixed.points, fixed.image)
    if u is not None:
        voxels = voxels + sampled_vectors(u, voxels)
    apart = apply(between, voxels) - to_voxels(moving.points, moving.image)
    return np.linalg.norm(in_mm(apart, moving.image), axis=-1)


def outside_count(side: Side) -> int:
    """Return how many landmarks lie outside of their image."""
    assert side.points is not None
    index = to_voxels(side.points, side.image)
    return int(np.count_nonzero(~inside(index, side.image.data.shape)))


def to_voxels(points: Float[np.ndarray, "point axes"], image: Volume) -> np.ndarray:
    """Return points of a file, LPS mm or pixels with x along the last axis, in voxels."""
    ndim = image.data.ndim
    if image.affine is None:
        return points[:, ::-1]
    count = points.shape[1]
    position = points * [-1, -1, 1][:count] - image.affine[:count, 3]
    return np.linalg.solve(image.affine[:count, :count], position.T).T[:, :ndim]


def in_mm(vectors: Float[np.ndarray, "*batch ndim"], image: Volume) -> np.ndarray:
    """Return vectors in voxels of an image as vectors in mm, in voxels where it has no affine."""
    if image.affine is None:
        return vectors
    return vectors @ image.affine[:3, : image.data.ndim].T


def affine_in_mm(between: Map, fixed: Side, moving: Side) -> np.ndarray:
    """Return the map of points in RAS mm, `[axes + 1, axes + 1]`, with the axes that ITK has."""
    count = max(point_axes(fixed.image), point_axes(moving.image))
    ndim = len(between)
    # Across a slice of three axes, nothing is moved.
    voxels = np.eye(count + 1)
    voxels[:ndim, :ndim], voxels[:ndim, -1] = between[:, :-1], between[:, -1]
    ours, theirs = (_square(side.image, count) for side in (fixed, moving))
    return theirs @ voxels @ np.linalg.inv(ours)


def _square(image: Volume, count: int) -> np.ndarray:
    assert image.affine is not None
    kept = [*range(count), 3]
    return image.affine[np.ix_(kept, kept)]


def in_file_voxels(
    u: Float[np.ndarray, "*volume ndim"], grid: Grid
) -> Float[np.ndarray, "*file ndim"]:
    """Return a displacement in the axes of a file, of which those of one voxel are left out."""
    kept = sorted(grid.axes)
    vectors = on_file_grid(u, grid, vectors=True)[..., kept]
    return vectors.reshape(*(grid.shape[axis] for axis in kept), len(kept))


def map_of_file_voxels(between: Map, fixed: Grid, moving: Grid) -> Map:
    """Return a map of voxels between the axes of both files, without those of one voxel."""
    square = lambda rows: np.vstack([rows, [0] * len(between) + [1]])
    ours, theirs = square(_from_file(fixed)), square(_from_file(moving))
    return (np.linalg.inv(theirs) @ square(between) @ ours)[:-1]


def _from_file(grid: Grid) -> Map:
    """Return the map from voxels of a file, without axes of one voxel, to those in use."""
    kept = sorted(grid.axes)
    rows = np.zeros((len(kept), len(kept) + 1))
    for row, axis in zip(rows, grid.axes, strict=True):
        row[kept.index(axis)] = -1 if grid.flipped[axis] else 1
        row[-1] = grid.shape[axis] - 1 if grid.flipped[axis] else 0
    return rows
