"""How much memory the values of one file may take, by what it claims and before they are read.

A few kilobytes may stand for gigabytes: silence, one color, one row again and again.
"""

from jaxml.files.errors import TooLargeError

MAX_BYTES = 4 * 2**30
# About what Python takes for a row as a dictionary, and for a value in it beside its own bytes.
ROW_BYTES, VALUE_BYTES = 240, 64


def check_memory(claimed: int, max_bytes: int, *, prefix: str = "") -> None:
    """Refuse a file by the memory that it would take.

    Args:
      claimed: bytes of its values.
      max_bytes: most that is accepted.
      prefix: of the message, where no caller names the file.

    Raises:
      TooLargeError: it claims more.
    """
    if claimed > max_bytes:
        raise TooLargeError(
            f"{prefix}would take {_gib(claimed)} of memory: accepted is at most "
            f"{_gib(max_bytes)}; give max_bytes, in a terminal --max-gib, to read it"
        )


def _gib(count: int) -> str:
    gib = count / 2**30
    return f"{gib:,.0f} GiB" if gib >= 1000 else f"{gib:.3g} GiB"
