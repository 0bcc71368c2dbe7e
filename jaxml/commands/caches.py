"""Where compiled programs and what other packages keep lie: in the user's cache, or nowhere."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxml.files.write import check_writable


@contextlib.contextmanager
def user_cache() -> Iterator[Path | None]:
    """Yield the folder of the user's caches, or None where none can be written.

    Accounts of services and containers have no home, or one that is read-only. Then other
    packages, of which numba and platformdirs raise errors, get a folder that is removed at the
    end.

    Returns:
      A context manager.

    Raises:
      OSError: not even a temporary folder can be written.
    """
    home = os.path.expanduser("~")
    # Without a home `~` stays, or is the root of the file system.
    has_home = home not in ("~", "/")
    named = os.environ.get("XDG_CACHE_HOME")
    cache = Path(named or Path(home, ".cache"))
    if has_home and _is_writable(cache):
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="jaxml-", ignore_cleanup_errors=True) as folder:
        names = ["MPLCONFIGDIR", "NUMBA_CACHE_DIR", *([] if has_home else ["HOME"])]
        before = {name: os.environ.get(name) for name in names}
        os.environ.update({name: folder for name in names if name == "HOME" or not before[name]})
        try:
            yield cache if named and _is_writable(cache) else None
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name)
                else:
                    os.environ[name] = value


def _is_writable(folder: Path) -> bool:
    try:
        check_writable(folder)
    except OSError:
        return False
    return True
