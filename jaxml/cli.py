"""The command line: `jaxml reproduce` and one tool a method for the user's own files."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxml.commands import (
    coreset,
    evaluate_unlearning,
    identify,
    mfdfa,
    register,
    reproduce,
    unlearn,
)
from jaxml.extras import extra
from jaxml.files.lock import at_work, remove_partial_files

COMMANDS = (reproduce, mfdfa, register, identify, coreset, unlearn, evaluate_unlearning)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 2 with one line on what was wrong, or 130 if it was interrupted."""
    args = _parser().parse_args(argv)
    try:
        with extra("experiments"):
            _check_plots()
            _use_compilation_cache()
            _keep_freed_memory()
            _quiet_checkpoints()
            _check_out(args.out)
            with at_work(args.out):
                remove_partial_files(args.out)
                args.run(args)
    except (ModuleNotFoundError, ValueError, OSError, FloatingPointError) as error:
        print(f"jaxml {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"jaxml {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxml", description="Five research methods in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _check_plots() -> None:
    """Miss what draws the plots now: they come last, after hours of work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(name="matplotlib")


def _check_out(folder: Path) -> None:
    """Miss a place for the results now, for the same reason."""
    from jaxml.files.write import check_writable

    check_writable(folder)


def _quiet_checkpoints() -> None:
    """Leave what goes wrong to one line: orbax also logs it, with pages of traces."""
    import logging

    from absl.logging import get_absl_logger

    for logger in (get_absl_logger(), logging.getLogger("asyncio")):
        logger.setLevel(logging.CRITICAL)
    # Of writes that go on in the background where the first one has failed.
    others = sys.unraisablehook
    sys.unraisablehook = lambda met: (
        None if str(met.exc_value) == "Event loop is closed" else others(met)
    )


def _use_compilation_cache() -> None:
    """Keep compiled programs between runs: here, not in the library, as it is a choice."""
    import jax

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "jaxml" / "xla"))
    # Those of the least programs cost as much to write as to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _keep_freed_memory() -> None:
    """Have glibc reuse large blocks: XLA's buffers come anew at each call, and pages cost."""
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)
