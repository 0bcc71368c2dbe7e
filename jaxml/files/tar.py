"""Files of a tar archive, read and not extracted: no path in it counts."""

import gzip
import re
import tarfile
import zlib
from pathlib import Path
from typing import Any, cast

from jaxml.files.errors import DataError, damage
from jaxml.files.limits import MAX_BYTES, check_memory

_BLOCK = 2**20


class _Bounded:
    """An open file that refuses to read more than so many bytes in all.

    Long names and other headers of a tar are of any size that they claim.
    """

    def __init__(self, file: Any, max_bytes: int):
        self._file, self._left, self._max_bytes = file, max_bytes, max_bytes
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        claimed = self._max_bytes - self._left + size
        check_memory(claimed if size >= 0 else self._max_bytes + 1, self._max_bytes)
        content = self._file.read(size)
        self._left -= len(content)
        return content


def read_tar(archive: Path, wanted: str, *, max_bytes: int = MAX_BYTES) -> dict[str, bytes]:
    """Return the content of files of a gzipped tar archive.

    Links, which may point anywhere, and sparse files, which claim more than is there, are none.

    Args:
      archive: path of the archive.
      wanted: regular expression for the whole name of a file.
      max_bytes: most memory that the files may take.

    Returns:
      Bytes of the files by their names in the archive.

    Raises:
      OSError: it cannot be read.
      DataError: it is damaged, has two wanted files of one name, or is too large.
    """
    contents: dict[str, bytes] = {}
    taken = 0
    with (
        damage(tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error),
        gzip.open(archive) as expanded,
        tarfile.open(fileobj=cast(Any, _Bounded(expanded, max_bytes)), mode="r:") as files,
    ):
        for file in files:
            # The next header would lie before this one, and so for ever.
            if file.size < 0:
                raise DataError(f"{file.name} has {file.size} bytes")
            if file.isreg() and not file.issparse() and re.fullmatch(wanted, file.name):
                if file.name in contents:
                    raise DataError(f"two files are called {file.name[:80]!r}")
                taken += file.size
                check_memory(taken, max_bytes)
                contents[file.name] = _content(files.extractfile(file))
    return contents


def _content(file: Any) -> bytes:
    """Return the content of an open file, read in parts: its size may be any number."""
    parts = [file.read(_BLOCK)]
    while parts[-1]:
        parts.append(file.read(_BLOCK))
    return b"".join(parts)
