"""Paths as a user writes them."""

import os
from pathlib import Path

from jaxml.files.errors import DataError

# Of a name in bytes, on the file systems of all common systems.
LONGEST_NAME = 255


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder of a user in place of `~` or `~user`.

    Args:
      path: as a user writes it. A file that is there under its name with a `~` stays itself.

    Raises:
      DataError: there is no such user or no home folder, or a name is longer than any file's.
    """
    try:
        place = Path(path).expanduser()
    except RuntimeError as error:
        if os.path.lexists(path):
            return Path(path)
        user = Path(path).parts[0]
        accepted = f"accepted is a user's name, or ./{user} for a file of that name"
        raise DataError(f"{path}: no home folder is known for {user}; {accepted}") from error
    longest = max((os.fsencode(part) for part in place.parts), key=len, default=b"")
    if len(longest) > LONGEST_NAME:
        raise DataError(f"{path}: a name of {len(longest)} bytes; accepted are {LONGEST_NAME}")
    return place


def is_utf8(path: Path) -> bool:
    """Return whether the whole of a path is UTF-8, without which some packages fail.

    Args:
      path: relative to the folder where one is, or not.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True
