"""Multifractal analysis of the user's own files: a table, and a plot and JSON for each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxml import checks, multifractal
from jaxml.data import load_series
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.files.write import write_whole
from jaxml.output import plots
from jaxml.output.report import Table, markdown_table, to_json


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

    Every file is read and analyzed before the first is written.

    Returns:
      The table, and where the plots and numbers are.

    Raises:
      DataError: a file that cannot be used, by its name.
      ValueError: two files of one name.
    """
    names = [file.name for file in files]
    for name in names:
        if names.count(name) > 1:
            raise checks.refused("files", name, "each name once: results are written by it")
    results = {file: _analyze(file, order, scales, q, max_bytes) for file in files}
    for file, (result, rate) in results.items():
        write_whole(out / f"{file.name}.json", to_json(_numbers(file, result, rate, order)))
        write_whole(out / f"{file.name}.png", _plot(file.name, result))
    header = ("file", "h(q max)", "h(2)", "h(q min)", "width", "asymmetry", "flat segments")
    rows = tuple((file.name, *_summary(r)) for file, (r, _) in results.items())
    return markdown_table(Table("", header, rows)) + f"\n\nplots and numbers: {out}"


def _analyze(file, order, scales, q, max_bytes):
    series, rate = load_series(file, max_bytes=max_bytes)
    try:
        series = series if series.dtype == np.float32 else _in_default_precision(series)
        # What overflows is refused below, as infinite or without a value.
        with np.errstate(over="ignore"):
            result = multifractal.mfdfa(series, order=order, scales=scales, q=q)
        if not np.isfinite(result.tau).all():
            raise checks.refused("q", q, "moment orders nearer to 0")
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error
    return result, rate


def _in_default_precision(series):
    """Return float32 relative to the mean: an offset must not cost the digits of the signal."""
    with np.errstate(over="ignore", invalid="ignore"):
        centered = (series - series.mean()).astype(np.float32)
    if not np.isfinite(centered).all():
        raise DataError(f"values up to {np.abs(series).max():.1e}; accepted are ones below 1e38")
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
