"""Ctrl-C ends a command at the first try, whatever code it comes upon."""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

INTERRUPTED = 128 + signal.SIGINT
# A compiled loop of minutes does not see the signal before it ends.
_PATIENCE = 2.0


@contextlib.contextmanager
def interrupts(prefix: str) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C came.

    It raises KeyboardInterrupt as always. Where that is lost, as in a callback of the garbage
    collector, it is raised again; where it is made another error, the function tells. In an
    import, and where nothing ends within seconds, as in a long compiled loop, the process ends at
    once: all files of a run are written so that an end at any moment leaves them whole.

    Args:
      prefix: of the line that is told in the last case.

    Returns:
      A context manager; it does nothing outside the main thread, or where SIGINT is handled
      already.
    """
    came = False
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield lambda: came
        return

    def interrupt(number, frame):
        nonlocal came
        came = True
        if _imports(frame):
            _end(prefix)
        raise KeyboardInterrupt

    previous_hook = sys.unraisablehook

    def again(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            main = threading.main_thread().ident
            threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
        else:
            previous_hook(lost)

    with _watched(prefix):
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = again
        try:
            yield lambda: came
        finally:
            sys.unraisablehook = previous_hook
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _watched(prefix: str) -> Iterator[None]:
    """End the process some seconds after SIGINT, if the block has not ended by then."""
    signals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    previous = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)

    def watch() -> None:
        # Each signal is a byte, whatever the main thread does; at the end of the block come none.
        while number := os.read(signals, 1):
            if number[0] == signal.SIGINT and not _ends(signals):
                _end(prefix)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(wakeup)
        watcher.join()
        os.close(signals)


def _imports(frame: Any) -> bool:
    """Return whether a frame is within an import.

    There an error breaks off the start of extensions in C, and some then crash.
    """
    while frame is not None and frame.f_globals.get("__name__") != "importlib._bootstrap":
        frame = frame.f_back
    return frame is not None


def _end(prefix: str) -> None:
    """End the process here, with one line."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    # A progress bar hides the cursor.
    shows = "\x1b[?25h\n" if sys.stderr.isatty() else ""
    os.write(2, f"{shows}{prefix}: interrupted\n".encode())
    os._exit(INTERRUPTED)


def _ends(signals: int) -> bool:
    """Return whether the other end of a pipe is closed within the time."""
    end = time.monotonic() + _PATIENCE
    while (left := end - time.monotonic()) > 0:
        if select.select([signals], [], [], left)[0] and not os.read(signals, 1):
            return True
    return False
