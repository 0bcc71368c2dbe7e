"""Rows of a table of text: JSON, JSON lines, CSV with a header, or Parquet."""

import csv
import glob
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxml.files.errors import DataError
from jaxml.files.paths import expanded

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
# A number of too many digits is a plain ValueError, and lists in lists in lists the other.
NOT_JSON = (ValueError, RecursionError)
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
LAYOUT = (
    "a json file (a list, or an object a line), jsonl, csv with a header, or parquet; the name "
    "may lack its suffix, or be that of the files NAME-*-of-*.parquet"
)


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries of their columns.

    A row of JSON that is a text alone has the one column "text".

    Args:
      path: what `LAYOUT` says.

    Returns:
      A dictionary a row, in the order of the file.

    Raises:
      DataError: there is no such file, it cannot be read, or it holds no rows.
    """
    files = find_files(path)
    rows = [row for file in files for row in _rows_of(file)]
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


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Args:
      path: of the file.

    Returns:
      The text, without a byte order mark.

    Raises:
      DataError: it cannot be read.
    """
    try:
        # A pipe would be waited for.
        if not path.is_file():
            raise OSError("not a file")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable text in UTF-8 ({error})") from error


def csv_lines(path: Path) -> list[list[str]]:
    """Return the fields of every line of a CSV file that is not empty.

    Args:
      path: of the file, in UTF-8.

    Returns:
      A list of texts a line.

    Raises:
      DataError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return [line for line in csv.reader(lines, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable csv ({error}); give {LAYOUT}") from error


def _rows_of(path: Path) -> list[dict[str, Any]]:
    readers = {".json": _json_rows, ".jsonl": _json_lines, ".csv": _csv_rows}
    readers[".parquet"] = _parquet_rows
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: suffix {path.suffix!r} is unknown; give {LAYOUT}")
    return readers[path.suffix.lower()](path)


def _json_rows(path: Path) -> list[dict[str, Any]]:
    text = read_text(path)
    try:
        value = _parsed(text)
    except NOT_JSON as error:
        # TOFU names files of JSON lines so.
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return _json_lines(path)
        raise DataError(f"{path}: not json ({error}); give {LAYOUT}") from error
    return list(_dictionaries(value if isinstance(value, list) else [value], path))


def _json_lines(path: Path) -> list[dict[str, Any]]:
    values = []
    # Not splitlines: texts may hold other separators than the end of a line.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                values.append(_parsed(line))
            except NOT_JSON as error:
                raise DataError(f"{path}, line {number}: not json ({error})") from error
    return list(_dictionaries(values, path))


def _parsed(text: str) -> Any:
    value = json.loads(text)
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


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    header, *lines = csv_lines(path) or [[]]
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise DataError(
                f"{path}, row {number}: {len(line)} fields, but {len(header)} in the header"
            )
    return [dict(zip(header, line, strict=True)) for line in lines]


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"{path}: parquet is read by pyarrow ({error}); install it") from error
    try:
        # Not all at once: memory for as many rows as the file claims would be asked for.
        with parquet.ParquetFile(path) as file:
            return [row for batch in file.iter_batches() for row in batch.to_pylist()]
    except (OSError, ValueError, OverflowError, ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
