"""The study of a book at the size of a test: what it reports, and that it goes on."""

import json

import numpy as np
import pytest

from jaxml.reproduce import reproduce
from jaxml.reproduce import unlearning as experiment
from jaxml.reproduce import unlearning_stages as work

SCALE = work.Scale(
    vocabulary=300,
    width=32,
    layers=2,
    heads=2,
    length=48,
    prompt=12,
    forget=4,
    retain=4,
    folds=2,
    epochs=250,
    batch_size=8,
    steps=30,
    seeds=1,
)
METHODS = {name: work.METHODS[name] for name in ("NPO", "RMU", "task vector")}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    for name in ("first", "second"):
        words = ("".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(300))
        (folder / f"{name}.txt").write_text(" ".join(words))
    return folder


def test_quick_run_reports_and_a_second_run_computes_nothing(text, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "SCALES", {"quick": SCALE})
    monkeypatch.setattr(work, "METHODS", METHODS)
    run = lambda: reproduce(["unlearning"], scale="quick", out=tmp_path / "out", data=text)
    run()
    results = json.loads((tmp_path / "out/results.json").read_text())["methods"]["unlearning"]
    axes = {name: {k: v[0] for k, v in of.items()} for name, of in results["axes"].items()}
    assert list(axes) == ["target", "retrained", *METHODS]
    target, retrained = axes["target"], axes["retrained"]
    # What the study is about, on texts that cannot be guessed.
    assert target["verbatim_forget"] > 90 and target["verbatim_retain"] > 90
    assert retrained["verbatim_forget"] < 20 and retrained["verbatim_retain"] > 90
    assert target["privacy"] == -100 and retrained["privacy"] == 0
    for name in ("NPO", "RMU"):
        assert axes[name]["verbatim_forget"] < 40 < axes[name]["verbatim_retain"]
        assert np.shape(results["growth"][name]) == np.shape(results["requests"][name]) == (1, 2, 2)
        assert results["growth"][name][0][-1][0] == axes[name]["verbatim_forget"]
    assert (tmp_path / "out/unlearning/growth.png").read_bytes().startswith(b"\x89PNG")
    report = (tmp_path / "out/report.md").read_text()
    assert "recitation falls to that of the retrained model" in report
    assert "first.txt" not in report and "'first' to forget" in report

    def never(*args, **settings):
        raise AssertionError("computed again")

    for name in ("trained", "measured", "unlearned", "grown", "requested"):
        monkeypatch.setattr(work, name, never)
    run()
    again = json.loads((tmp_path / "out/results.json").read_text())["methods"]["unlearning"]
    assert {**again, "seconds": 0} == {**results, "seconds": 0}
