"""A report of tables, figures and paragraphs, written as Markdown, HTML and JSON."""

import base64
import dataclasses
import html
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import jaxml
from jaxml.files.names import shown
from jaxml.files.write import write_whole


@dataclass(frozen=True)
class Table:
    """Rows of text under a header, with a caption.

    Attributes:
      caption: one sentence.
      header: names of the columns.
      rows: a text for each column.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A picture with a caption.

    Attributes:
      name: of the file, without its suffix.
      caption: one sentence.
      png: content of the file.
    """

    name: str
    caption: str
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class Report:
    """What one experiment found: parts in reading order, and the bare numbers.

    Attributes:
      method: name of the method and of the folder of its figures.
      title: headline.
      parts: paragraphs (text), tables and figures.
      results: numbers for results.json.
      seconds: duration of the run that wrote it.
    """

    method: str
    title: str
    parts: tuple[str | Table | Figure, ...]
    results: dict[str, Any]
    seconds: float = 0.0

    def finished(self, seconds: float) -> "Report":
        """Return the report with its duration.

        Args:
          seconds: that the run took.

        Returns:
          A new report.
        """
        return dataclasses.replace(self, seconds=seconds)


def mean_and_deviation(values: np.ndarray, digits: int, unit: str = "") -> str:
    """Return "mean ± deviation" of the values that are finite, and of how many if not of all.

    Args:
      values: of repeats, seeds or folds, `[value]`.
      digits: behind the point.
      unit: behind both numbers.

    Returns:
      A text; "-" where no value is finite, and the value alone where there is one.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "-"
    spread = f" ± {deviation(finite, 0):.{digits}f}" if finite.size > 1 else ""
    some = f" ({finite.size} of {values.size})" if finite.size < values.size else ""
    return f"{finite.mean():z.{digits}f}{spread}{unit}{some}"


def deviation(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the deviation of a sample along an axis, 0 where that has one value.

    Args:
      values: of any shape.
      axis: of the repeats.

    Returns:
      An array without the axis.
    """
    return np.asarray(values.std(axis, ddof=1 if values.shape[axis] > 1 else 0))


def write_report(reports: Sequence[Report], out: Path, *, scale: str, seed: int) -> None:
    """Write report.md, report.html, results.json and the figures of every method.

    Args:
      reports: one a method, in reading order.
      out: folder of the files; figures lie in folders of the methods.
      scale: name of the size of the run.
      seed: of the run.

    Raises:
      OSError: a file cannot be written.
    """
    head = f"Scale {scale}, seed {seed}, {date.today()}, {_environment()}."
    for report in reports:
        for part in report.parts:
            if isinstance(part, Figure):
                write_whole(out / report.method / f"{part.name}.png", part.png)
    results = {
        "scale": scale,
        "seed": seed,
        "environment": _environment(),
        "methods": {
            report.method: {**report.results, "seconds": report.seconds} for report in reports
        },
    }
    write_whole(out / "results.json", to_json(results))
    write_whole(out / "report.md", _markdown(reports, head).encode())
    write_whole(out / "report.html", _html(reports, head).encode())


def to_json(value: Any) -> bytes:
    """Return strict JSON, in which numbers without a value (NaN, infinity) are null.

    Args:
      value: nested dicts and sequences of numbers, texts and arrays.

    Returns:
      The content of a file.
    """
    return (json.dumps(_plain(value), indent=1, allow_nan=False) + "\n").encode()


def markdown_table(table: Table) -> str:
    """Return a table in Markdown.

    Args:
      table: its caption is left out.

    Returns:
      Lines of text.
    """
    header, *rows = ([_cell(text) for text in line] for line in (table.header, *table.rows))
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Return a text that neither ends a cell of Markdown nor begins another."""
    return shown(text).replace("|", "\\|")


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _environment() -> str:
    import jax

    devices = jax.devices()
    return (
        f"{len(devices)} {devices[0].device_kind} device(s), Python {platform.python_version()}, "
        f"jax {version('jax')}, jaxml {jaxml.__version__}"
    )


def _markdown(reports, head) -> str:
    lines = ["# jaxml report", "", head]
    for report in reports:
        lines += ["", f"## {shown(report.title)}", "", f"{report.seconds:.0f} s."]
        for part in report.parts:
            if isinstance(part, Table):
                lines += ["", f"**{shown(part.caption)}**", "", markdown_table(part)]
            elif isinstance(part, Figure):
                caption = shown(part.caption)
                lines += ["", f"![{caption}]({report.method}/{part.name}.png)", ""]
                lines += [f"*{caption}*"]
            else:
                lines += ["", shown(part)]
    return "\n".join(lines) + "\n"


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;
color:#222;background:#fff}
nav li{margin:.2rem 0}
.wide{overflow-x:auto;margin:.5rem 0 1.5rem}
table{border-collapse:collapse}
th,td{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left}
.number{text-align:right;font-variant-numeric:tabular-nums}
.caption{font-weight:600;margin:1.5rem 0 0}
figure{margin:1rem 0}figcaption{color:#555}img{max-width:100%}
"""


def _html(reports, head) -> str:
    body = [f"<h1>jaxml report</h1><p>{_escaped(head)}</p>"]
    links = (f'<li><a href="#{r.method}">{_escaped(r.title)}</a></li>' for r in reports)
    body.append(f"<nav><ul>{''.join(links)}</ul></nav>")
    for report in reports:
        title = _escaped(report.title)
        body.append(f'<h2 id="{report.method}">{title}</h2><p>{report.seconds:.0f} s.</p>')
        for part in report.parts:
            if isinstance(part, Table):
                body.append(_html_table(part))
            elif isinstance(part, Figure):
                data = base64.b64encode(part.png).decode()
                caption = _escaped(part.caption)
                body.append(
                    f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
                    f"<figcaption>{caption}</figcaption></figure>"
                )
            else:
                body.append(f"<p>{_escaped(part)}</p>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>jaxml report</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _html_table(table) -> str:
    columns = zip(*table.rows, strict=True)
    kinds = [' class="number"' if all(map(_is_number, cells)) else "" for cells in columns]
    kinds = kinds or [""] * len(table.header)

    def row(cells, tag):
        texts = zip(cells, kinds, strict=True)
        return "".join(f"<{tag}{kind}>{_escaped(c)}</{tag}>" for c, kind in texts)

    rows = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.rows)
    return (
        f'<p class="caption">{_escaped(table.caption)}</p><div class="wide"><table>'
        f"<thead><tr>{row(table.header, 'th')}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _escaped(text: str) -> str:
    return html.escape(shown(text))


def _is_number(cell: str) -> bool:
    """Whether a cell is empty, a dash, or starts with a number."""
    return cell[:1] in ("", *"-−+0123456789")
