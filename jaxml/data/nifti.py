"""NIfTI and the formats before it, Analyze and MGH, as nibabel reads them; NIfTI files to write."""

import contextlib
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from jaxml.data.grid import Grid, Stored, chosen, is_axial, on_file_grid
from jaxml.extras import extra
from jaxml.files.errors import DataError
from jaxml.files.limits import check_memory
from jaxml.files.npz import MOST_EXPANSION

SUFFIXES = (".nii", ".nii.gz")
MGH = (".mgh", ".mgz")
# Of a pair: the header and, beside it, the numbers.
PAIR = {".hdr": ".img", ".hdr.gz": ".img.gz", ".img": ".hdr", ".img.gz": ".hdr.gz"}
# Of what is read: the float32 or int32 that is returned.
_RETURNED_BYTES = 4
# From right, anterior, superior to the left, posterior, superior of ITK.
TO_LPS = np.array([-1.0, -1.0, 1.0])
_VECTORS = 1007


def read_nifti(path: Path, *, volume: int | None, max_bytes: int) -> Stored:
    """Return an image of a NIfTI, Analyze or MGH file, of one file or of two.

    Args:
      path: of the file, or of one of the two.
      volume: which image to read of several, from 0.
      max_bytes: most memory that reading it may take.

    Returns:
      `Stored`, of 2 or 3 axes unless the file has fewer.

    Raises:
      OSError: it cannot be read.
      DataError: it is damaged, too large, or has several images and `volume` is none of them.
    """
    with extra("experiments"):
        import nibabel  # noqa: F401
        from nibabel.filebasedimages import ImageFileError
        from nibabel.freesurfer.mghformat import MGHError
        from nibabel.spatialimages import HeaderDataError
        from nibabel.wrapstruct import WrapStructError

    of_nibabel = ImageFileError, HeaderDataError, WrapStructError, MGHError
    errors = *of_nibabel, EOFError, OverflowError, zlib.error
    try:
        return _read(path, volume, max_bytes)
    except (*errors, AssertionError, KeyError, StopIteration, TypeError) as error:
        raise DataError(str(error) or type(error).__name__) from error


def _read(path, volume, max_bytes) -> Stored:
    kind, header_path, data_path = kind_of(path)
    shape, dtype, start = checked_header(header_path, data_path, kind.header_class)
    index = _index(shape, volume)
    # As stored, and as it is returned; what lies before it is read too.
    check_memory(start + math.prod(shape[:3]) * (dtype.itemsize + _RETURNED_BYTES), max_bytes)
    # A scale beyond floats is found later, as infinite.
    with contextlib.ExitStack() as stack, np.errstate(all="ignore"):
        image = _loaded(kind, path, stack)
        data = np.asanyarray(image.dataobj[(..., *index)])
        affine = np.asarray(image.affine, float)
    return Stored(
        data,
        affine,
        image.get_data_dtype(),
        float(image.dataobj.slope),
        float(image.dataobj.inter),
        *_position(image.header),
    )


def kind_of(path: Path) -> tuple[Any, Path, Path]:
    """Return the class of nibabel for a file, and the paths of its header and of its numbers.

    Raises:
      DataError: it is one of two, and the other is missing.
      StopIteration: it is of no kind that its name says.
    """
    import nibabel
    from nibabel.spm99analyze import Spm99AnalyzeImage

    name = path.name.lower()
    if name.endswith(MGH):
        return nibabel.MGHImage, path, path
    if name.endswith(SUFFIXES):
        # Not `nibabel.load`, which also knows brain surfaces with XML in them.
        kinds = nibabel.Nifti1Image, nibabel.Nifti2Image
        return next(kind for kind in kinds if kind.path_maybe_image(path)[0]), path, path
    suffix = next(suffix for suffix in sorted(PAIR, key=len)[::-1] if name.endswith(suffix))
    stem, own = path.name[: -len(suffix)], path.name[-len(suffix) :]
    other = path.with_name(stem + (PAIR[suffix].upper() if own.isupper() else PAIR[suffix]))
    if not other.is_file():
        raise DataError(f"there is no {other.name} beside it")
    pair = (path, other) if suffix.startswith(".hdr") else (other, path)
    kinds = nibabel.Nifti1Pair, nibabel.Nifti2Pair
    matching = (kind for kind in kinds if kind.path_maybe_image(path)[0])
    return next(matching, Spm99AnalyzeImage), *pair


def _loaded(kind, path, stack) -> Any:
    """Return the image of nibabel, whose numbers are not read before the stack is left."""
    from nibabel.fileholders import FileHolder

    files = kind.filespec_to_file_map(path)
    if path.name.lower().endswith(MGH):
        # By its path nibabel opens it and does not close it.
        files["image"] = FileHolder(fileobj=stack.enter_context(_expanded(path)))
    if "mat" in files:
        # The orientation of SPM in a file of Matlab, which is not read.
        files["mat"] = FileHolder(fileobj=io.BytesIO())
    return kind.from_file_map(files)


