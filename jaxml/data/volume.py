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
from jaxml.files.errors import DataError
from jaxml.files.npz import MOST_EXPANSION, read_npy, read_npz

NIFTI = (".nii", ".nii.gz")
ACCEPTED = "a .nii, .nii.gz, .npy, .npz or .png file with one image of 2 or 3 axes"


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image and where it lies.

    Attributes:
      data: `[H, W]` or `[D, H, W]` as stored; axes of NIfTI point right, anterior, superior.
      affine: voxel index to world position in mm, `[4, 4]`; None for files without one.
      note: what was changed in reading, for the user; empty if nothing was.
    """

    data: Float[np.ndarray, "*volume"]
    affine: Float[np.ndarray, "4 4"] | None
    note: str = ""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel along each axis in mm; 1 for files without an affine."""
        if self.affine is None:
            return (1.0,) * self.data.ndim
        return tuple(np.linalg.norm(self.affine[:3, : self.data.ndim], axis=0).tolist())


def load_volume(path: Path | str) -> Volume:
    """Read an image; NIfTI volumes are turned to the closest right-anterior-superior axes.

    Args:
      path: NIfTI; npy; npz with an array `vol` or a single array; png, its channels averaged.

    Returns:
      `Volume` of float32.

    Raises:
      DataError: the file is missing, unreadable, no image of 2 or 3 axes, empty, or holds NaN
        or infinity.
    """
    path = Path(path)
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise DataError(f"{path}: {what}; give {ACCEPTED}")
    name = path.name.lower()
    if name.endswith(NIFTI):
        return _checked(path, *_read_nifti(path))
    if name.endswith((".npy", ".npz")):
        return _checked(path, _read_numpy(path), None)
    if name.endswith(".png"):
        return _checked(path, _read_png(path), None)
    raise DataError(f"{path}: unknown suffix; give {ACCEPTED}")


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
    return Volume(data, grid.affine, "; ".join(filter(None, (volume.note, note))))


def nifti_bytes(data: Float[np.ndarray, "*volume"], affine: Float[np.ndarray, "4 4"]) -> bytes:
    """Return a gzipped NIfTI-1 file of an image, or of a field of vectors.

    Args:
      data: image `[H, W]` or `[D, H, W]`, or vectors `[D, H, W, 3]`.
      affine: voxel index to world position in mm, `[4, 4]`.

    Returns:
      The content of the file.
    """
    import gzip

    with extra("experiments"):
        import nibabel

    vectors = data.ndim == 4
    image = nibabel.Nifti1Image(data[:, :, :, None] if vectors else data, affine)
    if vectors:
        image.header.set_intent("vector")
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


def _checked(path, data, affine, note="") -> Volume:
    if data.dtype.kind not in "fiub":
        raise DataError(f"{path}: dtype {data.dtype}; give real numbers")
    if data.ndim not in (2, 3) or min(data.shape) < 3:
        raise DataError(f"{path}: shape {data.shape}; give 2 or 3 axes of 3 voxels or more")
    # What overflows is found below, as infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        data = np.ascontiguousarray(data, np.float32)
    bad = np.count_nonzero(~np.isfinite(data))
    if bad:
        raise DataError(f"{path}: {bad} voxels are NaN or infinite; give finite numbers")
    return Volume(data, affine, note)


def _read_nifti(path):
    with extra("experiments"):
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.orientations import OrientationError
        from nibabel.spatialimages import HeaderDataError

    # Not `nibabel.load`, which also knows brain surfaces with XML in them.
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    try:
        image: Any = next(kind for kind in kinds if kind.path_maybe_image(path)[0]).load(path)
        _check_size(path, image.dataobj)
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
        ValueError,
        zlib.error,
    ) as error:
        raise DataError(f"{path}: not readable as NIfTI ({error}); give {ACCEPTED}") from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if not 0 < size < np.inf:
        raise DataError(f"{path}: its affine has no inverse; give a NIfTI file with a valid one")
    turned = nibabel.aff2axcodes(image.affine) != nibabel.aff2axcodes(canonical.affine)
    note = f"axes {''.join(nibabel.aff2axcodes(image.affine))} turned to RAS" if turned else ""
    return data, np.asarray(canonical.affine, float), note


def _check_size(path, stored):
    """Raise where the header claims more than the file can hold: all of it would be allocated."""
    room = path.stat().st_size * (MOST_EXPANSION if path.suffix.lower() == ".gz" else 1)
    claimed = math.prod(stored.shape) * stored.dtype.itemsize
    if min(stored.shape, default=0) < 1 or stored.offset + claimed > room:
        raise DataError(f"{stored.dtype}{list(stored.shape)} from byte {stored.offset:g} on")


def _read_numpy(path):
    try:
        if path.suffix.lower() == ".npy":
            return read_npy(path)
        arrays = read_npz(path, "vol") or read_npz(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable by numpy ({error}); give {ACCEPTED}") from error
    if len(arrays) != 1:
        names = ", ".join(arrays) or "none"
        raise DataError(f"{path}: arrays {names}; give one array, or one called vol")
    return next(iter(arrays.values()))


def _read_png(path):
    try:
        image = pictures.decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as png ({error}); give {ACCEPTED}") from error
    data = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA") else image)
    return data.mean(axis=-1) if data.ndim == 3 else data
