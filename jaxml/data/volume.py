"""Images in two and three dimensions from the files that scanners and cameras' users have."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Num

from jaxml.data import metaimage, nifti, nrrd
from jaxml.data.grid import Grid, SeveralError, Stored, is_axial, names_of_axes, turned
from jaxml.files import pictures
from jaxml.files.errors import DataError, check_permission, unreadable
from jaxml.files.limits import MAX_BYTES, check_memory
from jaxml.files.npz import read_npy, read_npz

PICTURES = (".png", ".jpg", ".jpeg")
# Of a pixel, as a picture, as its channels, as their mean, and as the float32 that is returned.
_PIXEL_BYTES = 4 + 3 + 8 + 4
SINGLE = np.dtype(np.float32)
_COLORS = "colors averaged to gray"
ACCEPTED = (
    "an image of 2 or 3 axes as NIfTI (.nii, .nii.gz, .hdr with .img), .mgz, .nrrd, .mha, .npy, "
    ".npz, .png or .jpg"
)


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image and where it lies.

    Attributes:
      data: `[H, W]` or `[D, H, W]`; with an affine, axes point right, anterior, superior.
      affine: voxel index to position in mm along right, anterior, superior, `[4, 4]`; None for
        files without one. Of a 2-D image, the third column is that of the axis across.
      grid: the voxels of the file, for results that are to lie on them.
      note: what was changed in reading, for the user; empty if nothing was.
      dtype: of the numbers in the file.
      slope: what those are multiplied by to have `data`; 1 for most files.
      intercept: what is then added.
    """

    data: Num[np.ndarray, "*volume"]
    affine: Float[np.ndarray, "4 4"] | None
    grid: Grid
    note: str = ""
    dtype: np.dtype = SINGLE
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel along each axis in mm; 1 for files without an affine."""
        if self.affine is None:
            return (1.0,) * self.data.ndim
        return tuple(np.linalg.norm(self.affine[:3, : self.data.ndim], axis=0).tolist())


def load_volume(
    path: Path | str, *, volume: int | None = None, max_bytes: int = MAX_BYTES
) -> Volume:
    """Read an image; where its file says how it lies, it is turned to the closest RAS axes.

    An axis of one voxel is left out: a volume of one slice is an image of 2 axes. Voxels that are
    NaN count as outside of the image.

    Args:
      path: NIfTI of one file or two, Analyze, mgh and mgz, nrrd and nhdr, mha and mhd; npy; npz
        with an array `vol` or a single array; png or jpeg, of which red, green and blue are
        averaged and alpha is left out.
      volume: which image to read, from 0, of a file that has several.
      max_bytes: most memory that reading it may take.

    Returns:
      `Volume` of float32.

    Raises:
      DataError: the file is missing, unreadable, too large, no image of 2 or 3 axes, empty, holds
        an infinity or nothing but NaN, or has several images and `volume` is none of them; or a
        png has color or alpha in 16 bits.
    """
    path = Path(path)
    stored = _stored(path, volume, max_bytes)
    # What overflows is found below, as infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        single = stored.data.astype(np.float32)
    infinite, outside = (np.count_nonzero(test(single)) for test in (np.isinf, np.isnan))
    if infinite:
        raise DataError(f"{path}: {infinite} voxels are infinite; give finite numbers, or NaN")
    if outside == single.size:
        raise DataError(f"{path}: every voxel is NaN; give an image")
    notes = (f"{outside} voxels are NaN: they count as outside of the image",) * bool(outside)
    return _volume(path, stored, single, notes)


def load_labels(
    path: Path | str, *, volume: int | None = None, max_bytes: int = MAX_BYTES
) -> Volume:
    """Read the label of every voxel, in the axes that `load_volume` turns an image to.

    Args:
      path: as for `load_volume`; of a png or jpeg, the gray values.
      volume: which image to read, from 0, of a file that has several.
      max_bytes: most memory that reading it may take.

    Returns:
      `Volume` of int32.

    Raises:
      DataError: as for `load_volume`; or a number is not a whole one of 32 bits.
    """
    path = Path(path)
    stored = _stored(path, volume, max_bytes)
    accepted = "give labels, which are whole numbers of 32 bits"
    if stored.notes and _COLORS in stored.notes:
        raise DataError(f"{path}: a picture in colors; {accepted}")
    ends = np.iinfo(np.int32)
    # An infinity or NaN is beyond both ends.
    whole = (stored.data >= ends.min) & (stored.data <= ends.max)
    if stored.data.dtype.kind == "f":
        whole &= stored.data == np.rint(stored.data)
    if not whole.all():
        raise DataError(f"{path}: {np.count_nonzero(~whole)} voxels are no labels; {accepted}")
    return _volume(path, stored, stored.data.astype(np.int32), ())


def _stored(path: Path, volume: int | None, max_bytes: int) -> Stored:
    """Return the image of a file of any format, in the axes of that file."""
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise DataError(f"{path}: {what}; give {ACCEPTED}")
    check_permission(path)
    name = path.name.lower()
    match = next((f for f in FORMATS if name.endswith(f.suffixes)), None)
    if match is None:
        raise DataError(f"{path}: unknown suffix; give {ACCEPTED}")
    try:
        stored = match.read(path, volume=volume, max_bytes=max_bytes)
    except SeveralError as error:
        raise SeveralError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        what, accepted = f"not readable {match.name}", f"give {ACCEPTED}"
        raise unreadable(path, error, what=what, accepted=accepted) from error
    if stored.data.dtype.kind not in "fiub":
        raise DataError(f"{path}: dtype {stored.data.dtype}; give real numbers")
    shape = stored.data.shape
    if len(shape) not in (2, 3) or sum(side > 1 for side in shape) < 2:
        raise DataError(f"{path}: shape {shape}; give 2 or 3 axes of more than one voxel")
    return stored


def _volume(path, stored: Stored, data: np.ndarray, notes: tuple[str, ...]) -> Volume:
    """Return an image in the axes in which it is used."""
    if data.ndim == 2 and stored.affine is not None and not is_axial(stored.affine):
        # Out of the plane of right and anterior, two axes do not say where a pixel lies.
        data = data[..., None]
    try:
        data, affine, grid = turned(data, stored)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if any(grid.flipped[a] for a in grid.axes) or grid.axes != tuple(sorted(grid.axes)):
        assert grid.affine is not None
        notes = (f"axes {names_of_axes(grid.affine)} turned to RAS", *notes)
    return Volume(
        np.ascontiguousarray(data),
        affine,
        grid,
        "; ".join((*stored.notes, *notes)),
        stored.dtype or stored.data.dtype,
        stored.slope,
        stored.intercept,
    )


def as_stored(data: Num[np.ndarray, "*volume"], source: Volume) -> np.ndarray:
    """Return values of an image as numbers of the type that the image's file has.

    Args:
      data: such as a warped image, of any shape.
      source: the image as it was read.

    Returns:
      Array of the type of the file; times `source.slope` plus `source.intercept` it has the
      values of `data`, rounded and cut, and 0 for NaN, where the type is one of whole numbers.
    """
    dtype = source.dtype.newbyteorder("=")
    values = np.asarray(data, np.float64)
    if dtype.kind != "f":
        # A whole number cannot be NaN.
        values = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    numbers = (values - source.intercept) / source.slope
    if dtype.kind == "b":
        return numbers >= 0.5
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return numbers.astype(dtype)
    ends = np.iinfo(dtype)
    # The nearest float of the last 64-bit number is one too large.
    high = ends.max if ends.bits < 64 else np.nextafter(float(ends.max), 0)
    return np.clip(np.rint(numbers), ends.min, high).astype(dtype)


def _read_numpy(path, *, volume, max_bytes) -> Stored:
    if path.suffix.lower() == ".npy":
        return Stored(read_npy(path, max_bytes=max_bytes))
    arrays = read_npz(path, "vol", max_bytes=max_bytes) or read_npz(path, max_bytes=max_bytes)
    if len(arrays) != 1:
        raise DataError(f"arrays {', '.join(arrays) or 'none'}; accepted is one, or one called vol")
    return Stored(next(iter(arrays.values())))


def _read_picture(path, *, volume, max_bytes) -> Stored:
    image = pictures.decode(path.read_bytes(), max_bytes=max_bytes)
    check_memory(_PIXEL_BYTES * image.width * image.height, max_bytes)
    alpha = "A" in image.getbands() or "transparency" in image.info
    notes = ("alpha left out",) * alpha
    if image.mode[0] == "I":
        # Pillow has had several modes for gray in 16 bits.
        return Stored(np.asarray(image).astype(np.uint16), notes=notes)
    if image.mode in ("1", "L", "LA"):
        return Stored(np.asarray(image.getchannel(0) if alpha else image), notes=notes)
    channels = np.asarray(image.convert("RGB"))
    if (channels != channels[..., :1]).any():
        notes = (*notes, _COLORS)
    return Stored(channels.mean(axis=-1), notes=notes, dtype=channels.dtype)


@dataclasses.dataclass(frozen=True)
class _Format:
    """A format of files: what their names end in, what it is called, and its reader."""

    suffixes: tuple[str, ...]
    name: str
    read: Callable[..., Stored]


FORMATS = (
    _Format((*nifti.SUFFIXES, *nifti.PAIR, *nifti.MGH), "as NIfTI", nifti.read_nifti),
    _Format(nrrd.SUFFIXES, "as NRRD", nrrd.read_nrrd),
    _Format(metaimage.SUFFIXES, "as MetaImage", metaimage.read_metaimage),
    _Format((".npy", ".npz"), "by numpy", _read_numpy),
    _Format(PICTURES, "as a picture", _read_picture),
)