def checked_header(
    header_path: Path, data_path: Path, header_class: Any
) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return the shape, the type of numbers, and the byte from which on these are stored.

    Raises:
      DataError: the file cannot hold what its header claims: all of it would be allocated.
    """
    with _expanded(header_path) as file:
        header = header_class(file.read(header_class.template_dtype.itemsize), check=False)
    try:
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
    except KeyError as error:
        raise DataError(f"data type {error} is unknown") from error
    # Infinity is no number of bytes, and not every number of the header is a whole one.
    start = float(header["vox_offset"] if "vox_offset" in header else header.get_data_offset())
    if not np.isfinite(start):
        raise DataError(f"{dtype}{list(shape)} from byte {start:g} on")
    sides = tuple(int(side) for side in shape)
    room = data_path.stat().st_size * (MOST_EXPANSION if _is_packed(data_path) else 1)
    claimed = math.prod(sides) * dtype.itemsize
    if min(sides, default=0) < 1 or start < 0 or int(start) + claimed > room:
        raise DataError(f"{dtype}{list(shape)} from byte {start:g} on")
    return sides, dtype, int(start)


def _index(shape, volume) -> tuple[int, ...]:
    """Return the indices of one image along the axes behind the third."""
    count = math.prod(shape[3:])
    return tuple(int(i) for i in np.unravel_index(chosen(count, volume), shape[3:], order="F"))


def _position(header) -> tuple[int, tuple[str, ...]]:
    """Return what the positions are of, and what is to be said about them."""
    if "sform_code" not in header:
        analyze = "origin" in header
        note = "Analyze files say no orientation: the first axis is taken to point left"
        return 2 if analyze else 1, (note,) * analyze
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform <= 0 and qform <= 0:
        return 2, ("the header says no orientation: the first axis is taken to point left",)
    with np.errstate(all="ignore"):
        apart = sform > 0 and qform > 0
        apart = apart and not np.allclose(header.get_sform(), header.get_qform(), atol=1e-2)
    differ = "sform and qform of the header differ: the sform is used, ITK may take the qform"
    return sform if sform > 0 else qform, (differ,) * bool(apart)


def _is_packed(path) -> bool:
    return path.suffix.lower() in (".gz", ".mgz")


def _expanded(path):
    import gzip

    return gzip.open(path) if _is_packed(path) else path.open("rb")


def nifti_bytes(
    data: Shaped[np.ndarray, "..."],
    grid: Grid,
    *,
    vectors: bool = False,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> bytes:
    """Return a gzipped NIfTI-1 file of an image, or of a field of vectors, on the grid of a file.

    Args:
      data: image of the shape of that file, or vectors with their components last, of numbers of
        a type that NIfTI has, which is that of the file.
      grid: where the voxels lie; its affine is that of the file.
      vectors: whether these are vectors.
      slope: what a reader multiplies the numbers by.
      intercept: what it then adds.

    Returns:
      The content of the file.
    """
    import gzip

    with extra("experiments"):
        import nibabel
        from nibabel.spatialimages import HeaderDataError

    if vectors:
        # Axes of space and time come first, whatever their number.
        data = data.reshape(*grid.shape, *(1,) * (4 - len(grid.shape)), data.shape[-1])
    # The type is given: to take it over, 64 bits among them, is refused without.
    image: Any = nibabel.Nifti1Image(data, grid.affine, dtype=data.dtype)
    image.set_sform(grid.affine, grid.code)
    try:
        image.set_qform(grid.affine, grid.code, strip_shears=False)
    except HeaderDataError:
        # Sheared axes: the other form alone holds these.
        image.set_qform(None, 0)
    if (slope, intercept) != (1, 0):
        image.header.set_slope_inter(slope, intercept)
    if vectors:
        image.header.set_intent(_VECTORS)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


def field_bytes(u: Float[np.ndarray, "*volume ndim"], grid: Grid) -> bytes:
    """Return a displacement as a NIfTI file that ITK, SimpleITK and ANTs apply.

    Its vectors are in mm along left, posterior, superior: a point of the fixed image plus its
    vector is the point of the moving image.

    Args:
      u: displacement in voxels along the axes of the image in use.
      grid: of the fixed file, with an affine.

    Returns:
      The content of a gzipped file of five axes with the intent of vectors, on that grid.
    """
    assert grid.affine is not None
    count = itk_axes(grid)
    steps = np.asarray(grid.affine)[:count, : len(grid.shape)]
    in_mm = on_file_grid(np.asarray(u, np.float64), grid, vectors=True) @ steps.T
    return vector_bytes(in_mm.astype(np.float32), grid)


def vector_bytes(vectors: Float[np.ndarray, "*volume axes"], grid: Grid) -> bytes:
    """Return vectors in RAS mm on the voxels of a file as a NIfTI file that ITK and ANTs apply.

    Args:
      vectors: along the axes of the file, float32 or float64, which is the type written.
      grid: of that file, with an affine.

    Returns:
      The content of a gzipped file: vectors in LPS mm along the fifth axis, with their intent.
    """
    to_lps = TO_LPS[: vectors.shape[-1]].astype(vectors.dtype)
    return nifti_bytes(vectors * to_lps, grid, vectors=True)


def itk_axes(grid: Grid) -> int:
    """Return of how many axes ITK takes a field of vectors on this grid to be.

    It reads a field of one slice as one of two axes, whatever the shape that its header says, and
    then takes the plane to be that of left and posterior.

    Args:
      grid: of a file, with an affine.

    Returns:
      2 where that is so, 3 for a volume, or for a slice in another plane.
    """
    one_slice = len(grid.shape) == 2 or grid.shape[2] == 1
    return 2 if one_slice and grid.affine is not None and is_axial(grid.affine) else 3
