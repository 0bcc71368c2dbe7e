import json
import os
import statistics
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxml.output import plots
from jaxml.output.report import (
    Figure,
    Report,
    Table,
    deviation,
    mean_and_deviation,
    to_json,
    write_report,
)

PNG = plots.matrix(np.eye(2), ["a", "b"], ["a", "b"], x="x", y="y", limits=(0, 1))
REPORT = Report(
    method="speech",
    title="A title",
    parts=("Text with <b>.", Table("Caption", ("k", "v"), (("a", "1"),)), Figure("p", "Fig", PNG)),
    results={"accuracy": np.float32(0.5), "missing": float("nan"), "rows": np.arange(2)},
)


class _Balanced(HTMLParser):
    """Fails on tags that do not close in order."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_report_is_written_in_three_forms(tmp_path):
    write_report([REPORT.finished(3.0)], tmp_path, scale="quick", seed=0)
    markdown = (tmp_path / "report.md").read_text()
    assert "| k | v |\n| --- | --- |\n| a | 1 |" in markdown
    assert "![Fig](speech/p.png)" in markdown
    assert (tmp_path / "speech/p.png").read_bytes() == PNG
    page = (tmp_path / "report.html").read_text()
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "Text with <b>." in parser.text
    assert '<a href="#speech">A title</a>' in page and '<h2 id="speech">A title' in page
    assert '<td>a</td><td class="number">1</td>' in page
    found = json.loads((tmp_path / "results.json").read_text())["methods"]["speech"]
    assert found == {"accuracy": 0.5, "missing": None, "rows": [0, 1], "seconds": 3.0}


def test_json_has_no_numbers_that_json_lacks():
    assert json.loads(to_json({"a": [float("inf"), 1.5], "b": np.array([-np.inf])})) == {
        "a": [None, 1.5],
        "b": [None],
    }


@pytest.mark.parametrize(
    "values, expected",
    [
        # (9 + 1 + 4 + 4) / 3 = 6, the square of 2.449.
        ([1.0, 3, 6, 6], "4.00 ± 2.45"),
        ([2.5], "2.50"),
        ([np.nan, 1, 3], "2.00 ± 1.41 (2 of 3)"),
        ([np.inf, 1], "1.00 (1 of 2)"),
        ([np.nan], "-"),
    ],
)
def test_mean_and_deviation_of_a_sample(values, expected):
    assert mean_and_deviation(np.array(values), 2) == expected


def test_deviation_is_that_of_a_sample_and_0_of_one_value():
    values = np.array([[1.0, 4.0], [3.0, 4.5], [8.0, 4.0]])
    expected = [statistics.stdev(column) for column in values.T.tolist()]
    np.testing.assert_allclose(deviation(values, 0), expected)
    np.testing.assert_array_equal(deviation(values[:1], 0), [0, 0])


def test_no_minus_before_a_zero():
    assert mean_and_deviation(np.array([-0.01]), 0, "%") == "0%"


def test_a_unit_stands_behind_both_numbers():
    assert mean_and_deviation(np.array([1.0, 3, np.nan]), 1, "%") == "2.0 ± 1.4% (2 of 3)"


def test_names_from_outside_break_no_table_and_no_file(tmp_path):
    name = os.fsdecode(b"a|b\n<i>\xe9")
    table = Table(name, ("name", "|mask|"), ((name, "1"), (name, "2")))
    report = Report("identify", name, (f"Of {name}.", table, Figure("p", name, PNG)), {"n": name})
    write_report([report], tmp_path, scale="one", seed=0)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines.count(r"| a\|b\n<i>\xe9 | 1 |") == 1
    start = lines.index(r"| name | \|mask\| |")
    assert all(line.replace(r"\|", "").count("|") == 3 for line in lines[start : start + 4])
    assert r"## a|b\n<i>\xe9" in lines
    parser = _Balanced()
    parser.feed((tmp_path / "report.html").read_text())
    assert parser.open == [] and r"Of a|b\n<i>\xe9." in parser.text
    # The name itself, whatever it holds.
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["methods"]["identify"]["n"] == name
