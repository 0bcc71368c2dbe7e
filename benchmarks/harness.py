"""What every benchmark does alike: options, where it ran, rounds in turns, the report."""

import argparse
import datetime
import importlib.metadata
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax


def parser(description: str, sections: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the options that all benchmarks have."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--quick", action="store_true", help="small sizes, a minute or two")
    options.add_argument("--sections", nargs="+", choices=sections, default=sections)
    options.add_argument("--out", type=Path, help="Markdown file to write")
    return options


def parsed(options: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options given; the program ends where the report could not be written."""
    found = options.parse_args()
    if found.out and not found.out.absolute().parent.is_dir():
        options.error(f"--out: the folder {found.out.absolute().parent} does not exist")
    return found


def run(
    head: Iterable[str],
    chapters: Mapping[str, Callable],
    options: argparse.Namespace,
    tail: Callable[[Sequence[str]], Iterable[str]] = lambda lines: (),
) -> int:
    """Print, and write where asked, the head, the chapters asked for, and what `tail` makes of all.

    Args:
      head: lines of Markdown.
      chapters: name of a section to a function that returns its lines.
      options: from `parsed`.
      tail: from the lines so far to the last ones.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    lines = []

    def tell(text: Iterable[str]) -> None:
        for line in text:
            print(line, flush=True)
            lines.append(line)

    tell(head)
    for section in options.sections:
        tell(chapters[section]())
    tell(list(tail(lines)))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    return 0


def machine(title: str, packages: Sequence[str], note: str) -> Iterator[str]:
    """Yield a title, and where, when and with which versions the figures were measured."""
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages if installed(p))
    devices = ", ".join(sorted({d.device_kind for d in jax.devices()}))
    yield f"# {title}"
    yield ""
    yield (
        f"{datetime.date.today().isoformat()}; {os.cpu_count()} cores of {_cpu()}; "
        f"JAX on {devices}; Python {platform.python_version()}, {versions}. {note}"
    )


def interleave(
    contenders: Mapping[str, Callable[[], tuple[float, Any]]],
    *,
    rounds: int,
    seconds: float,
    turn: float = 0.0,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the seconds of each contender's runs, in turns, and its last value.

    Args:
      contenders: functions that return their seconds and a value.
      rounds: turns of each.
      seconds: no further run once those of a contender add up to so many.
      turn: seconds that a contender runs in its turn, at least once.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    values = {}
    for _ in range(rounds):
        for name, call in contenders.items():
            turn_ends = time.perf_counter() + turn
            while sum(times[name]) < seconds:
                taken, values[name] = call()
                times[name].append(taken)
                if time.perf_counter() >= turn_ends:
                    break
    return times, values


def child() -> ProcessPoolExecutor:
    """Return a process that starts anew, with threads and memory of its own."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def torch_device() -> str:
    """Return where PyTorch has to run to be compared: where JAX does."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def use_torch(device: str) -> Callable[[], None]:
    """Let PyTorch make its tensors on a device; return a function that waits for its work there.

    Matrix products are in TF32 there as JAX's are by default.
    """
    import torch

    torch.set_default_device(device)
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def choose_torch_threads(run: Callable[[], Any]) -> None:
    """Let PyTorch use one thread or all, whichever makes the second call faster.

    On a machine with other work, threads that wait for each other can take ten times as long.
    """
    import torch

    seconds = {}
    for threads in {1, os.cpu_count() or 1}:
        torch.set_num_threads(threads)
        run()
        start = time.perf_counter()
        run()
        seconds[threads] = time.perf_counter() - start
    torch.set_num_threads(min(seconds, key=lambda threads: seconds[threads]))


def installed(package: str) -> bool:
    """Return whether a package is there."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
