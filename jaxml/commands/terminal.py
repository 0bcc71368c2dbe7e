"""What all commands read from the terminal, and how they write to it."""

import argparse
import ast
import contextlib
import sys
from importlib import resources
from pathlib import Path

from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.files.paths import expanded, is_utf8


def path(text: str) -> Path:
    """Return a path, with the home folder of a user in place of `~` or `~user`."""
    try:
        return expanded(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def utf8_path(text: str) -> Path:
    """Return a path as of `path`, for results of packages that take names in UTF-8 only."""
    place = path(text)
    if not is_utf8(place):
        raise argparse.ArgumentTypeError(f"{text!r}: accepted is a path in UTF-8")
    return place


def integer(text: str) -> int:
    """Return a whole number of 32 bits, as JAX holds it."""
    with contextlib.suppress(ValueError):
        if abs(number := int(text)) < 2**31:
            return number
    raise argparse.ArgumentTypeError(f"{text[:40]!r}: accepted is a whole number below 2^31")


def add_max_gib(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets larger files be read, as `max_bytes`."""
    parser.add_argument(
        "--max-gib",
        dest="max_bytes",
        type=_gib,
        default=MAX_BYTES,
        metavar="GIB",
        help=f"most memory that reading a file may take ({MAX_BYTES >> 30} by default)",
    )


def _gib(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 < (gib := float(text)) < 2**30:
            return int(gib * 2**30)
    raise argparse.ArgumentTypeError(f"{text[:40]!r}: accepted is a number of GiB above 0")


def names_in(file: str, table: str) -> list[str]:
    """Return the keys of a table in the library's source, which to import would load JAX.

    Args:
      file: of the package, such as "unlearning/_objectives.py".
      table: a dict of that file with strings as keys.
    """
    source = resources.files("jaxml").joinpath(file).read_text()
    (keys,) = (
        node.value.keys
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign)
        and ast.unparse(node.target) == table
        and isinstance(node.value, ast.Dict)
    )
    return [ast.literal_eval(key) for key in keys if key is not None]


def say(text: str, file=None) -> None:
    """Print in the first of several processes; what the terminal cannot show is escaped."""
    import jax

    if jax.process_index() == 0:
        file = file or sys.stdout
        encoding = file.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=file)
