"""Where the user's own data is."""

import os
from pathlib import Path

from jaxml.files.paths import expanded


def named_folder(folder: Path | str | None) -> Path | None:
    """Return the user's data, else the folder that the variable JAXML_DATA names, else None.

    Args:
      folder: what the user named; None or an empty text for nothing.

    Returns:
      The path, with the user's home for "~".
    """
    named = folder or os.environ.get("JAXML_DATA")
    return expanded(named) if named else None
