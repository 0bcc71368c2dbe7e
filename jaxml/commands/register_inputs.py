"""The files of a registration, read and held against each other."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from jaxml.data.grid import Grid, Stored, on_file_grid, turned
from jaxml.data.nifti import itk_axes
from jaxml.data.points import load_points
from jaxml.data.volume import Volume, load_labels, load_volume
from jaxml.files.errors import DataError

# Of an image along each axis: what the windows and the levels of a registration need.
SHORTEST = 4


@dataclasses.dataclass(frozen=True)
class Files:
    """Paths of what belongs to one image of a pair.

    Attributes:
      image: the image.
      channels: further images on its voxels.
      mask: of the voxels that count, those that are not 0.
      labels: of its voxels.
      landmarks: points in it.
    """

    image: Path
    channels: Sequence[Path] = ()
    mask: Path | None = None
    labels: Path | None = None
    landmarks: Path | None = None


@dataclasses.dataclass(frozen=True)
class Side:
    """One image of a pair with what belongs to it.

    Attributes:
      image: the image.
      paths: of its file and of those of the further channels.
      channels: the image and further ones of its shape.
      mask: which voxels count; None where all do.
      labels: of its voxels, int32.
      points: landmarks as they stand in their file.
    """

    image: Volume
    paths: tuple[Path, ...]
    channels: tuple[Float[np.ndarray, "*volume"], ...]
    mask: Bool[np.ndarray, "*volume"] | None
    labels: Volume | None
    points: Float[np.ndarray, "point ndim"] | None

    @property
    def path(self) -> Path:
        """The file of the image."""
        return self.paths[0]

    @property
    def grid(self) -> Grid:
        """The voxels of the file."""
        return self.image.grid


def load_pair(
    fixed: Files, moving: Files, *, volume: int | None, max_bytes: int
) -> tuple[Side, Side]:
    """Read the files of both images.

    Where one of two images of the same shape has an affine and the other none, both are taken to
    lie on the same voxels.

    Args:
      fixed, moving: paths.
      volume: which image to read, from 0, of files that have several.
      max_bytes: most memory that reading a file may take.

    Returns:
      The fixed image and the moving one, with an affine each or none.

    Raises:
      DataError: a file cannot be used, or two do not fit together; the message names them.
    """
    images = [load_volume(f.image, volume=volume, max_bytes=max_bytes) for f in (fixed, moving)]
    first, second = _placed(images, (fixed.image, moving.image))
    sides = [_side(image, files, max_bytes) for image, files in ((first, fixed), (second, moving))]
    _check_points(sides, fixed, moving)
    return sides[0], sides[1]


def _placed(images: list[Volume], paths: tuple[Path, Path]) -> list[Volume]:
    """Return both images with an affine each, or both without."""
    for image, path in zip(images, paths, strict=True):
        if min(image.data.shape) < SHORTEST:
            raise DataError(
                f"{path}: shape {image.data.shape}; a registration takes {SHORTEST} voxels or more "
                "along each axis, or one slice"
            )
    names = f"{paths[0]}, {paths[1]}"
    first, second = images
    if first.data.ndim != second.data.ndim:
        raise DataError(
            f"{names}: images of {first.data.ndim} and {second.data.ndim} axes; give two of the "
            "same number"
        )
    try:
        return [first, _matched(second, first)]
    except DataError as error:
        raise DataError(f"{names}: {error}") from error


def _matched(other: Volume, image: Volume) -> Volume:
    """Return an image that says where it lies if and only if `image` does.

    One of two that does not is taken to lie on the voxels of the other.
    """
    if (other.affine is None) == (image.affine is None):
        return other
    if image.grid.shape != other.grid.shape:
        raise DataError(
            f"shapes {image.grid.shape} and {other.grid.shape}, and one of them does not say where "
            "it lies; give two that do, two that do not, or two of one shape"
        )
    note = "taken to lie on the voxels of the other image, as one of the two does not say where"
    note = "; ".join(filter(None, (other.note, note)))
    stored = Stored(other.data, image.grid.affine, code=image.grid.code)
    data, affine, grid = turned(on_file_grid(other.data, other.grid), stored)
    data = np.ascontiguousarray(data)
    return dataclasses.replace(other, data=data, affine=affine, grid=grid, note=note)


def _side(image: Volume, files: Files, max_bytes: int) -> Side:
    def beside(path: Path, load: Callable[..., Volume] = load_volume) -> Volume:
        other = load(path, max_bytes=max_bytes)
        try:
            other = _matched(other, image)
            _check_same_voxels(image, other)
        except DataError as error:
            raise DataError(f"{path}, {files.image}: {error}") from error
        return other

    mask = labels = points = None
    if files.mask is not None:
        mask = beside(files.mask).data > 0
        if not mask.any():
            raise DataError(f"{files.mask}: no voxel is above 0; give a mask of voxels that count")
    if files.labels is not None:
        labels = beside(files.labels, load_labels)
    if files.landmarks is not None:
        points = load_points(files.landmarks, ndim=point_axes(image), max_bytes=max_bytes)
    channels = (image.data, *(beside(path).data for path in files.channels))
    return Side(image, (files.image, *files.channels), channels, mask, labels, points)


def point_axes(image: Volume) -> int:
    """Return how many coordinates a point of an image has in a file."""
    if image.affine is None:
        return image.data.ndim
    return itk_axes(image.grid)


def _check_same_voxels(image: Volume, other: Volume) -> None:
    if image.data.shape != other.data.shape:
        raise DataError(f"shapes {other.data.shape} and {image.data.shape}; give two on one grid")
    if image.affine is None or other.affine is None:
        return
    corners = np.array(list(np.ndindex(*(2,) * image.data.ndim))) * (np.array(image.data.shape) - 1)
    steps = (image.affine - other.affine)[:3]
    apart = corners @ steps[:, : image.data.ndim].T + steps[:, 3]
    if np.linalg.norm(apart, axis=-1).max() > 0.1 * min(image.spacing):
        raise DataError("by their affines they lie in other places; give two on one grid")


def _check_points(sides: Sequence[Side], fixed: Files, moving: Files) -> None:
    first, second = (side.points for side in sides)
    if first is not None and second is not None and len(first) != len(second):
        raise DataError(
            f"{fixed.landmarks}, {moving.landmarks}: {len(first)} and {len(second)} points; give "
            "the same ones of both images, in the same order"
        )
