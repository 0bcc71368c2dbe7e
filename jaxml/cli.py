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
    unfold,
    unlearn,
    warp,
)
from jaxml.commands.caches import user_cache
from jaxml.commands.interrupts import INTERRUPTED, interrupts
from jaxml.commands.memory import check_memory, is_out_of_memory, set_allocator
from jaxml.extras import extra
from jaxml.files.lock import at_work, remove_partial_files
from jaxml.files.names import one_line

COMMANDS = (
    reproduce,
    mfdfa,
    register,
    warp,
    unfold,
    identify,
    coreset,
    unlearn,
    evaluate_unlearning,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 2 with one line on what was wrong, or 130 if it was interrupted.

    `register` returns 3 for a result that cannot be true.
    """
    args = _parser().parse_args(argv)
    prefix = f"jaxml {args.command}"
    interrupted, code = False, 0
    with interrupts(prefix) as came:
        try:
            code = _run(args)
        except Exception as error:
            # Ctrl-C in an import or in a callback of JAX comes out as another error.
            if not came():
                message = _message(error, args.less)
                if message is None:
                    raise
                print(f"{prefix}: {message}", file=sys.stderr)
                return 2
        except KeyboardInterrupt:
            interrupted = True
    if interrupted or came():
        print(f"{prefix}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def _run(args: argparse.Namespace) -> int:
    with extra("experiments"), user_cache() as cache:
        set_allocator()
        check_memory(_read(args))
        _check_plots()
        _use_compilation_cache(cache)
        _quiet_packages()
        _check_out(args.out)
        with at_work(args.out):
            remove_partial_files(args.out)
            return args.run(args) or 0


def _message(error: Exception, less: str) -> str | None:
    """Return the line of an error that says what is wrong with what was given, else None."""
    if is_out_of_memory(error):
        return f"out of memory: {one_line(error)}; give more memory, or {less}"
    known = ImportError | ValueError | OSError | FloatingPointError
    # An error of JAX is met where JAX is loaded.
    if isinstance(error, known) or type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError"):
        return one_line(error)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxml", description="Five research methods in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _read(args: argparse.Namespace) -> list[Path]:
    """Return the paths among the arguments, but those of results and of a folder of all data."""
    named = {k: v for k, v in vars(args).items() if k not in ("out", "data")}
    lists = (value if isinstance(value, list | tuple) else [value] for value in named.values())
    return [path for paths in lists for path in paths if isinstance(path, Path)]


def _check_plots() -> None:
    """Miss what draws the plots now: they come last, after hours of work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(name="matplotlib")


def _check_out(folder: Path) -> None:
    """Miss a place for the results now, for the same reason."""
    from jaxml.files.write import check_writable

    check_writable(folder)


def _quiet_packages() -> None:
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
    # It tells everyone that PyTorch is missing, which is not needed.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _use_compilation_cache(cache: Path | None) -> None:
    """Keep compiled programs between runs: here, not in the library, as it is a choice."""
    import jax

    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache / "jaxml" / "xla"))
    # Those of the least programs cost as much to write as to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
