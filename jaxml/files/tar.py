"""Files of a tar archive, read and not extracted: no path in it counts."""

import re
import tarfile
import zlib
from pathlib import Path
from typing import Any

from jaxml.files.errors import DataError, damage

_BLOCK = 2**20


def read_tar(archive: Path, wanted: str) -> dict[str, bytes]:
    """Return the content of files of a gzipped tar archive.

    Links, which may point anywhere, and sparse files, which claim more than is there, are none.

    Args:
      archive: path of the archive.
      wanted: regular expression for the whole name of a file.

    Returns:
      Bytes of the files by their names in the archive.

    Raises:
      OSError: it cannot be read.
      DataError: it is damaged.
    """
    contents = {}
    with (
        damage(tarfile.TarError, EOFError, zlib.error),
        tarfile.open(archive, "r:gz") as files,
    ):
        for file in files:
            # The next header would lie before this one, and so for ever.
            if file.size < 0:
                raise DataError(f"{file.name} has {file.size} bytes")
            if file.isreg() and not file.issparse() and re.fullmatch(wanted, file.name):
                contents[file.name] = _content(files.extractfile(file))
    return contents


def _content(file: Any) -> bytes:
    """Return the content of an open file, read in parts: its size may be any number."""
    parts = [file.read(_BLOCK)]
    while parts[-1]:
        parts.append(file.read(_BLOCK))
    return b"".join(parts)
