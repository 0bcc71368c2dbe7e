"""Images in MetaImage files: mha, or mhd with the numbers in another file beside it."""

import re
from pathlib import Path

import numpy as np

from jaxml.data.grid import Stored, chosen, lifted
from jaxml.data.nrrd import LONGEST_HEADER, beside
from jaxml.files.errors import DataError
from jaxml.files.raw import read_raw

SUFFIXES = (".mha", ".mhd")
_DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# Of several names of one thing, as the library of the format has them.
_DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
_ORIGINS = ("Offset", "Position", "Origin")
_SPACINGS = ("ElementSpacing", "ElementSize")
_BIG = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")


def read_metaimage(path: Path, *, volume: int | None, max_bytes: int) -> Stored:
    """Return an image of a MetaImage file, whose positions are along left, posterior, superior.

    Args:
      path: of the file, or of the header whose numbers lie in a file beside it.
      volume: which image to read of several, from 0.
      max_bytes: most memory that reading it may take.

    Returns:
      `Stored`.

    Raises:
      OSError: it cannot be read.
      DataError: it is damaged, too large, written as text or in several files, or has several
        images and `volume` is none of them.
    """
    fields, end = _header(path)
    sizes = tuple(int(size) for size in fields.get("DimSize", "").split())
    if len(sizes) != int(fields.get("NDims", -1)) or min(sizes, default=0) < 1:
        raise DataError(f"DimSize {fields.get('DimSize')!r} of NDims {fields.get('NDims')!r}")
    kind = _DTYPES.get(fields.get("ElementType", ""))
    if kind is None:
        raise DataError(f"ElementType {fields.get('ElementType')!r} is no type of numbers")
    if not _is_true(fields, "BinaryData", default=True):
        raise DataError("its numbers are written as text; accepted is binary data")
    name = fields["ElementDataFile"]
    if name == "LIST" or "%" in name:
        raise DataError("its numbers are in several files; accepted is one")
    local = name.upper() == "LOCAL"
    skip = int(fields.get("HeaderSize", "0"))
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    data = read_raw(
        path if local else beside(path, name),
        (channels, *sizes),
        np.dtype((">" if any(_is_true(fields, key) for key in _BIG) else "<") + kind),
        start=-1 if skip == -1 else skip + (end if local else 0),
        deflated=_is_true(fields, "CompressedData"),
        max_bytes=max_bytes,
    )
    count = min(len(sizes), 3)
    images = np.moveaxis(data, 0, -1).reshape(*sizes[:count], -1)
    index = chosen(images.shape[-1], volume)
    return Stored(images[..., index], _affine(fields, len(sizes), count), data.dtype)


def _header(path) -> tuple[dict[str, str], int]:
    """Return the fields of the header, and the byte behind it."""
    with path.open("rb") as file:
        content = file.read(LONGEST_HEADER)
    last = re.search(rb"^ElementDataFile *=[^\n]*(\n|\Z)", content, re.MULTILINE)
    if last is None:
        raise DataError("no header of MetaImage, which ends in ElementDataFile")
    lines = content[: last.end()].decode("latin1").splitlines()
    pairs = [line.partition("=") for line in lines if line.strip()]
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    if len(fields) < len(pairs):
        raise DataError("a field of its header stands twice")
    return fields, last.end()


def _affine(fields, dimension, count) -> np.ndarray:
    """Return the affine of the first `count` axes."""
    spacing = _numbers(fields, _SPACINGS, np.ones(dimension))
    offset = _numbers(fields, _ORIGINS, np.zeros(dimension))
    # The directions of the axes stand one after the other.
    directions = _numbers(fields, _DIRECTIONS, np.eye(dimension)).reshape(2 * (dimension,))
    matrix = (directions * spacing[:, None]).T[:count, :count]
    return lifted(matrix, offset[:count], np.array([-1.0, -1.0, 1.0]))


def _numbers(fields, names, default) -> np.ndarray:
    text = next((fields[name] for name in names if name in fields), None)
    if text is None:
        return default
    numbers = np.array([float(value) for value in text.split()])
    if numbers.size != default.size or not np.isfinite(numbers).all():
        raise DataError(f"{names[0]} {text!r}; accepted are {default.size} numbers")
    return numbers


def _is_true(fields, name, *, default=False) -> bool:
    return fields.get(name, str(default)).lower() in ("true", "1", "t", "yes")
