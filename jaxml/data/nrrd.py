"""Images in NRRD files, of one file or with the numbers in another beside it."""

import math
import re
from pathlib import Path

import numpy as np

from jaxml.data.grid import Stored, chosen, lifted
from jaxml.files.errors import DataError, check_permission
from jaxml.files.raw import read_raw

SUFFIXES = (".nrrd", ".nhdr")
LONGEST_HEADER = 2**20
_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_DTYPES = {name: dtype for dtype, names in _TYPES.items() for name in names.split(", ")}
# Signs that make the directions of a space point right, anterior, superior.
_SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_ENCODINGS = {"raw": False, "gzip": True, "gz": True}


def read_nrrd(path: Path, *, volume: int | None, max_bytes: int) -> Stored:
    """Return an image of an NRRD file.

    Args:
      path: of the file, or of the header whose numbers lie in a file beside it.
      volume: which image to read of several, from 0.
      max_bytes: most memory that reading it may take.

    Returns:
      `Stored`.

    Raises:
      OSError: it cannot be read.
      DataError: it is damaged, too large, packed by another method than gzip, or has several
        images and `volume` is none of them.
    """
    fields, start = _header(path)
    sizes = tuple(int(size) for size in fields.get("sizes", "").split())
    if len(sizes) != int(fields.get("dimension", -1)) or min(sizes, default=0) < 1:
        raise DataError(f"sizes {fields.get('sizes')!r} of dimension {fields.get('dimension')!r}")
    encoding = fields.get("encoding", "").lower()
    if encoding not in _ENCODINGS:
        raise DataError(f"encoding {encoding!r}; accepted are raw and gzip")
    if int(fields.get("line skip", fields.get("lineskip", "0"))) != 0:
        raise DataError("lines to skip are not supported")
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    if skip and (skip < -1 or _ENCODINGS[encoding]):
        raise DataError(f"byte skip {skip} with encoding {encoding}; accepted is raw")
    name = fields.get("data file", fields.get("datafile"))
    file = path if name is None else beside(path, name)
    data = read_raw(
        file,
        sizes,
        _dtype(fields),
        start=-1 if skip == -1 else skip + (start if name is None else 0),
        deflated=_ENCODINGS[encoding],
        max_bytes=max_bytes,
    )
    axes, affine, notes = _geometry(fields, len(sizes))
    data = np.transpose(data, (*axes, *(a for a in range(data.ndim) if a not in axes)))
    images = data.reshape(*data.shape[: len(axes)], -1)
    index = chosen(images.shape[-1], volume)
    return Stored(images[..., index], affine, data.dtype, notes=notes)


def _header(path) -> tuple[dict[str, str], int]:
    """Return the fields of the header in lower case, and the byte where the numbers start."""
    with path.open("rb") as file:
        content = file.read(LONGEST_HEADER)
    if not re.match(rb"NRRD000[1-5]\r?\n", content):
        raise DataError("not an NRRD file of version 1 to 5")
    end = re.search(rb"\r?\n\r?\n", content)
    text = content[: end.start() if end else None].decode("latin1")
    if end is None and len(content) == LONGEST_HEADER:
        raise DataError("its header has no end")
    lines = [line.rstrip("\r") for line in text.split("\n")[1:]]
    pairs = [line.partition(":") for line in lines if line[:1] != "#" and ":=" not in line]
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if len(fields) < len(pairs):
        raise DataError("a field of its header stands twice")
    return fields, end.end() if end else len(content)


def beside(path: Path, name: str) -> Path:
    """Return the file of numbers that a header names.

    Args:
      path: of the header.
      name: in the header, of a file in the same folder or below.

    Raises:
      DataError: it lies elsewhere, is missing, or may not be read.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise DataError(f"its numbers are in {name!r}; accepted is a file beside it")
    file = path.with_name(path.name).parent / name
    if not file.is_file():
        raise DataError(f"its numbers are in {name!r}, and there is no such file beside it")
    check_permission(file)
    return file


def _dtype(fields) -> np.dtype:
    kind = _DTYPES.get(fields.get("type", "").lower())
    if kind is None:
        raise DataError(f"type {fields.get('type')!r} is no type of numbers")
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None and kind[1] != "1":
        raise DataError("its header does not say endian: little or big")
    return np.dtype((order or "|") + kind)


def _geometry(fields, dimension) -> tuple[list[int], np.ndarray | None, tuple[str, ...]]:
    """Return the axes of space, their affine, and what is to be said about it."""
    directions = fields.get("space directions")
    space = fields.get("space", "").lower()
    assumed = () if space in _SPACES else ("positions are taken along left, posterior, superior",)
    to_ras = np.array(_SPACES.get(space, (-1, -1, 1)), float)
    if directions is None:
        kinds = fields.get("kinds", "domain " * dimension).lower().split()
        axes = [a for a, kind in enumerate(kinds) if kind in ("domain", "space", "???", "none")]
        spacings = [float(value) for value in fields.get("spacings", "").split()]
        axes = axes[:3] if len(kinds) == dimension else [*range(min(dimension, 3))]
        if len(spacings) != dimension or not axes:
            return axes, None, ()
        steps = np.array(spacings)[axes]
        return axes, lifted(np.diag(steps), np.zeros(len(axes)), to_ras), assumed
    vectors = re.findall(r"none|\([^()]*\)", directions.lower())
    axes = [a for a, vector in enumerate(vectors) if vector != "none"]
    matrix = np.array([_numbers(vectors[a]) for a in axes]).T
    origin = fields.get("space origin")
    offset = np.zeros(len(axes)) if origin is None else np.array(_numbers(origin))
    if len(vectors) != dimension or matrix.shape != 2 * offset.shape or len(offset) not in (2, 3):
        raise DataError(f"space directions {directions!r} are not those of {dimension} axes")
    return axes, lifted(matrix, offset, to_ras), assumed


def _numbers(vector) -> list[float]:
    numbers = [float(value) for value in vector.strip("() ").split(",")]
    if not all(map(math.isfinite, numbers)):
        raise DataError(f"{vector} is no vector")
    return numbers
