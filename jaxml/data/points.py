"""Landmarks of an image from CSV files, as ANTs and others write them."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxml.files.csv_text import parse_csv
from jaxml.files.errors import DataError, check_permission, unreadable
from jaxml.files.limits import MAX_BYTES, check_memory

_NAMES = ("x", "y", "z")
# Of a line: as text, its fields, and the numbers of a point.
_LINE_BYTES = 400
ACCEPTED = "give a .csv with a header line that has the columns x, y and, in space, z"


def load_points(
    path: Path | str, *, ndim: int | None = None, max_bytes: int = MAX_BYTES
) -> Float[np.ndarray, "point ndim"]:
    """Return the points of a CSV file with a header line and one point a line.

    Args:
      path: of the file; the columns are found by their names, in small or capital letters, and
        others are left out.
      ndim: 2 to take x and y of points that have a z as well; by default as many as there are.
      max_bytes: most memory that reading it may take.

    Returns:
      Points as they stand in the file: ANTs and ITK write mm along left, posterior, superior.

    Raises:
      DataError: the file is missing, unreadable or too large, lacks a column or points, or a line
        of it has no finite number in one.
    """
    path = Path(path)
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise DataError(f"{path}: {what}; {ACCEPTED}")
    check_permission(path)
    try:
        content = path.read_bytes()
        check_memory(len(content) + _LINE_BYTES * (content.count(b"\n") + 1), max_bytes)
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows = [(number, next(parse_csv(line))) for number, line in lines]
    except (OSError, ValueError) as error:
        raise unreadable(path, error, what="not a readable csv", accepted=ACCEPTED) from error
    header = [name.strip().lower() for name in rows[0][1]] if rows else []
    names = _NAMES[: ndim or (3 if "z" in header else 2)]
    if any(header.count(name) != 1 for name in names):
        raise DataError(f"{path}: columns {', '.join(header)[:80]!r}; {ACCEPTED}")
    if len(rows) < 2:
        raise DataError(f"{path}: no points; {ACCEPTED}")
    columns = [header.index(name) for name in names]
    return np.array([_point(path, number, fields, columns) for number, fields in rows[1:]])


def _point(path, number, fields, columns) -> list[float]:
    try:
        point = [float(fields[column]) for column in columns]
    except (ValueError, IndexError):
        point = [math.nan]
    if not all(map(math.isfinite, point)):
        raise DataError(f"{path}: line {number} has no finite number in each column of a point")
    return point
