"""The program `jaxml`, and `python -m jaxml`: the command line."""

import contextlib
import os
import signal
import sys


def run() -> None:
    """End the process with the status of the command line."""
    try:
        from jaxml.cli import main

        status = main()
    except KeyboardInterrupt:
        print("jaxml: interrupted", file=sys.stderr)
        status = 130
    # From here on nothing can tell of Ctrl-C in one line: it ends the process at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if status == 130:
        # What JAX still computes in other threads would crash in what the end takes down.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
