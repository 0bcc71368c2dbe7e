"""Damaged files, and what a reader may do with one: return, or raise the error it documents."""

import contextlib
import dataclasses
import os
import resource
import signal
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Of one reading: far more than these files need, far less than their headers come to claim.
MEMORY = 2**29
SECONDS = 20
NUMBERS = (0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1)
DIGITS = b'-1 0 99 65536 1099511627776 9999999999999999999999999 1e999 nan null "a"'.split()
TOKENS = (b"\0", b"\xff", b"\n", b",", b'"', b"{", b"[" * 3000, b"9" * 5000, b"\\ud800")


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader and a small file for it.

    Attributes:
      file: its name, with folders.
      make: returns the content that is to be damaged.
      read: takes the path of the file.
      wrap: from the content to that of the file, with checksums that are right again.
      beside: writes the other files of the folder, whose path it takes.
      errors: those the reader documents.
    """

    file: str
    make: Callable[[], bytes]
    read: Callable[[Path], Any]
    wrap: Callable[[bytes], bytes] = bytes
    beside: Callable[[Path], Any] = bool
    errors: tuple[type[Exception], ...] = (ValueError,)


class TooLong(BaseException):
    """No error that a reader may catch."""


def assert_survives(reader: Reader, folder: Path, count: int) -> None:
    """Read a good file and `count` damaged ones: each is read or refused, soon and in bounds."""
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    reader.beside(folder)
    content = reader.make()
    path.write_bytes(reader.wrap(content))
    reader.read(path)
    with limits():
        for number, damaged in enumerate(mutations(content, np.random.default_rng(0), count)):
            path.write_bytes(reader.wrap(damaged))
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                reader.read(path)
            except BaseException as error:
                if not isinstance(error, reader.errors) or _is_of_memory(error):
                    error.add_note(f"damaged file {number}")
                    raise
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)


def mutations(content: bytes, rng: np.random.Generator, count: int):
    """Yield an empty file, one of random bytes, and `content` with one to three changes."""
    yield b""
    yield rng.bytes(len(content))
    for _ in range(count - 2):
        changed = content
        for _ in range((1, 1, 2, 3)[rng.integers(4)]):
            changed = CHANGES[rng.integers(len(CHANGES))](changed, rng)
        yield changed


def _place(content, rng):
    """Return a place: headers are at the start, directories at the end."""
    near = int(rng.integers(0, min(len(content), 200) + 1))
    return (near, len(content) - near, int(rng.integers(0, len(content) + 1)))[rng.integers(3)]


def _slice(content, rng):
    start = _place(content, rng)
    return start, start + int(rng.integers(1, 65))


def _flip(content, rng):
    changed = bytearray(content)
    for _ in range(rng.integers(1, 5) if content else 0):
        changed[min(_place(content, rng), len(content) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(content, rng):
    return content[: _place(content, rng)]


def _delete(content, rng):
    start, stop = _slice(content, rng)
    return content[:start] + content[stop:]


def _repeat(content, rng):
    start, stop = _slice(content, rng)
    return content[:stop] + content[start:stop] * int(rng.integers(1, 4)) + content[stop:]


def _swap(content, rng):
    (a, b), (c, d) = sorted((_slice(content, rng), _slice(content, rng)))
    if b > c:
        return content
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _scramble(content, rng):
    start, stop = _slice(content, rng)
    return content[:start] + rng.bytes(stop - start) + content[stop:]


def _number(content, rng):
    """Overwrite what may be a length, by a huge, a negative or a small one."""
    width = int(2 ** rng.integers(4))
    order = ("little", "big")[rng.integers(2)]
    value = NUMBERS[rng.integers(len(NUMBERS))] % 2 ** (8 * width)
    start = _place(content, rng)
    if rng.integers(2):
        start -= start % width
    return content[:start] + value.to_bytes(width, order) + content[start + width :]


def _digits(content, rng):
    """Overwrite a number that is written in digits."""
    start = _place(content, rng)
    while start < len(content) and not content[start : start + 1].isdigit():
        start += 1
    stop = start
    while stop < len(content) and content[stop : stop + 1].isdigit():
        stop += 1
    return content[:start] + DIGITS[rng.integers(len(DIGITS))] + content[stop:]


def _token(content, rng):
    start = _place(content, rng)
    return content[:start] + TOKENS[rng.integers(len(TOKENS))] + content[start:]


CHANGES = (_flip, _cut, _delete, _repeat, _swap, _scramble, _number, _number, _digits, _token)


def _is_of_memory(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


@contextlib.contextmanager
def limits():
    """Let the process have little more memory than it has: to ask for more is an error."""

    def stop(*_):
        raise TooLong

    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    taken = Path("/proc/self/statm")
    # Only Linux tells how much that is.
    if taken.exists():
        size = int(taken.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


@contextlib.contextmanager
def public_folder():
    """Yield a folder that every user may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def forbidden(path: Path):
    """Let nobody read a file of a public folder; a superuser is another user meanwhile."""
    user, mode = os.geteuid(), path.stat().st_mode
    path.chmod(0)
    try:
        os.seteuid(user or 65534)
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


def without_checksums(png: bytes) -> bytes:
    """Return the chunks of a PNG, each without its checksum."""
    chunks, at = b"", 8
    while at < len(png):
        stop = at + 8 + int.from_bytes(png[at : at + 4])
        chunks += png[at:stop]
        at = stop + 4
    return chunks


def with_checksums(chunks: bytes) -> bytes:
    """Return the PNG of such chunks."""
    png, at = b"\x89PNG\r\n\x1a\n", 0
    while at < len(chunks):
        stop = at + 8 + int.from_bytes(chunks[at : at + 4])
        png += chunks[at:stop] + zlib.crc32(chunks[at + 4 : stop]).to_bytes(4)
        at = stop
    return png
