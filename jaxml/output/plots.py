"""The plots of the reports, as PNG bytes."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxml.files.names import shown


def bars(
    values: Mapping[str, Sequence[float]],
    errors: Mapping[str, Sequence[float]],
    groups: Sequence[str],
    *,
    label: str,
    chance: float,
) -> bytes:
    """Return horizontal bars with errors, and a dotted line for chance.

    Args:
      values: lengths of the bars by series, one a group.
      errors: half lengths of the error bars, likewise.
      groups: names of the groups.
      label: of the axis of values.
      chance: value of the dotted line.

    Returns:
      A PNG picture.
    """
    figure, axes = new_figure(8, 0.6 * len(groups) + 1.6)
    place = np.arange(len(groups))
    height = 0.8 / len(values)
    for i, (name, heights) in enumerate(values.items()):
        at = place + (i - (len(values) - 1) / 2) * height
        axes.barh(at, heights, height, xerr=errors[name], label=plain(name), capsize=2)
    axes.axvline(chance, color="black", linestyle=":", label="chance")
    axes.set(yticks=place, yticklabels=map(plain, groups), xlabel=plain(label), xlim=(0, 1.05))
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return png(figure)


def matrix(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    x: str,
    y: str,
    limits: tuple[float, float],
    write: bool = True,
) -> bytes:
    """Return a matrix as a heat map.

    Args:
      values: `[row, column]`.
      rows: names of the rows; of equal ones in a run the first is shown.
      columns: names of the columns.
      x: label of the columns' axis.
      y: label of the rows' axis.
      limits: values of the ends of the colors.
      write: put the numbers into the cells.

    Returns:
      A PNG picture.
    """
    figure, axes = new_figure(5.5, 4.6)
    palette = "RdBu_r" if limits[0] < 0 else "Blues"
    image = axes.imshow(
        values, cmap=palette, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest"
    )
    axes.set_xticks(range(len(columns)), [plain(name) for name in columns])
    axes.set_yticks(*_thinned(rows))
    axes.set(xlabel=plain(x), ylabel=plain(y))
    if write:
        middle = limits[0] + 0.6 * (limits[1] - limits[0])
        for (i, j), value in np.ndenumerate(values):
            color = "white" if value > middle else "black"
            axes.text(j, i, f"{value:g}", ha="center", va="center", color=color)
    figure.colorbar(image)
    return png(figure)


def curves(panels: Sequence[Mapping[str, Any]]) -> bytes:
    """Return panels of lines with bands.

    Panels that have the same labels share a legend.

    Args:
      panels: mappings with `title`, axis labels `x` and `y`, `lines` {label: (x, y)} and perhaps
        `bands` {label: (x, low, high)}.

    Returns:
      A PNG picture.
    """
    texts = {"title": "title", "xlabel": "x", "ylabel": "y"}
    figure, all_axes = new_figure(4.6 * len(panels), 3.8, columns=len(panels))
    all_axes = np.atleast_1d(all_axes)
    for axes, panel in zip(all_axes, panels, strict=True):
        for label, (at, values) in panel["lines"].items():
            axes.plot(at, values, marker="." if len(at) < 50 else None, label=plain(label))
        for label, (at, low, high) in panel.get("bands", {}).items():
            axes.fill_between(at, low, high, alpha=0.3, label=plain(label))
        axes.set(**{to: plain(panel[of]) for to, of in texts.items()})
    labels = {tuple(axes.get_legend_handles_labels()[1]) for axes in all_axes}
    if len(panels) > 1 and len(labels) == 1:
        _legend_below(figure, all_axes[0])
    else:
        for axes in all_axes:
            axes.legend(fontsize="small", frameon=False)
    return png(figure)


def grid(
    cases: Sequence[Any],
    draw: Callable[[Any, Any], None],
    *,
    size: tuple[float, float],
    legend: bool = False,
) -> bytes:
    """Return a panel a case, up to three in a row, that `draw(axes, case)` fills.

    Args:
      cases: what the panels show.
      draw: fills the axes of one panel.
      size: width and height of a panel in inches.
      legend: put the legend of the first panel below all.

    Returns:
      A PNG picture.
    """
    columns = min(3, len(cases))
    rows = -(-len(cases) // columns)
    figure, all_axes = new_figure(size[0] * columns, size[1] * rows, columns=columns, rows=rows)
    panels = np.atleast_1d(all_axes).ravel()
    for axes, case in zip(panels, cases, strict=False):
        draw(axes, case)
    for axes in panels[len(cases) :]:
        axes.axis("off")
    if legend:
        _legend_below(figure, panels[0])
    return png(figure)


def new_figure(width: float, height: float, *, columns: int = 1, rows: int = 1) -> Any:
    """Return a figure and its axes.

    Args:
      width: of the figure in inches.
      height: of the figure in inches.
      columns: number of axes side by side.
      rows: number of axes one below the other.

    Returns:
      The figure of matplotlib, and its axes as `subplots` returns them.
    """
    # The object interface leaves the user's pyplot state and backend alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns)


def plain(text: str) -> str:
    r"""Return a text that matplotlib draws as it is: without formulas between dollars.

    Args:
      text: such as a name from outside.

    Returns:
      The text in one line, `$` as `\$`.
    """
    return shown(text).replace("$", r"\$")


def png(figure: Any) -> bytes:
    """Return a figure as a PNG picture.

    Args:
      figure: of matplotlib.

    Returns:
      The content of a file.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names may be in any script; one that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _legend_below(figure, axes) -> None:
    """Make a figure higher by the legend of one of its axes, in as many columns as have room."""
    handles, labels = axes.get_legend_handles_labels()
    width, height = figure.get_size_inches()
    # A small letter is .085 inches wide, and a handle as wide as six; a line is .19 high.
    ncols = max(1, int(width / (0.085 * (max(map(len, labels)) + 6))))
    figure.set_size_inches(width, height + 0.19 * -(-len(labels) // ncols) + 0.1)
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, fontsize="small",
                  frameon=False)  # fmt: skip


def _thinned(labels):
    """Return places and texts of the first of each run of equal labels."""
    first = [i for i, text in enumerate(labels) if i == 0 or text != labels[i - 1]]
    return first, [plain(labels[i]) for i in first]
