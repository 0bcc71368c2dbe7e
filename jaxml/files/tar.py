"""Files of a tar archive, read and not extracted: no path in it counts."""

import re
import tarfile
import zlib
from pathlib import Path
from typing import Any

_BLOCK = 2**20


def read_tar(archive: Path, wanted: str) -> dict[str, bytes]:
    """Return the content of files of a gzipped tar archive by their names in it.

    Links, which may point anywhere, and sparse files, which claim more than is there, are none.

    Args:
      archive: path of it.
      wanted: regular expression for the whole name of a file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is damaged.
    """
    found = {}
    try:
        with tarfile.open(archive, "r:gz") as files:
            for file in files:
                # The next header would lie before this one, and so for ever.
                if file.size < 0:
                    raise ValueError(f"{file.name} has {file.size} bytes")
                if file.isreg() and not file.issparse() and re.fullmatch(wanted, file.name):
                    found[file.name] = _content(files.extractfile(file))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return found


def _content(file: Any) -> bytes:
    """Return the content of an open file, read in parts: its size may be any number."""
    parts = [file.read(_BLOCK)]
    while parts[-1]:
        parts.append(file.read(_BLOCK))
    return b"".join(parts)
