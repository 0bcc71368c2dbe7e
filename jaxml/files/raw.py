"""Arrays that are described elsewhere: bytes at a place of a file, deflated or not."""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from jaxml.files.errors import DataError, damage
from jaxml.files.limits import check_memory
from jaxml.files.npz import MOST_EXPANSION

_BLOCK = 2**20
# Of zlib: takes the header of gzip as well as its own.
_EITHER_HEADER = 32 + zlib.MAX_WBITS


def read_raw(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    start: int,
    deflated: bool,
    max_bytes: int,
) -> np.ndarray:
    """Return an array whose first axis is the fastest, in the byte order of this machine.

    Args:
      path: of the file.
      shape: of the array.
      dtype: of its numbers, with their byte order.
      start: byte of the file at which they start; -1 for those that end it.
      deflated: whether they are a stream of gzip or zlib.
      max_bytes: most memory that the array may take with a copy in its type or in single precision.

    Returns:
      The array.

    Raises:
      OSError: the file cannot be read.
      DataError: it ends before the array does, is damaged or too large.
    """
    count, size = math.prod(shape) * dtype.itemsize, path.stat().st_size
    if start == -1 and not deflated:
        start = size - count
    room = (size - start) * (MOST_EXPANSION if deflated else 1)
    if min(shape, default=0) < 1 or not 0 <= start <= size or count > room:
        raise DataError(f"{dtype}{list(shape)} from byte {start} on does not fit in {size} bytes")
    check_memory(count + math.prod(shape) * max(dtype.itemsize, 4), max_bytes)
    array = np.empty(shape, dtype, "F")
    content, at = array.reshape(-1, order="F").view(np.uint8).data, 0
    with path.open("rb") as file, damage(zlib.error):
        file.seek(start)
        for block in _inflated(file) if deflated else iter(lambda: file.read(_BLOCK), b""):
            block = block[: count - at]
            content[at : at + len(block)] = block
            at += len(block)
            if at == count:
                return array.astype(dtype.newbyteorder("="), copy=False)
    raise DataError(f"truncated: {at} of {count} bytes are there")


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of the streams of a file, one behind the other, in small blocks."""
    packer = zlib.decompressobj(_EITHER_HEADER)
    waiting = b""
    while waiting := waiting or file.read(_BLOCK):
        if packer.eof:
            packer = zlib.decompressobj(_EITHER_HEADER)
        yield packer.decompress(waiting, _BLOCK)
        waiting = packer.unused_data if packer.eof else packer.unconsumed_tail
