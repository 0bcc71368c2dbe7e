import json

import jax
import numpy as np
import pytest

from jaxml.multifractal import synthetic
from jaxml.reproduce import reproduce
from jaxml.reproduce import speech as experiment


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three "speakers" that differ in the Hurst exponent only, ten sentences each."""
    folder = tmp_path_factory.mktemp("data")
    keys = jax.random.split(jax.random.key(0), (3, 10))
    rows = [
        np.asarray(synthetic.fgn(keys[s, t], 4096 + 64 * t, hurst=h, dtype=np.float32))
        for s, h in enumerate((0.25, 0.5, 0.75))
        for t in range(10)
    ]
    np.savez(
        folder / "corpus.npz",
        audio=np.concatenate(
            [np.round(4000 * r).clip(-32768, 32767).astype(np.int16) for r in rows]
        ),
        offsets=np.cumsum([0] + [len(r) for r in rows]),
        speaker=np.repeat(["a", "b", "c"], 10),
        text=np.tile(np.arange(10), 3),
    )
    return folder


@pytest.mark.study
def test_quick_run_identifies_and_a_second_run_computes_nothing(corpus, tmp_path, monkeypatch):
    out = tmp_path / "out"
    reproduce(["speech"], scale="quick", out=out, data=corpus)
    results = json.loads((out / "results.json").read_text())["methods"]["speech"]
    accuracy = results["accuracy"]
    assert set(accuracy) == set(experiment.SETS)
    assert accuracy["surface3"]["lda"]["mean"] >= 0.9
    assert np.sum(results["confusion"]) == 30
    assert results["chance"] == pytest.approx(1 / 3)
    for name in ("accuracy", "confusion", "correlation", "spectra"):
        assert (out / f"speech/{name}.png").exists()
    before = (out / "report.md").read_text().split("\n\n")

    def never(*args):
        raise AssertionError("computed again")

    for part in ("_features", "_folds", "_timing", "_surrogates"):
        monkeypatch.setattr(experiment, part, never)
    reproduce(["speech"], scale="quick", out=out, data=corpus)
    after = (out / "report.md").read_text().split("\n\n")
    assert [p for p in before if not p.endswith(" s.")] == [
        p for p in after if not p.endswith(" s.")
    ]


def test_no_sentence_is_in_training_and_test(corpus):
    from jaxml.data import load_speech_corpus

    speech = load_speech_corpus(corpus)
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    found = experiment._folds(jax.random.key(1), dict.fromkeys(experiment.SETS, rows), speech)
    for sentence in np.unique(speech.sentence):
        assert len(set(found["fold"][speech.sentence == sentence])) == 1
    assert len(np.unique(found["fold"])) == 5
