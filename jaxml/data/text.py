"""Texts to learn and to forget: the user's, else the documentation strings of Python."""

import ast
import dataclasses
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer

from jaxml.data.folder import named_folder
from jaxml.data.rows import LAYOUT as TABLE
from jaxml.data.rows import SUFFIXES, find_files, read_rows, read_text
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES

LAYOUT = "a folder with txt files in UTF-8, one a book, in it or in its folder text"
# Modules of the standard library with much documentation: 18 to 68 thousand characters.
MODULES = (
    "_pydecimal.py",
    "turtle.py",
    "typing.py",
    "difflib.py",
    "logging/__init__.py",
    "inspect.py",
    "ipaddress.py",
    "statistics.py",
)
FEWEST_BOOKS = 3


@dataclasses.dataclass(frozen=True)
class TextCorpus:
    """Books, each one text.

    Attributes:
      names: of the books.
      texts: of the books, in the same order.
      source: one line that says what was used.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    source: str


def load_books(folder: Path | str | None, *, max_bytes: int = MAX_BYTES) -> TextCorpus:
    """Return the first books there are: of the folder, else documentation strings of Python.

    Args:
      folder: the user's data, else the folder that the variable JAXML_DATA names: what `LAYOUT`
        says. Books are in order of their names.
      max_bytes: most memory that a book may take.

    Returns:
      The books.

    Raises:
      DataError: a named folder is missing, holds no text or an empty one, or a text cannot be
        read or is too large; without a folder, the sources of the standard library are not there.
    """
    path = named_folder(folder)
    if path is None:
        return _documentation()
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give {LAYOUT}")
    inner = path / "text" if (path / "text").is_dir() else path
    files = sorted(file for file in inner.glob("*.txt") if not file.name.startswith("."))
    if not files:
        raise DataError(f"{inner}: no txt files; give {LAYOUT}")
    texts = tuple(_book(file, max_bytes) for file in files)
    return _corpus([file.stem for file in files], texts, str(inner))


def load_texts(
    path: Path | str, *, column: str = "text", max_bytes: int = MAX_BYTES
) -> tuple[str, ...]:
    """Return the texts of a file: a txt as one, a table as one a row.

    So are the corpora of WMDP, and `raw` and `privleak` of MUSE, read. Blank rows are left out.

    Args:
      path: a txt file, or as for `read_rows`.
      column: name of the table's column.
      max_bytes: most memory that a file may take.

    Returns:
      The texts in the order of the file.

    Raises:
      DataError: the file is missing, cannot be read, is too large, lacks the column, or holds no
        text.
    """
    files = find_files(
        path, suffixes=(".txt", *SUFFIXES), layout=f"a txt file in UTF-8, or {TABLE}"
    )
    if files[0].suffix.lower() == ".txt":
        return tuple(_book(file, max_bytes) for file in files)
    texts = []
    for number, row in enumerate(read_rows(path, max_bytes=max_bytes), 1):
        if not isinstance(row.get(column), str):
            wrong = f"is {row[column]!r}" if column in row else f"is not among {', '.join(row)}"
            raise DataError(f"{path}, row {number}: column {column!r} {wrong}; give a text")
        if row[column].strip():
            texts.append(row[column])
    if not texts:
        raise DataError(f"{path}: all rows are blank; give texts")
    return tuple(texts)


def chunk_tokens(
    tokens: Integer[np.ndarray, " time"] | Sequence[int], length: int, *, first: int | None = None
) -> Int[np.ndarray, "chunk length"]:
    """Return a text cut into chunks of one length, without overlap, as MUSE has it.

    The last chunk is filled up from the start of the text.

    Args:
      tokens: of the text, `[time]`.
      length: tokens of a chunk.
      first: token at the start of every chunk, such as that of the beginning of a text, part of
        `length`; none by default.

    Returns:
      int32 `[chunk, length]`.

    Raises:
      ValueError: the text is shorter than a chunk, it is not one row of integers, or `length`
        has no room for a token.
    """
    # Loaders import no JAX: the processes that download and speak start sooner without.
    from jaxml import checks

    room = length - (first is not None)
    array = np.asarray(tokens)
    checks.counts(least=length - room + 1, length=length)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise checks.refused("tokens", array, "a row of integers")
    if array.size < room:
        raise checks.refused("tokens", array, f"{room} tokens or more, as many as a chunk has")
    missing = -array.size % room
    body = np.concatenate([array, array[:missing]]).astype(np.int32).reshape(-1, room)
    if first is None:
        return body
    return np.concatenate([np.full((len(body), 1), first, np.int32), body], axis=1)


def _documentation() -> TextCorpus:
    folder = Path(sysconfig.get_path("stdlib"))
    books = {}
    for module in MODULES:
        try:
            tree = ast.parse((folder / module).read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        name = module.removesuffix(".py").removesuffix("/__init__")
        books[name] = "\n\n".join(_docstrings(tree)) + "\n"
    if len(books) < FEWEST_BOOKS:
        raise DataError(f"{folder}: no sources of Python's modules; name a folder: {LAYOUT}")
    return _corpus(list(books), tuple(books.values()), "documentation strings of Python")


def _docstrings(tree: ast.Module) -> list[str]:
    """Those of the module, its classes and functions, in order of the source."""
    inner = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    nodes = [tree, *sorted(inner, key=lambda node: node.lineno)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def _book(path: Path, max_bytes: int) -> str:
    text = read_text(path, max_bytes=max_bytes)
    if not text.strip():
        raise DataError(f"{path}: no text in it; give a txt file with words")
    return text


def _corpus(names: list[str], texts: tuple[str, ...], what: str) -> TextCorpus:
    size = sum(map(len, texts))
    source = f"{what} ({len(texts)} books, {size} characters)"
    return TextCorpus(tuple(names), texts, source)
