"""Files that appear under their names only when they are complete."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxml.files.paths import LONGEST_NAME


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a hidden name beside `path`; what is written there gets the name at the end.

    It has the permissions of any new file, whatever those that the block wrote it with. Nothing
    is left under either name where the block raises; an older file of the name stays.

    Args:
      path: of the file; its folder is made where it is missing.

    Returns:
      A context manager, which yields the hidden path.

    Raises:
      OSError: it cannot be written, such as on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # By the file system, which knows the umask; to ask for that is to change it for a moment.
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        partial.chmod(mode)
        os.replace(partial, path)
    except OSError as error:
        # The error of a full disk does not name the file.
        error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write the content of a file whole or not at all.

    Of several processes the first writes it.

    Args:
      path: of the file; its folder is made where it is missing.
      content: of the file.

    Raises:
      OSError: it cannot be written, such as on a full disk; an older file of the name stays.
    """
    import jax

    if jax.process_index() != 0:
        return
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def check_writable(folder: Path) -> None:
    """Fail now where writing into a folder would fail hours later; it is not made.

    Args:
      folder: of results to come.

    Raises:
      OSError: nothing can be written to the folder, or to the first of its parents that exists, a
        link to nothing among them, or a name in it is too long.
    """
    try:
        existing = next(
            path for path in (folder.absolute(), *folder.absolute().parents) if _is(path)
        )
        if existing.is_symlink() and not existing.exists():
            raise OSError(errno.ENOENT, "a link to nothing")
        with tempfile.TemporaryFile(dir=existing):
            pass
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in folder.absolute().parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except OSError as error:
        raise OSError(f"{folder}: cannot be written: {error.strerror}") from error


def _is(path: Path) -> bool:
    """Return whether something has this name, be it a link to nothing."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
