"""The choice of chunks of a file from the command line, on a tiny decoder."""

import csv
import json

import jax
import numpy as np
import pytest

from jaxml import llm
from jaxml.cli import main
from jaxml.data.text import load_texts
from jaxml.models import llama
from jaxml.models.llama import LlamaConfig
from jaxml.unlearning import coreset

CONFIG = LlamaConfig(
    vocab_size=12,
    hidden_size=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
)
WORDS = "a b c d e f A B C D".split()
LENGTH = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("chunks")
    model = folder / "model"
    params = jax.tree.map(lambda leaf: 5 * leaf, llama.init(jax.random.key(0), CONFIG))
    llama.save(model, params, CONFIG)
    own = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="f"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=own).save_pretrained(model)
    rng = np.random.default_rng(0)
    # Ten chunks, the last one shorter.
    (folder / "forget.txt").write_text(" ".join(rng.choice(WORDS[:6], 9 * LENGTH + 3)))
    (folder / "retain.jsonl").write_text('{"text": "d e f e d e f"}\n{"text": "f e"}\n')
    (folder / "short.txt").write_text("a b c")
    return folder


def run(files, out, *more):
    arguments = ["coreset", "--model", files / "model", "--forget", files / "forget.txt"]
    arguments += ["--length", LENGTH, "--out", out, *more]
    return main([str(a) for a in arguments])


def results(out, method="coreset"):
    return json.loads((out / "results.json").read_text())["methods"][method]


def lines(out):
    return [json.loads(line) for line in (out / "coreset.jsonl").read_text().splitlines()]


def test_the_chosen_chunks_are_written_and_unlearnt(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(files, out, *"--score loss --fraction 0.3 --keep bottom".split()) == 0
    assert "3 of 10 chunks chosen by loss" in capsys.readouterr().out

    loaded = llm.load(files / "model")
    forget = files / "forget.txt"
    texts = llm.tokenize(loaded, load_texts(forget), length=LENGTH)
    logp = llama.log_prob(loaded.params, texts.tokens, CONFIG)
    scores = np.asarray(coreset.loss(logp, texts.mask[:, 1:]))
    best = np.argsort(scores)[:3]
    rows = lines(out)
    assert [row["chunk"] for row in rows] == best.tolist()
    np.testing.assert_allclose([row["score"] for row in rows], scores[best], rtol=1e-5)
    words = forget.read_text().split()
    pieces = [" ".join(words[i : i + LENGTH]) for i in range(0, len(words), LENGTH)]
    assert [row["text"] for row in rows] == [pieces[i] for i in best]

    table = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    assert [row["start"] for row in table] == pieces
    assert [i for i, row in enumerate(table) if row["chosen"] == "1"] == sorted(best)
    np.testing.assert_allclose([float(row["score"]) for row in table], scores, rtol=1e-4)
    assert results(out)["chosen"] == best.tolist()
    assert (out / "coreset/scores.png").read_bytes().startswith(b"\x89PNG")
    assert "Coreset by loss, bottom" in (out / "report.md").read_text()

    names = ["--forget", out / "coreset.jsonl", "--retain", files / "retain.jsonl"]
    arguments = ["unlearn", "--model", files / "model", *names, "--out", tmp_path / "after"]
    arguments += "--steps 3 --learning-rate 1e-2 --method ga".split() + ["--length", LENGTH]
    assert main([str(a) for a in arguments]) == 0
    found = results(tmp_path / "after", "unlearn")["forget"]
    assert found["sequences"] == 3 and found["after"] < found["before"]
    capsys.readouterr()


def test_keywords_are_told_by_the_texts_to_keep(files, tmp_path, capsys):
    more = ["--retain", files / "retain.jsonl", "--count", 2, "--fraction", 1]
    assert run(files, tmp_path, "--score", "keyword_density", *more) == 0
    words = results(tmp_path)["keywords"]
    # The texts to keep have no other words than these.
    assert len(words) == 2 and not set(words) & set("def")
    rows = lines(tmp_path)
    shares = [np.mean([w in words for w in row["text"].split()]) for row in rows]
    np.testing.assert_allclose([row["score"] for row in rows], shares, rtol=1e-6)
    assert shares == sorted(shares, reverse=True) and len(rows) == 10
    assert f"Keywords: {', '.join(words)}." in (tmp_path / "report.md").read_text()
    capsys.readouterr()


def test_grand_says_of_which_parameters_and_random_follows_the_seed(files, tmp_path, capsys):
    assert run(files, tmp_path / "grand", "--score", "grand", "--fraction", 0.2) == 0
    assert "gradient of the down matrices alone" in (tmp_path / "grand/report.md").read_text()
    chosen = []
    for seed in (0, 0, 1):
        assert run(files, tmp_path / "random", "--fraction", 0.5, "--seed", seed) == 0
        chosen.append(results(tmp_path / "random")["chosen"])
    assert chosen[0] == chosen[1] != chosen[2]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--score", "best"], "score='best': accepted is one of 'random', 'el2n'"),
        (
            ["--score", "keyword_density"],
            "retain=None: accepted is a file of texts to keep with score='keyword_density'",
        ),
        (["--fraction", "0"], "fraction=0.0: accepted is above 0 and up to 1"),
        (["--fraction", "1.5"], "fraction=1.5: accepted"),
        (["--keep", "best"], "keep='best': accepted are 'top', 'bottom', 'middle'"),
        (["--count", "0"], "count=0: accepted is a whole number, 1 or more"),
        (["--length", "1"], "length=1: accepted is a whole number, 2 or more"),
        (["--forget", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--forget", "short.txt"], "short.txt: 3 tokens, one chunk of length=6"),
        (["--model", "nowhere"], "nowhere: no such folder or GGUF file"),
        (["--model", "smaller"], "smaller: the tokenizer has 10 tokens, the decoder 8"),
        (
            ["--score", "keyword_density", "--retain", "nowhere.txt"],
            "nowhere.txt: no such file",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    files, tmp_path, capsys, monkeypatch, unchecked, more, message
):
    monkeypatch.chdir(files)
    if "smaller" in more and not (files / "smaller").exists():
        small = LlamaConfig(**{**vars(CONFIG), "vocab_size": 8})
        llama.save(files / "smaller", llama.init(jax.random.key(0), small), small)
        llama.load_tokenizer(files / "model", CONFIG).save_pretrained(files / "smaller")
    assert run(files, tmp_path / "out", *more) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
