"""Rows of a table of text: JSON, JSON lines, CSV with a header, or Parquet."""

import glob
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxml.files.csv_text import parse_csv
from jaxml.files.errors import DataError, unreadable
from jaxml.files.limits import MAX_BYTES, ROW_BYTES, VALUE_BYTES, check_memory
from jaxml.files.parquet import read_parquet
from jaxml.files.paths import expanded
from jaxml.files.strict_json import parse_json
from jaxml.files.unique import first_repeated

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
# A number of too many digits is a plain ValueError, and objects in objects in objects the other.
NOT_JSON = (ValueError, RecursionError)
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
LAYOUT = (
    "a json file (a list, or an object a line), jsonl, csv with a header, or parquet; the name "
    "may lack its suffix, or be that of the files NAME-*-of-*.parquet"
)


def read_rows(path: Path | str, *, max_bytes: int = MAX_BYTES) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries of their columns.

    A row of JSON that is a text alone has the one column "text".

    Args:
      path: what `LAYOUT` says.
      max_bytes: most memory that a file may take.

    Returns:
      A dictionary a row, in the order of the file.

    Raises:
      DataError: there is no such file, it cannot be read, is too large, holds no rows, or has two
        columns of one name, or two keys in one object.
    """
    files = find_files(path)
    rows = [row for file in files for row in _rows_of(file, max_bytes)]
    if not rows:
        raise DataError(f"{files[0]}: no rows; give {LAYOUT}")
    return rows


def find_files(
    path: Path | str, *, suffixes: tuple[str, ...] = SUFFIXES, layout: str = LAYOUT
) -> list[Path]:
    """Return the file of a name, or its parts in order.

    Args:
      path: a file, one without its suffix, or the name of files `NAME-*-of-*.parquet`.
      suffixes: those to look for, the first before the others.
      layout: what is accepted, for the message.

    Returns:
      One path, or those of the parts.

    Raises:
      DataError: there is no such file.
    """
    path = expanded(path)
    if path.is_file():
        return [path]
    # A path such as "/" has no name to put a suffix to.
    for suffix in suffixes if path.name else ():
        file = path.with_name(path.name + suffix)
        if file.is_file():
            return [file]
        parts = path.parent.glob(f"{glob.escape(path.name)}-*-of-*{suffix}")
        parts = sorted(part for part in parts if part.is_file())
        if parts:
            return parts
    raise DataError(f"{path}: no such file; give {layout}")


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Args:
      path: of the file.
      max_bytes: most memory that it may take.

    Returns:
      The text, without a byte order mark, each of its lines ending in a line feed.

    Raises:
      DataError: it cannot be read, or is too large.
    """
    text = _read_text(path, max_bytes)
    # In most texts there are none, and these may be large.
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def csv_lines(path: Path, *, max_bytes: int = MAX_BYTES) -> list[list[str]]:
    """Return the fields of every line of a CSV file that is not empty.

    Args:
      path: of the file, in UTF-8.
      max_bytes: most memory that it may take.

    Returns:
      A list of texts a line.

    Raises:
      DataError: it cannot be read, or is too large.
    """
    text = _read_text(path, max_bytes)
    lines, taken = [], len(text)
    try:
        for line in parse_csv(text):
            taken += ROW_BYTES + VALUE_BYTES * len(line)
            check_memory(taken, max_bytes)
            lines.append(line)
    except ValueError as error:
        accepted = f"give {LAYOUT}"
        raise unreadable(path, error, what="not a readable csv", accepted=accepted) from error
    return lines


def _read_text(path: Path, max_bytes: int) -> str:
    try:
        # A pipe would be waited for.
        if not path.is_file():
            raise OSError("not a file")
        check_memory(path.stat().st_size, max_bytes)
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        what = "not a readable text in UTF-8"
        raise unreadable(path, error, what=what, accepted="give one") from error


def _rows_of(path: Path, max_bytes: int) -> list[dict[str, Any]]:
    readers = {".json": _json_rows, ".jsonl": _json_lines, ".csv": _csv_rows}
    readers[".parquet"] = _parquet_rows
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: suffix {path.suffix!r} is unknown; give {LAYOUT}")
    return readers[path.suffix.lower()](path, max_bytes)


def _json_rows(path: Path, max_bytes: int) -> list[dict[str, Any]]:
    text = _json_text(path, max_bytes)
    try:
        value = _parsed(text)
    except NOT_JSON as error:
        # TOFU names files of JSON lines so.
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return _json_lines(path, max_bytes)
        raise DataError(f"{path}: not json ({error}); give {LAYOUT}") from error
    return list(_dictionaries(value if isinstance(value, list) else [value], path))


def _json_lines(path: Path, max_bytes: int) -> list[dict[str, Any]]:
    values = []
    # Not splitlines: texts may hold other separators than the end of a line.
    for number, line in enumerate(_json_text(path, max_bytes).split("\n"), 1):
        if line.strip():
            try:
                values.append(_parsed(line))
            except NOT_JSON as error:
                raise DataError(f"{path}, line {number}: not json ({error})") from error
    return list(_dictionaries(values, path))


def _json_text(path: Path, max_bytes: int) -> str:
    """Return the text of a file of JSON, of whose objects and values there are not too many."""
    text = read_text(path, max_bytes=max_bytes)
    values = text.count(",") + text.count("[")
    claimed = len(text) + ROW_BYTES * text.count("{") + VALUE_BYTES * values
    check_memory(claimed, max_bytes, prefix=f"{path}: ")
    return text


def _parsed(text: str) -> Any:
    value = parse_json(text)
    # Half of a pair of surrogates is no character: no tokenizer takes it, and no file.
    if SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _dictionaries(values: list[Any], path: Path) -> Iterator[dict[str, Any]]:
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict | str):
            kind = type(value).__name__
            raise DataError(f"{path}, row {number}: a {kind}; give an object or a text")
        yield {"text": value} if isinstance(value, str) else value


def _csv_rows(path: Path, max_bytes: int) -> list[dict[str, Any]]:
    header, *lines = csv_lines(path, max_bytes=max_bytes) or [[]]
    if (twice := first_repeated(header)) is not None:
        raise DataError(f"{path}: two columns are called {twice!r}; give each its name")
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise DataError(
                f"{path}, row {number}: {len(line)} fields, but {len(header)} in the header"
            )
    return [dict(zip(header, line, strict=True)) for line in lines]


def _parquet_rows(path: Path, max_bytes: int) -> list[dict[str, Any]]:
    try:
        return read_parquet(path, max_bytes=max_bytes)
    except ImportError as error:
        raise DataError(f"{path}: parquet is read by pyarrow ({error}); install it") from error
    except (OSError, ValueError) as error:
        what, accepted = "not a readable parquet file", f"give {LAYOUT}"
        raise unreadable(path, error, what=what, accepted=accepted) from error
