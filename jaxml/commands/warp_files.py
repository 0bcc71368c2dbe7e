"""Transforms of any tool on files of the user: an image, labels or landmarks."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxml import checks
from jaxml.commands.image_results import write_image
from jaxml.commands.transform_chain import Chain, load_chain
from jaxml.data.field_files import file_grid
from jaxml.data.grid import Grid, on_file_grid
from jaxml.data.label_vote import nearest, voted
from jaxml.data.nifti import itk_axes
from jaxml.data.points import load_points
from jaxml.data.transforms import (
    Field,
    from_index,
    index_blocks,
    inside,
    map_points,
    sampled,
    to_index,
)
from jaxml.data.volume import Volume, load_labels, load_volume
from jaxml.files.csv_text import parse_csv
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.files.write import write_whole

Sample = Callable[[np.ndarray, np.ndarray], np.ndarray]


def warp_files(
    transforms: Sequence[Path],
    image: Path,
    out: Path,
    *,
    onto: Path | None = None,
    labels: bool = False,
    vote: bool = False,
    volume: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Carry an image through transforms, by one interpolation, and write it to `out`.

    Written: `warped.nii.gz` on the reference grid, in the orientation and in the type of numbers
    of its file; `warped.png` or `warped.npy` for images without an affine. Every file is read
    before it is written.

    Args:
      transforms: files in the order of antsApplyTransforms: the first is applied first to the
        points of the reference grid; `inverse:FILE` for the inverse of one.
      image: the moving image.
      out: folder.
      onto: image whose grid is the reference; by default that of the first transform.
      labels: the nearest label in place of linear interpolation.
      vote: the label with the most weight around each point, in place of the nearest.
      volume: which image to read of a file of several.
      max_bytes: most memory that reading a file may take.

    Returns:
      Where the image is, and what is to be known of it.

    Raises:
      DataError: a file that cannot be used, by its name, or that does not fit the others.
      ValueError: a bad setting.
      OSError: `out` cannot be written.
    """
    if labels and vote:
        raise checks.refused("vote", vote, "labels or vote, one of the two")
    chain = load_chain(transforms, max_bytes)
    load = load_labels if labels or vote else load_volume
    source = load(image, volume=volume, max_bytes=max_bytes)
    grid = _reference(chain, onto, max_bytes)
    _check_fits(chain, image, source.grid)
    sample: Sample = voted if vote else nearest if labels else linear
    values, within = _warped(chain, source, grid, sample)
    path, dtype = write_image(out / "warped", values, source, grid, image)
    size = " x ".join(map(str, grid.shape))
    notes = [*chain.notes, *filter(None, [source.note])]
    if not within:
        notes.append("no voxel of the grid lies in the image: do the transforms belong to it?")
    lines = [f"warped image: {path}, {size}, {dtype}"]
    lines.append(f"{100 * within:.1f}% of its voxels lie in {image.name}")
    return "\n".join([*lines, *notes])


def warp_points(
    transforms: Sequence[Path], points: Path, out: Path, *, max_bytes: int = MAX_BYTES
) -> str:
    """Carry points of the fixed image to the moving one, and write them to `out`/points.csv.

    Args:
      transforms: as for `warp_files`.
      points: csv with columns x, y and, for volumes, z: LPS mm, or pixels where the transforms
        are in voxels; x is the last axis of an array then. Other columns are kept.
      out: folder.
      max_bytes: most memory that reading a file may take.

    Returns:
      Where the points are.

    Raises:
      DataError: a file that cannot be used, by its name.
      OSError: `out` cannot be written.
    """
    chain = load_chain(transforms, max_bytes)
    values = load_points(points, ndim=chain.ndim, max_bytes=max_bytes)
    # Which axis is x: of arrays the last, in the world of ITK the first, reversed.
    turn = (lambda p: p[:, ::-1]) if chain.in_voxels else (lambda p: p * [-1, -1, 1][: chain.ndim])
    moved = turn(map_points(chain.transforms, turn(values)))
    write_whole(out / "points.csv", _with_points(points, moved).encode())
    return "\n".join([f"{len(moved)} points: {out / 'points.csv'}", *chain.notes])


def _with_points(path: Path, points: np.ndarray) -> str:
    """Return the text of a file of points, which has been read, with others in their place."""
    header, *rows = parse_csv(path.read_bytes().decode("utf-8-sig"))
    names = [name.strip().lower() for name in header]
    columns = [names.index(name) for name in "xyz"[: points.shape[1]]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row, point in zip((row for row in rows if any(row)), points.tolist(), strict=True):
        for column, value in zip(columns, point, strict=True):
            row[column] = repr(value)
        writer.writerow(row)
    return text.getvalue()


def _reference(chain: Chain, onto: Path | None, max_bytes: int) -> Grid:
    """Return the grid of the result."""
    if onto is not None:
        grid = load_volume(onto, max_bytes=max_bytes).grid
        _check_fits(chain, onto, grid)
        return grid
    first = chain.transforms[0]
    if not isinstance(first, Field):
        raise DataError(
            f"{chain.files}: the first transform is an affine, which has no grid; give --onto FILE"
        )
    return file_grid(first.vectors.shape[:-1], None if chain.in_voxels else first.affine)


def _shape(grid: Grid, ndim: int) -> tuple[int, ...]:
    """Return the shape of a grid; for transforms of two axes an axial slice has two as well."""
    flat = ndim == 2 and grid.affine is not None and itk_axes(grid) == 2
    return grid.shape[:2] if flat else grid.shape


def _check_fits(chain: Chain, path: Path, grid: Grid) -> None:
    shape = _shape(grid, chain.ndim)
    if len(shape) != chain.ndim:
        raise DataError(
            f"{path}: an image of {len(shape)} axes, and transforms of {chain.ndim} "
            f"({chain.files}); give those of one number"
        )
    if (grid.affine is None) != chain.in_voxels:
        unit, has = ("voxels", "an affine") if chain.in_voxels else ("mm", "no affine")
        raise DataError(
            f"{path}: an image with {has}, and transforms in {unit} ({chain.files}); accepted are "
            "displacement.nii.gz and affine.mat with affines, fields.npz without"
        )


def _warped(chain: Chain, source: Volume, grid: Grid, sample: Sample) -> tuple[np.ndarray, float]:
    """Return the values on the grid, and the share of its voxels that lie in the image."""
    own = source.grid
    data = on_file_grid(source.data, own).reshape(_shape(own, chain.ndim))
    values, within = np.zeros(_shape(grid, chain.ndim), data.dtype), 0
    for part, index in index_blocks(values.shape):
        moved = map_points(chain.transforms, from_index(_affine(grid), index))
        index = to_index(_affine(own), moved)
        values[part] = sample(data, index)
        within += np.count_nonzero(inside(index, data.shape))
    return values.reshape(grid.shape), within / values.size


def _affine(grid: Grid) -> np.ndarray:
    return np.eye(4) if grid.affine is None else grid.affine


def linear(data: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the image between voxels; those that are NaN have no weight."""
    known = np.isfinite(data)
    if known.all():
        return sampled(data, index)
    weight = sampled(known.astype(data.dtype), index)
    values = sampled(np.where(known, data, 0), index)
    lost = inside(index, data.shape) & (weight < 0.5)
    return np.where(lost, np.nan, values / np.where(weight > 0, weight, 1))
