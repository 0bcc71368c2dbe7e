"""Images in two and three dimensions from NIfTI, npz, npy and png files, and back."""

import dataclasses
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxml.extras import extra
from jaxml.files import pictures
from jaxml.files.errors import DataError, check_permission, unreadable
from jaxml.files.limits import MAX_BYTES, check_memory
from jaxml.files.npz import MOST_EXPANSION, read_npy, read_npz

NIFTI = (".nii", ".nii.gz")
# Of a pixel, as a picture, as its channels, as their mean, and as the float32 that is returned.
_PIXEL_BYTES = 4 + 3 + 8 + 4
SINGLE = np.dtype(np.float32)
ACCEPTED = "a .nii, .nii.gz, .npy, .npz or .png file with one image of 2 or 3 axes"


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image and where it lies.

    Attributes:
      data: `[H, W]` or `[D, H, W]` as stored; axes of NIfTI point right, anterior, superior.
      affine: voxel index to world position in mm, `[4, 4]`; None for files without one.
      note: what was changed in reading, for the user; empty if nothing was.
      dtype: of the numbers in the file.
      slope: what those are multiplied by to have `data`; 1 for all files but NIfTI.
      intercept: what is then added.
    """

    data: Float[np.ndarray, "*volume"]
    affine: Float[np.ndarray, "4 4"] | None
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


def load_volume(path: Path | str, *, max_bytes: int = MAX_BYTES) -> Volume:
    """Read an image; NIfTI volumes are turned to the closest right-anterior-superior axes.

    Args:
      path: NIfTI; npy; npz with an array `vol` or a single array; png, of which red, green and
        blue are averaged and alpha is left out.
      max_bytes: most memory that reading it may take.

    Returns:
      `Volume` of float32.

    Raises:
      DataError: the file is missing, unreadable, too large, no image of 2 or 3 axes, empty, or
        holds NaN or infinity; or a png has color or alpha in 16 bits.
    """
    path = Path(path)
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise DataError(f"{path}: {what}; give {ACCEPTED}")
    check_permission(path)
    name = path.name.lower()
    if name.endswith(NIFTI):
        return _read_nifti(path, max_bytes)
    if name.endswith((".npy", ".npz")):
        return _checked(path, _read_numpy(path, max_bytes))
    if name.endswith(".png"):
        return _read_png(path, max_bytes)
    raise DataError(f"{path}: unknown suffix; give {ACCEPTED}")


def as_stored(data: Float[np.ndarray, "*volume"], source: Volume) -> np.ndarray:
    """Return values of an image as numbers of the type that the image's file has.

    Args:
      data: such as a warped image, of any shape.
      source: the image as it was read.

    Returns:
      Array of the type of the file; times `source.slope` plus `source.intercept` it has the
      values of `data`, rounded and cut where the type is one of whole numbers.
    """
    dtype = source.dtype.newbyteorder("=")
    numbers = (np.asarray(data, np.float64) - source.intercept) / source.slope
    if dtype.kind == "b":
        return numbers >= 0.5
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return numbers.astype(dtype)
    ends = np.iinfo(dtype)
    # The nearest float of the last 64-bit number is one too large.
    high = ends.max if ends.bits < 64 else np.nextafter(float(ends.max), 0)
    return np.clip(np.rint(numbers), ends.min, high).astype(dtype)


def resample_to(volume: Volume, grid: Volume, *, order: int = 1) -> Volume:
    """Return a volume on the voxels of another, by the world positions of both.

    Volumes of one shape and affine, and those without an affine, come back as they are.

    Args:
      volume: volume to resample, 0 outside of it.
      grid: volume whose shape and affine are wanted.
      order: 1 for linear, 0 for nearest (labels).

    Returns:
      `Volume` with the affine of `grid`; its note says that it was resampled.

    Raises:
      DataError: another number of axes; or shapes differ and an affine is missing.
    """
    if volume.data.ndim != grid.data.ndim:
        raise DataError(
            f"images of {grid.data.ndim} and {volume.data.ndim} axes; give two of the same number"
        )
    same_shape = volume.data.shape == grid.data.shape
    if volume.affine is None or grid.affine is None:
        if same_shape:
            return volume
        raise DataError(
            f"images of shapes {grid.data.shape} and {volume.data.shape} without affines; "
            "give two of one shape, or NIfTI files"
        )
    if same_shape and np.allclose(volume.affine, grid.affine, atol=1e-4):
        return volume
    import scipy.ndimage

    ndim = grid.data.ndim
    to_voxel = np.linalg.solve(volume.affine, grid.affine)
    offset: Any = to_voxel[:ndim, 3]
    data = scipy.ndimage.affine_transform(
        volume.data, to_voxel[:ndim, :ndim], offset, grid.data.shape, order=order
    )
    sizes = " x ".join(map(str, volume.data.shape)), " x ".join(map(str, grid.data.shape))
    note = f"resampled by its affine from {sizes[0]} to the grid of the fixed image, {sizes[1]}"
    note = "; ".join(filter(None, (volume.note, note)))
    return dataclasses.replace(volume, data=data, affine=grid.affine, note=note)


def nifti_bytes(
    data: np.ndarray,
    affine: Float[np.ndarray, "4 4"],
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> bytes:
    """Return a gzipped NIfTI-1 file of an image, or of a field of vectors.

    Args:
      data: image `[H, W]` or `[D, H, W]`, or vectors `[D, H, W, 3]`, of numbers of a type that
        NIfTI has, which is that of the file.
      affine: voxel index to world position in mm, `[4, 4]`.
      slope: what a reader multiplies the numbers by.
      intercept: what it then adds.

    Returns:
      The content of the file.
    """
    import gzip

    with extra("experiments"):
        import nibabel

    vectors = data.ndim == 4
    # The type is given: to take it over, 64 bits among them, is refused without.
    data = data[:, :, :, None] if vectors else data
    image = nibabel.Nifti1Image(data, affine, dtype=data.dtype)
    if (slope, intercept) != (1, 0):
        image.header.set_slope_inter(slope, intercept)
    if vectors:
        image.header.set_intent("vector")
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


def _checked(path, data, affine=None, note="", **stored) -> Volume:
    if data.dtype.kind not in "fiub":
        raise DataError(f"{path}: dtype {data.dtype}; give real numbers")
    if data.ndim not in (2, 3) or min(data.shape) < 3:
        raise DataError(f"{path}: shape {data.shape}; give 2 or 3 axes of 3 voxels or more")
    # What overflows is found below, as infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        single = np.ascontiguousarray(data, np.float32)
    bad = np.count_nonzero(~np.isfinite(single))
    if bad:
        raise DataError(f"{path}: {bad} voxels are NaN or infinite; give finite numbers")
    return Volume(single, affine, note, **{"dtype": data.dtype, **stored})


def _read_nifti(path, max_bytes) -> Volume:
    with extra("experiments"):
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.orientations import OrientationError
        from nibabel.spatialimages import HeaderDataError

    # Not `nibabel.load`, which also knows brain surfaces with XML in them.
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    try:
        kind: Any = next(kind for kind in kinds if kind.path_maybe_image(path)[0])
        _check_header(path, kind.header_class, max_bytes)
        image: Any = kind.load(path)
        slope, intercept = image.dataobj.slope, image.dataobj.inter
        # An affine or a scale beyond floats is found below.
        with np.errstate(all="ignore"):
            canonical: Any = nibabel.as_closest_canonical(image)
            data = np.asanyarray(canonical.dataobj)
            size = abs(np.linalg.det(canonical.affine))
    except (
        ImageFileError,
        HeaderDataError,
        OSError,
        EOFError,
        OrientationError,
        StopIteration,
        OverflowError,
        ValueError,
        zlib.error,
    ) as error:
        accepted = f"give {ACCEPTED}"
        raise unreadable(path, error, what="not readable as NIfTI", accepted=accepted) from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if not 0 < size < np.inf:
        raise DataError(f"{path}: its affine has no inverse; give a NIfTI file with a valid one")
    turned = nibabel.aff2axcodes(image.affine) != nibabel.aff2axcodes(canonical.affine)
    note = f"axes {''.join(nibabel.aff2axcodes(image.affine))} turned to RAS" if turned else ""
    scale = {"slope": float(slope), "intercept": float(intercept)}
    affine = np.asarray(canonical.affine, float)
    return _checked(path, data, affine, note, dtype=image.get_data_dtype(), **scale)


def _check_header(path, header_class, max_bytes):
    """Raise where the header claims more than the file can hold: all of it would be allocated."""
    with _expanded(path) as file:
        header = header_class(file.read(header_class.template_dtype.itemsize), check=False)
    try:
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
    except KeyError as error:
        raise DataError(f"data type {error} is unknown") from error
    # Infinity is no number of bytes, and not every number of the header is a whole one.
    start = float(header["vox_offset"])
    if not np.isfinite(start):
        raise DataError(f"{dtype}{list(shape)} from byte {start:g} on")
    sides = [int(side) for side in shape]
    room = path.stat().st_size * (MOST_EXPANSION if path.suffix.lower() == ".gz" else 1)
    claimed = math.prod(sides) * dtype.itemsize
    if min(sides, default=0) < 1 or start < 0 or int(start) + claimed > room:
        raise DataError(f"{dtype}{list(shape)} from byte {start:g} on")
    # As stored, and as the float32 that is returned; what lies before it is read too.
    check_memory(int(start) + math.prod(sides) * (dtype.itemsize + SINGLE.itemsize), max_bytes)


def _expanded(path):
    import gzip

    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _read_numpy(path, max_bytes):
    try:
        if path.suffix.lower() == ".npy":
            return read_npy(path, max_bytes=max_bytes)
        arrays = read_npz(path, "vol", max_bytes=max_bytes) or read_npz(path, max_bytes=max_bytes)
    except (OSError, ValueError) as error:
        accepted = f"give {ACCEPTED}"
        raise unreadable(path, error, what="not readable by numpy", accepted=accepted) from error
    if len(arrays) != 1:
        names = ", ".join(arrays) or "none"
        raise DataError(f"{path}: arrays {names}; give one array, or one called vol")
    return next(iter(arrays.values()))


def _read_png(path, max_bytes) -> Volume:
    try:
        image = pictures.decode(path.read_bytes(), max_bytes=max_bytes)
        check_memory(_PIXEL_BYTES * image.width * image.height, max_bytes)
    except (OSError, ValueError) as error:
        accepted = f"give {ACCEPTED}"
        raise unreadable(path, error, what="not readable as png", accepted=accepted) from error
    note = "alpha left out" if "A" in image.getbands() or "transparency" in image.info else ""
    if image.mode[0] == "I":
        # Pillow has had several modes for gray in 16 bits.
        return _checked(path, np.asarray(image).astype(np.uint16), note=note)
    if image.mode in ("1", "L", "LA"):
        return _checked(path, np.asarray(image if note == "" else image.getchannel(0)), note=note)
    channels = np.asarray(image.convert("RGB"))
    if (channels != channels[..., :1]).any():
        note = "; ".join(filter(None, (note, "colors averaged to gray")))
    return _checked(path, channels.mean(axis=-1), note=note, dtype=channels.dtype)
