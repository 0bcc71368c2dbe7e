"""Unlearning and evaluation of files, from the command line, on a tiny decoder."""

import json
import shutil

import jax
import numpy as np
import pytest

from jaxml import llm
from jaxml.cli import main
from jaxml.commands import evaluate_files
from jaxml.models import llama
from jaxml.models.llama import LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=12,
    hidden_size=8,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
)
WORDS = "a b c d e f A B C D".split()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("language")
    model = folder / "model"
    llama.save(model, llama.init(jax.random.key(0), CONFIG), CONFIG)
    own = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="f"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=own).save_pretrained(model)
    (folder / "forget.txt").write_text("a b c d " * 10)
    (folder / "retain.jsonl").write_text('{"text": "d e f e d e f"}\n{"text": "f e"}\n' * 3)
    (folder / "verbatim.json").write_text('[{"prompt": "a b", "gt": "c d a"}]')
    (folder / "biology_test.csv").write_text("what,a,b,c,d,B\nwho,a,b,c,d,D\n")
    return folder


def run(files, out, *more):
    names = ["--forget", files / "forget.txt", "--retain", files / "retain.jsonl"]
    arguments = ["unlearn", "--model", files / "model", *names, "--out", out, *more]
    return main([str(a) for a in arguments])


def test_unlearn_and_evaluate(files, tmp_path, capsys):
    out = tmp_path / "out"
    more = "--steps 20 --learning-rate 3e-2 --length 8 --method ga".split()
    assert run(files, out, *more) == 0
    assert "log-probability of a token: forget" in capsys.readouterr().out
    found = json.loads((out / "results.json").read_text())["methods"]["unlearn"]
    assert found["forget"]["after"] < found["forget"]["before"] - 0.5
    assert found["forget"]["sequences"] == 5 and found["retain"]["sequences"] == 6
    loaded = llama.load(out / "model")
    assert loaded.config == CONFIG
    before = llama.load(files / "model").params
    assert not np.array_equal(loaded.params["embed"], before["embed"])
    llama.load_tokenizer(out / "model", CONFIG)
    # The same command again ends alike; what is done needs no checkpoints.
    assert not (out / "checkpoints").exists()
    assert run(files, out, *more) == 0
    again = json.loads((out / "results.json").read_text())["methods"]["unlearn"]
    assert again["forget"] == found["forget"]

    measured = tmp_path / "measured"
    names = ["--verbatim", files / "verbatim.json", "--choices", files / "biology_test.csv"]
    arguments = ["evaluate-unlearning", "--model", out / "model", *names]
    arguments += ["--text", files / "forget.txt", "--length", 8, "--out", measured]
    assert main([str(a) for a in arguments]) == 0
    results = json.loads((measured / "results.json").read_text())["methods"]["evaluation"]
    expected = np.exp(-found["forget"]["after"])
    assert results["perplexity: forget.txt"] == pytest.approx(expected, rel=1e-4)
    assert 0 <= results["VerbMem: verbatim.json"] <= 100
    assert results["accuracy: biology_test.csv"]["accuracy"] in (0, 0.5, 1)


def test_an_alternative_to_each_text_gets_likelier(files, tmp_path, capsys):
    (tmp_path / "asked.jsonl").write_text('{"text": "a b c d a"}\n{"text": "a c"}\n')
    (tmp_path / "instead.jsonl").write_text('{"text": "f f f"}\n{"text": "f f"}\n')
    more = ["--forget", tmp_path / "asked.jsonl", "--alternative", tmp_path / "instead.jsonl"]
    more += "--method dpo --steps 10 --learning-rate 3e-2 --length 8".split()
    assert run(files, tmp_path / "out", *more) == 0
    capsys.readouterr()
    found = json.loads((tmp_path / "out/results.json").read_text())["methods"]["unlearn"]
    assert found["alternative"]["after"] > found["alternative"]["before"] + 0.5


