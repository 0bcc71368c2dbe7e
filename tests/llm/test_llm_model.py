"""What a user of a real language model calls, against the functions of its parts."""

import dataclasses

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import llm
from jaxml.data import ChoiceQuestion, Passage, Question
from jaxml.files.errors import DataError
from jaxml.llm import _measures as measures
from jaxml.llm._score import chunk_scores, keyword_hits
from jaxml.llm._unlearn import unlearn_decoder
from jaxml.models import llama
from jaxml.models.llama import LlamaConfig
from jaxml.unlearning import Sequences, UnlearnConfig

transformers = pytest.importorskip("transformers")

KEY = jax.random.key(1)
CONFIG = LlamaConfig(
    vocab_size=16,
    hidden_size=8,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
)
WORDS = "a b c d e f A B C D <s> user assistant : </s>".split()
# As templates have it: what is said ends with a token of its own.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
TEXTS = ["a b c d", "d e f e d e f", "f e"]
CHATS = [
    [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}],
    [
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "e f"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ],
]


def tokenizer_with(**settings):
    from tokenizers import Tokenizer, models, pre_tokenizers

    own = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="f"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=own, **settings)


TOKENIZER = tokenizer_with(bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)
PARAMS = jax.tree.map(lambda leaf: 5 * leaf, llama.init(jax.random.key(0), CONFIG))
MODEL = llm.Model(PARAMS, CONFIG, TOKENIZER)


def words(sequences, row):
    mask = np.asarray(sequences.mask)[row]
    tokens = np.asarray(sequences.tokens)[row]
    return " ".join(WORDS[token] for token in tokens[mask])


