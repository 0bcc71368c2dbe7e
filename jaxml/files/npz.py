"""Arrays from npy and npz files that nobody vouches for.

numpy's own reader believes what a header says: it asks for the memory of any shape, hands the
header to Python's parser, takes what is no array for bytes, and fails in a dozen ways. Here a
shape must fill its file, a type is a number or a text, and damage is one error.
"""

import math
import re
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxml.files.errors import DataError, damage
from jaxml.files.limits import MAX_BYTES, check_memory
from jaxml.files.unique import first_repeated

_MAGIC = b"\x93NUMPY"
# What the length of the header is written as, by the version of the format.
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
_LONGEST_HEADER = 1000
# A text of no letters is left out: numpy gives each the memory of one.
_TYPE = re.compile(r"'descr': *'([<>|=]?[biufcSU][1-9]\d{0,7})'")
_ORDER = re.compile(r"'fortran_order': *(True|False)")
_SHAPE = re.compile(r"'shape': *\(((?:\d{1,18}, *)*(?:\d{1,18})?)\)")
# No deflated byte stands for more.
MOST_EXPANSION = 1032
# By bzip2, LZMA and zstd, which numpy does not write, a byte stands for any number of them.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_OTHERS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma", 93: "zstd"}
_BLOCK = 2**20
Stream = IO[bytes] | zipfile.ZipExtFile


def read_npy(path: Path, *, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Return the array of an npy file, in the byte order of this machine.

    Args:
      path: of the file.
      max_bytes: most memory that its array may take.

    Returns:
      The array, of any shape and of numbers or texts.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it cannot be read.
      DataError: it is damaged, an array of anything else than numbers or texts, or too large.
    """
    with _opened(path) as file, damage(prefix="no readable npy: "):
        check_memory(path.stat().st_size, max_bytes)
        return _array(file, path.stat().st_size)


def read_npz(path: Path, *names: str, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """Return arrays of an npz file.

    Args:
      path: of the file.
      names: of the arrays to read, those there are; all by default.
      max_bytes: most memory that these may take.

    Returns:
      Arrays by their names, in the byte order of this machine.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it cannot be read.
      DataError: it is damaged, has an array of anything else than numbers or texts, two of one
        name, or one that is compressed by another method than numpy's, or is too large.
    """
    # RuntimeError: an encrypted archive, or a compression that Python lacks.
    errors = EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error
    with (
        _opened(path) as file,
        damage(*errors, prefix="no readable npz: "),
        zipfile.ZipFile(file) as archive,
    ):
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            stored = (info.filename.removesuffix(".npy") for info in archive.infolist())
            raise DataError(f"two arrays are called {first_repeated(stored)!r}")
        # Members that lie over each other are how a small archive holds very much.
        if sum(info.compress_size for info in members.values()) > path.stat().st_size:
            raise DataError("its parts are larger than the file")
        chosen = [name for name in names or members if name in members]
        for name in chosen:
            _check_member(members[name])
        check_memory(sum(members[name].file_size for name in chosen), max_bytes)
        return {name: _member(archive, members[name]) for name in chosen}


def _opened(path: Path) -> IO[bytes]:
    # A pipe would be waited for.
    if path.exists() and not path.is_file():
        raise DataError("not a file")
    return path.open("rb")


def _check_member(info: zipfile.ZipInfo) -> None:
    if info.compress_type not in _METHODS:
        method = _OTHERS.get(info.compress_type, f"method {info.compress_type}")
        raise DataError(f"{info.filename} is compressed by {method}; accepted is stored, deflated")
    if info.file_size > MOST_EXPANSION * info.compress_size:
        raise DataError(f"{info.filename} claims more than it can hold")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        return _array(file, info.file_size)


def _array(file: Stream, size: int) -> np.ndarray:
    """Return the array of an open npy file of `size` bytes."""
    shape, order, dtype = _header(file)
    count = math.prod(shape) * dtype.itemsize
    if count != size - file.tell():
        raise DataError(f"{dtype}{list(shape)} does not fill {size} bytes")
    array = np.empty(shape, dtype, order)
    content = array.reshape(-1, order="A").view(np.uint8).data
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        content[start:stop] = _exactly(file, stop - start)
    array = array.astype(dtype.newbyteorder("="), copy=False)
    if dtype.kind == "U" and array.reshape(-1).view(np.uint32).max(initial=0) > sys.maxunicode:
        raise DataError("a text of other numbers than those of characters")
    return array


def _header(file: Stream) -> tuple[tuple[int, ...], Any, np.dtype]:
    """Return shape, "C" or "F", and type."""
    start = _exactly(file, len(_MAGIC) + 2)
    if not start.startswith(_MAGIC) or start[-2] not in _LENGTHS:
        raise DataError("not an npy file")
    width = _LENGTHS[start[-2]]
    (length,) = struct.unpack(width, _exactly(file, struct.calcsize(width)))
    text = _exactly(file, min(length, _LONGEST_HEADER)).decode("latin1")
    kind, order, shape = (pattern.search(text) for pattern in (_TYPE, _ORDER, _SHAPE))
    if kind is None or order is None or shape is None:
        raise DataError(f"no array of numbers or texts: {text.strip()[:80]}")
    sides = tuple(int(side) for side in re.findall(r"\d+", shape[1]))
    try:
        return sides, "F" if order[1] == "True" else "C", np.dtype(kind[1])
    except TypeError as error:
        raise DataError(str(error)) from error


def _exactly(file: Stream, count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise DataError("truncated")
    return content