def test_privacy_of_a_model_against_itself_is_zero(files, tmp_path, capsys):
    rng = np.random.default_rng(0)
    paths = [tmp_path / "forget.jsonl", tmp_path / "holdout.jsonl"]
    for path in paths:
        rows = (json.dumps({"text": " ".join(rng.choice(WORDS, 6))}) for _ in range(8))
        path.write_text("\n".join(rows))
    arguments = ["evaluate-unlearning", "--model", files / "model", "--out", tmp_path / "out"]
    arguments += ["--privacy", *paths, files / "model", "--length", 8]
    assert main([str(a) for a in arguments]) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())["methods"]["evaluation"]
    assert found["PrivLeak: forget.jsonl"] == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--method", "dpo"],
            "alternative=None: accepted is texts, one a row of forget, with method='dpo'",
        ),
        (["--method", "rmu"], "layer=7: accepted is 0 to 2"),
        (["--steps", "0"], "steps=0"),
        (["--model", "own/model"], "own/model: no such folder or GGUF file, and not in the cache"),
        (["--length", "1"], "length=1: accepted is a whole number, 2 or more"),
        (["--forget", "nowhere.txt"], "nowhere.txt"),
        (["--model", "nowhere"], "nowhere: no such folder or GGUF file"),
    ],
)
def test_bad_input_is_one_line(files, tmp_path, capsys, more, message):
    assert run(files, tmp_path / "out", *more) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "nop"], "method='nop': accepted is one of 'ga', 'npo'"),
        (["--retain-term", "mse"], "retain='mse': accepted is one of 'none', 'nll', 'kl'"),
    ],
)
def test_a_mistyped_name_is_refused_before_anything_is_loaded(
    files, tmp_path, capsys, monkeypatch, unchecked, more, message
):
    monkeypatch.setattr(llama, "load", lambda *args, **settings: pytest.fail("loaded"))
    assert run(files, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err


def test_a_model_of_nan_is_named_and_not_measured(files, tmp_path, capsys):
    """Its accuracy would be 1: of logits that are NaN the first is the largest."""
    bad = shutil.copytree(files / "model", tmp_path / "bad")
    params = llama.load(bad).params
    params["layers"]["down"] = params["layers"]["down"].at[1, 2, 3].set(np.nan)
    llama.save(bad, params, CONFIG)
    measured = {
        "--choices": ["biology_test.csv"],
        "--verbatim": ["verbatim.json"],
        "--text": ["forget.txt"],
    }
    for option, names in measured.items():
        paths = [str(files / name) for name in names]
        arguments = ["evaluate-unlearning", "--model", str(bad), "--out", str(tmp_path / "out")]
        assert main([*arguments, option, *paths]) == 2
        told = capsys.readouterr().err
        assert f"{bad}: parameters['layers']['down'] with NaN or infinity" in told
        assert len(told.strip().splitlines()) == 1
    # The model of comparison, too.
    arguments = ["evaluate-unlearning", "--model", str(files / "model"), "--privacy"]
    texts = [str(files / "forget.txt")] * 2
    assert main([*arguments, *texts, str(bad), "--out", str(tmp_path / "out")]) == 2
    assert f"{bad}: parameters" in capsys.readouterr().err


def test_nothing_to_measure_is_told(files, capsys):
    assert main(["evaluate-unlearning", "--model", str(files / "model")]) == 2
    assert "measures=None: accepted is --verbatim, --knowledge" in capsys.readouterr().err


@pytest.fixture
def strict(files, tmp_path):
    """The model with a tokenizer that raises an error for a word that it lacks."""
    folder = shutil.copytree(files / "model", tmp_path / "strict")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace('"unk_token":"f"', '"unk_token":"?"')
        (folder / name).write_text(text.replace('"unk_token": "f"', '"unk_token": "?"'))
    return folder


def evaluate(model, out, *more):
    arguments = ["evaluate-unlearning", "--model", model, "--length", 8, "--out", out, *more]
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["--text", "--verbatim", "--knowledge", "--choices"])
def test_a_word_that_the_tokenizer_lacks_is_told_before_all_is_measured(
    kind, strict, files, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(llm, "evaluate", lambda *_, **__: pytest.fail("measured"))
    texts = {
        "--text": ("a.txt", "a b zzz"),
        "--verbatim": ("a.json", '[{"prompt": "a b", "gt": "zzz"}]'),
        "--knowledge": ("a.json", '[{"question": "zzz", "answer": "a"}]'),
        "--choices": ("a.csv", "zzz,a,b,c,d,B\n"),
    }
    name, text = texts[kind]
    (tmp_path / name).write_text(text)
    first = [files / "forget.txt"] if kind == "--text" else ["--text", files / "forget.txt"]
    more = [kind, *first, tmp_path / name] if kind == "--text" else [*first, kind, tmp_path / name]
    assert evaluate(strict, tmp_path / "out", *more) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and f"{tmp_path / name}: text='" in told[0]
    assert "accepted is a text that the tokenizer takes: WordLevel error" in told[0]


def test_a_bad_file_is_told_before_the_model_is_loaded(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(llm, "load", lambda *_, **__: pytest.fail("loaded"))
    bad = tmp_path / "bad.json"
    bad.write_text("[")
    assert evaluate("m", tmp_path, "--text", files / "forget.txt", "--verbatim", bad) == 2
    assert run(files, tmp_path / "out", "--retain", bad) == 2
    arguments = ["coreset", "--model", "m", "--forget", str(files / "forget.txt")]
    arguments += ["--retain", str(bad), "--score", "keyword_density"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and all("bad.json" in line for line in told)


def test_what_is_measured_is_kept_where_a_later_measure_fails(files, tmp_path, capsys, monkeypatch):
    def lost(*_):
        raise MemoryError("for the choices")

    monkeypatch.setattr(evaluate_files, "_accuracy", lost)
    more = ["--verbatim", files / "verbatim.json", "--choices", files / "biology_test.csv"]
    assert evaluate(files / "model", tmp_path / "out", *more) == 2
    assert "out of memory: for the choices" in capsys.readouterr().err
    found = json.loads((tmp_path / "out/results.json").read_text())["methods"]["evaluation"]
    assert found.keys() == {"VerbMem: verbatim.json", "seconds"}


def test_files_of_one_name_are_both_measured(files, tmp_path, capsys):
    other = tmp_path / "forget.txt"
    other.write_text("f f e e " * 10)
    assert evaluate(files / "model", tmp_path / "out", "--text", files / "forget.txt", other) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())["methods"]["evaluation"]
    own = found[f"perplexity: {files / 'forget.txt'}"]
    assert own != found[f"perplexity: {other}"]
    capsys.readouterr()
