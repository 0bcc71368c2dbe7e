"""Multifractal analysis of the user's own files: a table, and a plot and JSON for each."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxml import checks, multifractal
from jaxml.data import load_series
from jaxml.files.errors import DataError, damage
from jaxml.files.limits import MAX_BYTES
from jaxml.files.write import write_whole
from jaxml.output import plots
from jaxml.output.report import Table, markdown_table, to_json

# Of a name in bytes: with ".json" and the number of the process it is one of 255.
_LONGEST = 240


def analyze_files(
    files: Sequence[Path],
    out: Path,
    *,
    order: int = 1,
    scales: Sequence[int] | None = None,
    q: Sequence[float] | None = None,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Analyze each file, write `out`/NAME.json and NAME.png and return a table of all.

    Every file is read and checked before the first is analyzed, and what is analyzed is written
    at once: what is wrong with one file costs nothing of the others.

    Returns:
      The table, and where the plots and numbers are.

    Raises:
      DataError: a file that cannot be used, by its name.
      ValueError: two files of one name, or a name too long for those of the results.
    """
    names = [file.name for file in files]
    for name in names:
        if names.count(name) > 1:
            raise checks.refused("files", name, "each name once: results are written by it")
        if len(os.fsencode(name)) > _LONGEST:
            most = f"a name of up to {_LONGEST} bytes: results are written by it"
            raise checks.refused("files", name, most)
    settings: dict[str, Any] = {"order": order, "scales": scales, "q": q}
    for file in files if len(files) > 1 else ():
        _check(file, settings, max_bytes)
    rows = []
    for file in files:
        result, rate = _analyze(file, settings, max_bytes)
        write_whole(out / f"{file.name}.json", to_json(_numbers(file, result, rate, order)))
        write_whole(out / f"{file.name}.png", _plot(file.name, result))
        rows.append((file.name, *_summary(result)))
    header = ("file", "h(q max)", "h(2)", "h(q min)", "width", "asymmetry", "flat segments")
    return markdown_table(Table("", header, tuple(rows))) + f"\n\nplots and numbers: {out}"


def _check(file: Path, settings: dict[str, Any], max_bytes: int) -> None:
    """Fail now where the analysis of a file would fail after those of others."""
    series, _ = load_series(file, max_bytes=max_bytes)
    with damage(prefix=f"{file}: "):
        series = _in_default_precision(file, series)
        shape = jax.ShapeDtypeStruct(series.shape, series.dtype)
        jax.eval_shape(lambda x: multifractal.mfdfa(x, **settings).h, shape)


def _analyze(file: Path, settings: dict[str, Any], max_bytes: int):
    series, rate = load_series(file, max_bytes=max_bytes)
    with damage(prefix=f"{file}: "):
        series = _in_default_precision(file, series)
        # What overflows is refused below, as infinite or without a value.
        with np.errstate(over="ignore"):
            result = multifractal.mfdfa(series, **settings)
        if not np.isfinite(result.tau).all():
            raise checks.refused("q", settings["q"], "moment orders nearer to 0")
    return result, rate


def _in_default_precision(file, series):
    """Return float32 relative to the mean: an offset must not cost the digits of the signal."""
    if series.dtype == np.float32:
        return series
    with np.errstate(over="ignore", invalid="ignore"):
        centered = (series - series.mean()).astype(np.float32)
    if not np.isfinite(centered).all():
        raise DataError(
            f"{file}: values up to {np.abs(series).max():.1e}; accepted are ones below 1e38"
        )
    return centered


def _summary(result):
    h = np.asarray(result.h)
    q = np.asarray(result.q)
    two = np.flatnonzero(np.isclose(q, 2))
    flat = int(result.dropped.sum())
    if np.isfinite(result.log_fluctuation[0]).sum() < 2:
        return "constant", "-", "-", "-", "-", str(flat)
    second = f"{h[two[0]]:.3f}" if two.size else "-"
    ends = f"{h[q.argmax()]:.3f}", f"{h[q.argmin()]:.3f}"
    return (
        ends[0],
        second,
        ends[1],
        f"{float(result.width):.3f}",
        f"{float(result.asymmetry):+.2f}",
        str(flat),
    )


def _numbers(file, result, rate, order):
    fields = vars(result)
    if len(result.q) >= 3:
        quadratic = multifractal.quadratic_spectrum(result.alpha, result.f)
        fields = {**fields, "quadratic": vars(quadratic)}
    return {"file": str(file), "rate": rate, "order": order, **fields}


def _plot(name, result) -> bytes:
    q = np.asarray(result.q)
    log_s = np.log(np.asarray(result.scales))
    shown = [int(np.abs(q - value).argmin()) for value in (q.min(), 0, 2, q.max())]
    finite = np.isfinite(np.asarray(result.log_fluctuation[0]))
    lines = {
        f"q = {q[i]:g}": (log_s[finite], np.asarray(result.log_fluctuation[i])[finite])
        for i in dict.fromkeys(shown)
    }
    return plots.curves(
        [
            {"title": name, "lines": lines, "x": "ln s", "y": "ln F"},
            {"title": "", "lines": {"h": (q, np.asarray(result.h))}, "x": "q", "y": "h(q)"},
            {
                "title": "spectrum",
                "lines": {"f": (np.asarray(result.alpha), np.asarray(result.f))},
                "x": "alpha",
                "y": "f",
            },
        ]
    )