def assert_equal(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, mate in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(leaf, mate)


def test_a_model_is_saved_and_loaded_whole(tmp_path):
    llm.save(tmp_path / "model", MODEL)
    again = llm.load(tmp_path / "model")
    assert again.config == CONFIG
    assert_equal(again.params, PARAMS)
    assert_equal(llm.tokenize(again, CHATS), llm.tokenize(MODEL, CHATS))
    # As transformers reads it.
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert other.chat_template == TEMPLATE and other.bos_token == "<s>"
    assert llm.load(tmp_path / "model", dtype="bfloat16").params["embed"].dtype == jnp.bfloat16


def test_parameters_are_the_leaves_of_a_model():
    doubled = jax.tree.map(lambda leaf: 2 * leaf, MODEL)
    assert doubled.tokenizer is TOKENIZER and doubled.config == CONFIG
    np.testing.assert_array_equal(doubled.params["embed"], 2 * PARAMS["embed"])
    norm = jax.jit(lambda model: jnp.sum(jnp.square(model.params["embed"])))
    np.testing.assert_allclose(norm(MODEL), np.sum(np.square(PARAMS["embed"])), rtol=1e-6)


@pytest.mark.parametrize("name", ["nowhere", "../nowhere", "a/b/c"])
def test_a_path_that_is_not_there_is_refused_at_once(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **s: pytest.fail("asked"))
    with pytest.raises(FileNotFoundError, match=f"{name}: no such folder or GGUF file$"):
        llm.load(name)


def test_a_name_of_the_hub_is_looked_for_in_the_cache_alone(tmp_path, monkeypatch):
    llm.save(tmp_path / "cached", MODEL)
    asked = []

    def snapshot_download(name, *, allow_patterns, local_files_only):
        asked.append((name, local_files_only))
        assert "*.safetensors" in allow_patterns and "*.py" not in allow_patterns
        if local_files_only and name != "owner/cached":
            raise huggingface_hub.errors.LocalEntryNotFoundError("not\nthere")
        if name == "owner/no-network":
            raise RuntimeError("no\nroute")
        return str(tmp_path / "cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert_equal(llm.load("owner/cached").params, PARAMS)
    with pytest.raises(FileNotFoundError, match="`hf download owner/other` fetches it$"):
        llm.load("owner/other")
    assert_equal(llm.load("owner/other", download=True).params, PARAMS)
    with pytest.raises(FileNotFoundError, match="could not be fetched: no route$"):
        llm.load("owner/no-network", download=True)
    assert [local for _, local in asked] == [True, True, False, False]


def test_the_cache_of_the_hub_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--own"
    snapshot = folder / "snapshots" / ("1" * 40)
    llm.save(snapshot, MODEL)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1" * 40)
    assert_equal(llm.load("owner/own").params, PARAMS)


def test_texts_start_with_the_token_of_the_beginning_and_long_ones_are_cut():
    rows = llm.tokenize(MODEL, TEXTS, length=5)
    assert rows.tokens.shape == (4, 5) and rows.tokens.dtype == jnp.int32
    expected = ["<s> a b c d", "<s> d e f e", "<s> d e f", "<s> f e"]
    assert [words(rows, i) for i in range(4)] == expected
    without = llm.tokenize(tokenizer_with(), ["a b c", "a"], length=2)
    # A rest of one token has nothing to predict.
    assert [words(without, i) for i in range(len(without.tokens))] == ["a b"]


def test_of_chats_the_answers_count_alone():
    rows = llm.tokenize(TOKENIZER, CHATS)
    assert [words(rows, i) for i in range(2)] == ["c </s>", "e f </s> b </s>"]
    whole = TOKENIZER.apply_chat_template(CHATS[1], tokenize=True, return_dict=False)
    assert rows.tokens[1].tolist() == whole
    assert rows.tokens[0, -8:].tolist() == [0] * 8 and not rows.mask[0, -8:].any()


def test_unlearning_is_that_of_the_parameters(tmp_path):
    config = UnlearnConfig("npo", steps=6, batch_size=2, learning_rate=1e-2)
    forget, retain = llm.tokenize(MODEL, TEXTS[:2]), llm.tokenize(MODEL, TEXTS[1:])
    after = llm.unlearn(KEY, MODEL, TEXTS[:2], TEXTS[1:], config=config, folder=tmp_path)
    expected = unlearn_decoder(KEY, PARAMS, CONFIG, forget, retain, config=config)
    assert_equal(after.model.params, expected.params)
    assert_equal(dict(after.history), dict(expected.history))
    assert after.model.tokenizer is TOKENIZER and after.model.config == CONFIG
    assert any(tmp_path.iterdir())
    tokens = llm.unlearn(KEY, MODEL, np.asarray(forget.tokens[:1]), retain, config=config)
    plain = Sequences(forget.tokens[:1], jnp.ones((1, forget.tokens.shape[1]), bool))
    assert_equal(tokens.model, llm.unlearn(KEY, MODEL, plain, retain, config=config).model)


def test_measures_are_those_of_the_parameters():
    network = PARAMS, CONFIG
    passages = [Passage("a b", "c d"), Passage("e", "f")]
    questions = [Question("a", "b", "b", ())]
    choices = [ChoiceQuestion("a", ("b", "c"), 1), ChoiceQuestion("d", ("e", "f"), 0)]
    whole = llm.evaluate(
        MODEL, verbatim=passages, knowledge=questions, choices=choices, texts=TEXTS, subject="it"
    )
    assert whole.verbatim == measures.verbatim(*network, TOKENIZER, passages)
    assert whole.knowledge == measures.knowledge(*network, TOKENIZER, questions)
    assert_equal(whole.choices, measures.choices(*network, TOKENIZER, choices, subject="it"))
    rows = llm.tokenize(MODEL, TEXTS)
    logp = llama.log_prob(PARAMS, rows.tokens, CONFIG)
    mean = np.asarray(logp)[np.asarray(rows.mask)[:, 1:]].mean()
    np.testing.assert_allclose(whole.perplexity, np.exp(-mean), rtol=1e-5)
    assert_equal(whole.min_k, measures.membership(*network, rows))
    part = llm.evaluate(MODEL, texts=rows, batch_size=2)
    np.testing.assert_allclose(part.perplexity, whole.perplexity, rtol=1e-6)
    assert part.verbatim is part.knowledge is part.choices is None


def test_scores_are_those_of_the_parameters():
    rows = llm.tokenize(MODEL, TEXTS)
    for name in ("loss", "random"):
        assert_equal(
            llm.score(KEY, name, MODEL, TEXTS), chunk_scores(KEY, name, PARAMS, CONFIG, rows)
        )
    hits = keyword_hits(TOKENIZER, rows, ["e"])
    assert_equal(
        llm.score(KEY, "keyword_density", MODEL, rows, words=["e"]),
        chunk_scores(KEY, "keyword_density", PARAMS, CONFIG, rows, hits=hits),
    )


ANSWERED = CHATS[0]


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ("a b", {}, "texts='a b': accepted is a list of texts or chats"),
        ([], {}, r"texts=\[\]: accepted is a text of 2 tokens"),
        ([""], {}, r"texts=\[''\]: accepted is a text of 2 tokens"),
        (TEXTS, dict(length=1), "length=1: accepted is a whole number, 2 or more"),
        ([ANSWERED, "a"], {}, r"texts\[1\]='a': accepted is messages"),
        ([[{"role": "user"}]], {}, r"texts\[0\]=.*: accepted is messages"),
        ([ANSWERED[:1]], {}, r"texts\[0\]=.*: accepted is a chat with a message of the assistant"),
        ([ANSWERED], dict(length=7), r"texts\[0\]=9: accepted is a chat of at most length=7"),
    ],
)
def test_bad_texts_are_named(texts, settings, message, unchecked):
    with pytest.raises(ValueError, match=message):
        llm.tokenize(MODEL, texts, **settings)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "tokenizer=.*: accepted is one with a chat template"),
        ("{{ raise_exception('only\nalone') }}", r"texts\[0\]=.*template takes: only alone"),
        ("{{ messages | length }} a {{ messages[-1].content }}", r"texts\[0\]=.*does not change"),
    ],
)
def test_chats_that_a_template_does_not_take_are_named(template, message):
    own = tokenizer_with(chat_template=template)
    with pytest.raises(ValueError, match=message):
        llm.tokenize(own, CHATS[1:])


