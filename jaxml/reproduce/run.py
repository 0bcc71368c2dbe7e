"""Runs experiments one after another and writes one report of them all."""

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxml import checks
from jaxml.output.report import Report, write_report
from jaxml.output.stages import Stages
from jaxml.reproduce import EXPERIMENTS, SCALES


@dataclass(frozen=True)
class Settings:
    """What an experiment runs with.

    Attributes:
      scale: one of `SCALES`.
      data: folder of the user's data, or None.
      seed: of every random choice.
    """

    scale: str
    data: Path | None
    seed: int


def reproduce(
    methods: Sequence[str] = (),
    *,
    scale: str = "standard",
    out: Path = Path("runs/latest"),
    data: Path | None = None,
    seed: int = 0,
) -> list[Report]:
    """Run the experiments of `methods` (all of them if empty) and write the report to `out`.

    Finished stages are kept in `out`, so a run that was ended continues where it was, and
    every file appears whole or not at all. In several processes (`jax.distributed`) all compute
    the same, with the rows of the speech corpus shared out, and the first one writes and shows
    progress; `out` and `data` are seen by all of them.

    Args:
      methods: some of `EXPERIMENTS`.
      scale: "quick" (minutes), "standard" (the figures of the README) or "paper".
      out: folder of report.md, report.html, results.json and a folder for each method.
      data: folder of the user's data; else the variable JAXML_DATA, else what can be fetched
        or is shipped by a package.
      seed: of every random choice, 0 or more.

    Returns:
      The report of each method, in the order in which they ran.

    Raises:
      ValueError: unknown method or scale, or `seed` out of range.
      DataError: unusable data.
      OSError: `out` cannot be written.
    """
    for method in methods:
        checks.choice(tuple(EXPERIMENTS), method=method)
    checks.choice(SCALES, scale=scale)
    checks.within(0, 2**31 - 1, seed=seed)
    settings = Settings(scale, data, seed)
    reports = []
    for name in dict.fromkeys(methods or EXPERIMENTS):
        module = importlib.import_module(EXPERIMENTS[name])
        start = time.perf_counter()
        with _progress() as progress:
            report = module.experiment(settings, Stages(out / name / "stages"), progress)
        reports.append(report.finished(time.perf_counter() - start))
        write_report(reports, out, scale=scale, seed=seed)
    return reports


def _progress():
    import jax
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=jax.process_index() != 0,
    )
