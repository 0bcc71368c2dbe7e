"""The benchmarks: what they plan is what the library runs, and no ratio is left out."""

import dataclasses
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

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


@pytest.fixture
def scan(script):
    image = np.random.default_rng(0).random((24, 28, 32))
    image = scipy.ndimage.gaussian_filter(image, 2.0)
    image = (image - image.min()) / np.ptp(image)
    affine = np.diag([-2.0, 3.0, 2.0, 1.0])
    return script("registration_peers").Scan(image.astype(np.float32), image * 0, affine)


def test_landmarks_of_a_hidden_warp_are_where_its_image_has_them(script, scan):
    peers = script("registration_peers")
    warp = peers.HiddenWarp.draw(3.0, 160.0, 1, scan)
    points = np.argwhere(scan.image > 0)[::20]
    there = warp.inverse(points)
    inside = ((there >= 2) & (there <= np.array(scan.image.shape) - 3)).all(axis=1)
    points, there = points[inside], there[inside]
    away = np.linalg.norm((there - points) * scan.spacing, axis=1)
    assert len(points) > 300 and 2 < np.mean(away) < 10
    moved = warp.image(scan.image, 0)
    values = scipy.ndimage.map_coordinates(moved, there.T, order=3)
    before = scan.image[tuple(points.T)]
    # The noise of .01, and what cubic splines lose.
    assert np.std(values - before) < 0.02 < np.std(moved[tuple(points.T)] - before)


def test_determinants_of_a_hidden_warp_are_those_of_differences(script, scan):
    warp = script("registration_peers").HiddenWarp.draw(3.0, 160.0, 1, scan)
    voxels = np.indices(scan.image.shape)[:, ::2, ::2, ::2].reshape(3, -1).T
    step = 1e-5 * np.eye(3)
    columns = [(warp.displacement(voxels + s) - warp.displacement(voxels - s)) / 2e-5 for s in step]
    smallest = np.linalg.det(np.eye(3) + np.stack(columns, axis=-1)).min()
    assert warp.smallest(scan) == pytest.approx(smallest, rel=1e-6) and smallest > 0


def test_corners_are_those_of_a_box(script):
    image = np.zeros((30, 30, 30))
    image[8:20, 9:21, 10:22] = 1.0
    found = script("registration_peers").corners(image, 8)
    box = np.array([[8, 9, 10], [19, 20, 21]])
    truth = {(box[i][0], box[j][1], box[k][2]) for i in (0, 1) for j in (0, 1) for k in (0, 1)}
    assert len(found) == 8
    assert all(min(np.abs(np.subtract(f, t)).max() for t in truth) <= 2 for f in found)


def test_what_the_comparison_with_ants_lacks_is_one_line(script, monkeypatch, capsys, tmp_path):
    peers = script("registration_peers")
    monkeypatch.setattr(peers.harness, "installed", lambda package: False)
    monkeypatch.setenv("JAXML_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["registration_peers.py"])
    assert peers.main() == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == (
        "Not measured: antspyx is not installed (pip install '.[peers]'); the folder of "
        "JAXML_DATA has no brain and no registration."
    )


def test_overlaps_are_compared_at_the_smoothness_of_each_tool(script, monkeypatch, tmp_path):
    tools = script("registration_tools")
    figures = {
        "jaxml, symmetric, smoothness 6": (0.6, 0.2),
        "jaxml, symmetric, smoothness 3": (0.7, 0.4),
        "ANTs SyN": (0.62, 0.25),
        "elastix, B-splines": (0.5, 0.7),
    }
    one = tools.Pair("one", (), (), (), np.eye(3, 4))
    row = lambda pair, tool: tools.Row(*figures[tool], (0, 2, 0, 1), 3.0)
    monkeypatch.setattr(tools, "judged", row)
    lines = list(tools.brains([one, one], list(figures), tmp_path / "curve.png"))
    assert "| ANTs SyN | 0.6200 | 0.250 | 2 | 3.0 |" in lines
    assert "| ANTs SyN | 0.250 | 0.6200 | 0.6250 |" in lines
    assert "| elastix, B-splines | 0.700 | 0.5000 | not reached |" in lines
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_tools_are_judged_by_their_displacement(script, monkeypatch):
    """A shift that is known: the labels come back, the field has no folds and no roughness."""
    tools = script("registration_tools")
    labels = np.zeros((12, 14), np.int32)
    labels[3:7, 4:9] = 5
    moved = np.roll(labels, (2, 1), (0, 1))
    affine = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    pair = tools.Pair("one", (labels, moved), (labels, moved), ((1.0, 1.0),) * 2, affine)
    monkeypatch.setitem(tools.TOOLS, "shift", lambda pair: np.ones((12, 14, 2), np.float32))
    row = tools.judged(pair, "shift")
    assert (row.overlap, row.folds) == (1.0, (0, 0, 0, 0)) and row.sd == pytest.approx(0, abs=1e-6)


def test_the_turn_of_a_header_is_about_the_middle(script, scan):
    turn = script("registration_peers")._turn
    degrees, shift, matrix = turn(np.random.default_rng(3), scan)
    middle = (np.array(scan.image.shape) - 1) / 2
    to_mm = np.diag(scan.spacing)
    moved = to_mm @ (matrix[:3] @ [*middle, 1] - middle)
    assert np.linalg.norm(moved) == pytest.approx(shift) and 0 < shift < 40
    angle = np.rad2deg(np.arccos((np.trace(matrix[:3, :3]) - 1) / 2))
    assert angle == pytest.approx(degrees) and 0 < degrees < 45
