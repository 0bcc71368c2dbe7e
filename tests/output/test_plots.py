"""Plots are pictures that show what they are given."""

import os

import numpy as np
import pytest

from jaxml.output import plots

LINE = {"title": "t", "x": "x", "y": "y", "lines": {"a": ([0, 1], [1, 2])}}
BAND = {**LINE, "bands": {"b": ([0, 1], [0, 1], [1, 2])}}
PICTURES = {
    "bars": lambda: plots.bars(
        {"s": [0.5, 1.0]}, {"s": [0.1, 0.0]}, ["a", "b"], label="l", chance=0.2
    ),
    "matrix": lambda: plots.matrix(np.eye(2), "ab", "ab", x="x", y="y", limits=(0, 1)),
    "curves": lambda: plots.curves([LINE]),
    "curves of two panels": lambda: plots.curves([LINE, BAND]),
    "grid": lambda: plots.grid([1, 2], lambda axes, case: axes.plot([case]), size=(2, 2)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_plots_are_pictures(name):
    picture = PICTURES[name]()
    assert picture.startswith(b"\x89PNG") and len(picture) > 2000


def test_a_grid_has_a_panel_a_case_and_no_empty_axes(monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "png", lambda figure: figures.append(figure) or b"")
    cases = []
    plots.grid("abcd", lambda axes, case: cases.append(case), size=(1, 1))
    assert cases == list("abcd")
    assert [axes.axison for axes in figures[0].axes] == [True] * 4 + [False] * 2


def test_rows_of_one_name_are_named_once(monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "png", lambda figure: figures.append(figure) or b"")
    plots.matrix(np.eye(4), ["a", "a", "b", "a"], "wxyz", x="x", y="y", limits=(-1, 1))
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "a"]
    assert list(axes.get_yticks()) == [0, 2, 3] and len(axes.texts) == 16


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cost in $ or $", "cost in $ or $"),
        ("$\\bad{$", "$\\bad{$"),
        (os.fsdecode(b"caf\xe9\n"), r"caf\xe9\n"),
        ("テスト", "テスト"),
    ],
)
def test_names_are_drawn_as_they_are(name, expected, monkeypatch):
    figures, png = [], plots.png
    monkeypatch.setattr(plots, "png", lambda figure: figures.append(figure) or png(figure))
    lines = {"lines": {name: ([0, 1], [1, 2])}, "title": name, "x": name, "y": name}
    plots.curves([lines])
    plots.matrix(np.eye(2), [name, "a"], [name, "a"], x=name, y=name, limits=(0, 1))
    plots.bars({name: [0.5]}, {name: [0.1]}, [name], label=name, chance=0.2)
    for figure, places in zip(figures, (4, 3, 3), strict=True):
        axes = figure.axes[0]
        labels = axes.get_legend_handles_labels()[1]
        ticks = [label.get_text() for label in axes.get_yticklabels()]
        texts = [axes.title.get_text(), axes.get_xlabel(), axes.get_ylabel(), *labels, *ticks]
        drawn = [axes.title._preprocess_math(text) for text in texts]
        assert drawn.count((expected, False)) == places
