"""The benchmarks: what they plan is what the library runs, and no ratio is left out."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from jaxml.models import llama

ROOT = Path(__file__).parents[1]
REPORT = """\
# Benchmarks

## Layer: against PyTorch

### 8 x 8

| | ms | PyTorch / this | of PyTorch's |
|---|--:|--:|--:|
| PyTorch | 6.0 | 1.0 | 1.00 |
| jaxml, a \\| b | 2.0 | 3.0 | 0.25 |
| jaxml, memory not known | 1.0 | 6.0 |  |

### A step

| step | jaxml, s | PyTorch / jaxml |
|---|--:|--:|
| NPO | 1.0 | 1,234.5 |
"""
RATIOS = [
    "| Layer | 8 x 8 | jaxml, a \\| b | PyTorch / this | 3.0 |",
    "| Layer | 8 x 8 | jaxml, a \\| b | of PyTorch's | 0.25 |",
    "| Layer | 8 x 8 | jaxml, memory not known | PyTorch / this | 6.0 |",
    "| Layer | A step | NPO | PyTorch / jaxml | 1,234.5 |",
]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def test_the_last_table_has_every_ratio_of_jaxml(script):
    # Scripts yield paragraphs and tables in lines or in pieces of several lines.
    head, rest = REPORT.split("### A step")
    lines = [*head.splitlines(), "### A step" + rest]
    assert list(script("all").ratios(lines))[3:] == RATIOS


@pytest.mark.parametrize("step", ["_rmu", "_npo"])
def test_the_steps_that_are_planned_are_those_of_fit(script, unchecked, step):
    scaling = script("scaling")
    decoder = llama.LlamaConfig(64, 16, 4, 4, 2, 4, 32)
    settings = dataclasses.replace(scaling.QUICK, decoder=decoder, rows=1, length=8)
    lowered = getattr(scaling, step)(settings, llama.decoder_mesh(model=2, devices=8))
    _, history, finite = lowered.out_info
    assert history["loss"].shape == (1,) and finite.shape == ()


def test_the_ratios_of_the_readme_are_those_of_the_report():
    columns = "| of | where | row | what | ratio |\n"
    report = (ROOT / "docs/benchmarks.md").read_text()
    every = report.partition(columns)[2].splitlines()[1:]
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition(columns)[2].partition("\n\n")[0].splitlines()[1:]
    assert len(shown) >= 10 and set(shown) <= set(every)
    (measured,) = re.findall(r"^(\d{4}-\d\d-\d\d; .+?)\. ", report.partition("\n## ")[0], re.M)
    assert measured in " ".join(readme.split())
