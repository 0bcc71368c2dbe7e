"""The study of coresets at the size of a test: what it reports, and that it goes on."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.models import llama
from jaxml.reproduce import reproduce
from jaxml.reproduce.coreset import experiment
from jaxml.reproduce.coreset import stages as work
from jaxml.reproduce.coreset.grid import Grid
from jaxml.reproduce.coreset.results import kept_share
from jaxml.reproduce.language.setting import Scale, Setting
from jaxml.unlearning import Sequences

DECODER = llama.LlamaConfig(
    vocab_size=300,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=80,
    tie_embeddings=True,
)
SCALE = Scale(
    length=48, prompt=12, forget=6, retain=4, folds=1, epochs=200, batch_size=8, steps=30, seeds=1
)
GRID = Grid(
    fractions=(0.2, 0.5), scored=(0.2,), compared=0.2, factors=(2,),
    scores=("random", "min_k"), objectives=("NPO",), others=("GradDiff",), words=10,
    points=3, relearnt=2, attack_steps=8, suffix=2, candidates=8,
)  # fmt: skip
RUNS = {
    "target", "NPO", "NPO, random 0.2", "NPO, min_k 0.2", "NPO, epochs 0.2", "NPO, steps 2",
    "NPO, random 0.5", "NPO, epochs 0.5", "GradDiff", "GradDiff, random 0.2",
    "GradDiff, random 0.5", "GradDiff, epochs 0.2", "GradDiff, epochs 0.5",
    "NPO, keywords in their text", "NPO, all but keywords", "NPO, as many random tokens",
    "NPO, keywords alone as texts", "NPO, path", "NPO, attacks on all", "NPO, attacks on some",
    "attacks on target", "again: target", "again: NPO", "again: NPO, random 0.2",
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(120)]
    for name, some in (("first", words[:60]), ("second", words[60:])):
        (folder / f"{name}.txt").write_text(" ".join(rng.choice(some, 500)))
    return folder


@pytest.mark.study
def test_quick_run_reports_and_a_run_cut_short_computes_nothing_twice(text, tmp_path, monkeypatch):
    size = experiment.Size(DECODER, SCALE, GRID, (experiment.Variant("again", DECODER, 6),))
    monkeypatch.setattr(experiment, "SCALES", {"quick": size})
    run = lambda: reproduce(["coreset"], scale="quick", out=tmp_path / "out", data=text)
    calls = []
    whole = work.unlearned

    def counted(setting, plan, *args):
        calls.append(plan.name)
        # A process that is killed while the fifth run is under way.
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole(setting, plan, *args)

    monkeypatch.setattr(work, "unlearned", counted)
    with pytest.raises(KeyboardInterrupt):
        run()
    run()
    # The one that was cut is run once more, and no other.
    assert len(calls) == 18 + 1
    results = json.loads((tmp_path / "out/results.json").read_text())["methods"]["coreset"]
    runs = results["runs"]
    assert set(runs) == RUNS
    recited = lambda name: np.array(runs[name]["verbatim"])[:, 0]
    assert np.all(recited("target") > 90) and np.all(recited("NPO") < 50)
    assert np.shape(runs["NPO, path"]["nll"]) == (1, 3, 2)
    ends = np.array(runs["NPO, path"]["nll"])[:, [0, -1]]
    for i, name in enumerate(("NPO", "NPO, random 0.2")):
        np.testing.assert_allclose(ends[:, i], runs[name]["nll"], rtol=1e-3)
    # The search starts from tokens of its own, and may not make it worse than them.
    assert np.all(np.isfinite(runs["NPO, attacks on all"]["found tokens in front"]))
    attacked = runs["attacks on target"]
    assert np.all(np.array(attacked["nothing"]) > 90) and "params/embed" not in runs["NPO"]
    report = (tmp_path / "out/report.md").read_text()
    assert "a random 20% forgets as all" in report and "NPO, 2 times the steps" in report
    assert "NPO, again" in report and "Keywords, by log-odds" in report
    for name in ("fractions", "paths"):
        picture = tmp_path / f"out/coreset/{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")

    def never(*args, **settings):
        raise AssertionError("computed again")

    for name in ("trained", "scored", "unlearned", "path", "attacked", "measured"):
        monkeypatch.setattr(experiment if name == "trained" else work, name, never)
    run()


def test_share_of_forgetting_kept():
    of = lambda recited, answered: {
        "verbatim": np.array([recited, 50.0]),
        "knowledge": np.array([answered, 50.0]),
    }
    found = kept_share(of(100.0, 80.0), of(20.0, 80.0), of(40.0, 70.0))
    # (100 - 40) / (100 - 20); nothing of the answers was lost by the whole set.
    np.testing.assert_array_equal(found, [0.75, np.nan])
    found = kept_share(of(100.0, 80.0), of(90.0, 76.0), of(95.0, 72.0))
    # Of a drop of 4 points no share is told.
    np.testing.assert_array_equal(found, [0.5, np.nan])


def test_a_part_is_repeated_to_the_size_of_the_whole():
    tokens = jnp.arange(20).reshape(10, 2)
    books = SimpleNamespace(forget=Sequences(tokens, jnp.ones(tokens.shape, bool)))
    setting = Setting(books, DECODER, SCALE)
    scores = np.array([0, 9, 1, 8, 2, 3, 4, 5, 6, 7], np.float32)
    picked = work.chosen(setting, scores, 0.3)
    assert picked.tokens[:, 0].tolist() == [2, 6, 18] * 3 + [2]
