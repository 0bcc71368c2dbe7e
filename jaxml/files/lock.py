"""One run at a time in a folder: a second one is told so before it changes anything."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from jaxml.files.errors import DataError

LOCK = ".lock"
# What `write.whole_file` writes to: the name of a result, and the process.
_PARTIAL = re.compile(
    r"\..+\.(?:csv|gz|html|json|jsonl|md|model|jinja|npy|npz|png|safetensors|txt)\.(\d+)"
)
# Folders between that of a run and its results, such as registration/stages.
_DEPTH = 2
# Of file systems and systems that have no such lock.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made where it is missing.

    The lock is one of the kernel, on a hidden file: it ends with the process, however that
    ends, so that a file that was left behind keeps nobody out. A folder that was made for it and
    is empty at the end is removed. Of several processes of one run (`jax.distributed`) the
    first holds it. Where the system or the file system has no such locks, there is none.

    Args:
      folder: of the results or of the checkpoints of one run.

    Returns:
      A context manager.

    Raises:
      DataError: another run is at work in the folder.
      OSError: the folder cannot be made or written.
    """
    if not _is_first_process():
        yield
        return
    missing = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    file = _locked(folder)
    try:
        yield
    finally:
        if file is not None:
            # Before it is let go: afterwards the name may be that of another run's lock.
            (folder / LOCK).unlink(missing_ok=True)
            os.close(file)
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()


def remove_partial_files(folder: Path) -> None:
    """Remove what ended processes have left of files that they were writing.

    Args:
      folder: of the results of a run that is `at_work` in it, whose files in it and in folders
        near it these are.
    """
    for depth in range(_DEPTH + 1):
        for path in folder.glob("*/" * depth + ".*"):
            match = _PARTIAL.fullmatch(path.name)
            if match and not _is_alive(int(match[1])):
                with contextlib.suppress(OSError):
                    path.unlink()


def _is_first_process() -> bool:
    import jax

    # Asked first, as the number of the process starts the devices, whose flags a command sets.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def _locked(folder: Path) -> int | None:
    """Return the open file that holds the lock, None where there are no locks."""
    try:
        import fcntl
    except ModuleNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        return None
    path = folder / LOCK
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            # Another run that has just ended took its empty folder away.
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(file, 20, 0).decode(errors="replace").strip()
            os.close(file)
            if error.errno in _NO_LOCKS:
                return None
            if not isinstance(error, BlockingIOError):
                raise
            raise DataError(
                f"{folder}: another run{f' (process {owner})' if owner else ''} is at work in "
                "it; wait for it, or give another folder"
            ) from None
        if _is_still(path, file):
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
            return file
        os.close(file)


def _is_still(path: Path, file: int) -> bool:
    """Return whether an open file is that of the path, which may be removed between both."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