def test_bad_arguments_are_named(unchecked):
    with pytest.raises(ValueError, match="texts=None: accepted is texts, or verbatim"):
        llm.evaluate(MODEL)
    with pytest.raises(ValueError, match="batch_size=0: accepted is a whole number"):
        llm.evaluate(MODEL, texts=TEXTS, batch_size=0)
    with pytest.raises(ValueError, match="name='nice': accepted is one of 'random'"):
        llm.score(KEY, "nice", MODEL, TEXTS)
    with pytest.raises(ValueError, match=r"words=\(\): accepted is one keyword or more"):
        llm.score(KEY, "keyword_density", MODEL, TEXTS)
    with pytest.raises(ValueError, match="method='nop': accepted"):
        llm.unlearn(KEY, MODEL, TEXTS, TEXTS, config=UnlearnConfig("nop"))
    small = dataclasses.replace(MODEL, config=dataclasses.replace(CONFIG, vocab_size=8))
    with pytest.raises(ValueError, match="texts.*0 to 7"):
        llm.evaluate(small, texts=TEXTS)


def test_a_model_without_a_tokenizer_is_named_and_may_be_saved(tmp_path):
    llama.save(tmp_path, PARAMS, CONFIG)
    with pytest.raises(DataError, match="no tokenizer"):
        llm.load(tmp_path)
    llm.save(tmp_path / "own", llm.Model(PARAMS, CONFIG, None))
    assert_equal(llama.load(tmp_path / "own").params, PARAMS)
