"""What a command says where memory is short, and how it is frugal under a limit."""

import ctypes
import errno
import os
from collections.abc import Iterable
from pathlib import Path

GIB = 2**30
# What a command on small files has resident, and what it maps with one heap for all threads, but
# for the stacks of the threads, some for each processor.
_RESIDENT, _MAPPED, _STACKS = GIB // 4, 7 * GIB // 5, GIB // 25
# Numbers of a file take at least half as many bytes as it has: text of 18 digits becomes float64.
_READ = 0.5
# Of the files of a folder; weights lie beside others of other programs.
_KINDS = {".safetensors", ".png", ".jpg", ".jpeg"}


def set_allocator() -> None:
    """Have glibc reuse large blocks: XLA's buffers come anew at each call, and pages cost.

    Under a limit of the address space a heap for all threads takes 1 GiB less than one for each.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    if address_limit() is not None:
        mallopt(arena_max, 1)
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)


def check_memory(paths: Iterable[Path]) -> None:
    """Fail now where the start of JAX and the content of files take more memory than there is.

    Past some limits XLA does not raise an error; it ends the process.

    Args:
      paths: files and folders that are read; those that are not there count nothing.

    Raises:
      MemoryError: with both numbers.
    """
    limit = address_limit()
    free = _free_memory()
    if limit is None and free is None:
        return
    files = _READ * sum(map(_size, paths))
    mapped = _MAPPED + _STACKS * (os.cpu_count() or 1)
    for start, room, what in (
        (mapped, limit, "the limit of the address space (ulimit -v)"),
        (_RESIDENT, free, "the memory that is free"),
    ):
        if room is not None and start + files > room:
            needs = f"needs at least {(start + files) / GIB:.1f} GiB"
            raise MemoryError(f"{needs}; {what} is {room / GIB:.1f} GiB")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory was short, in any of the ways it is said.

    Args:
      error: of Python, of the system's loader of libraries, or of JAX.
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    signs = ("resource_exhausted", "out of memory", "bad_alloc", "can't start new thread")
    if isinstance(error, ImportError | OSError):
        signs = ("failed to map segment", "cannot allocate memory")
    return any(sign in text for sign in signs)


def address_limit() -> int | None:
    """Return how many bytes this process may map, if there is a limit."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _free_memory() -> int | None:
    """Return how many bytes Linux can give, swap among them; None on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kibibytes = {name: int(rest.split()[0]) for name, rest in (l.split(":") for l in lines)}
        return 1024 * (kibibytes["MemAvailable"] + kibibytes["SwapFree"])
    except (OSError, ValueError, LookupError):
        return None


def _size(path: Path) -> int:
    """Return the bytes of a file, or of those of a folder that are read; 0 of what is not there."""
    try:
        files = path.rglob("*") if path.is_dir() else [path]
        kinds = _KINDS if path.is_dir() else {path.suffix}
        return sum(file.stat().st_size for file in files if file.suffix in kinds)
    except OSError:
        return 0
