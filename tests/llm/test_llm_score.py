"""Scores of chunks by name, in batches, against the library on the logits of all chunks at once."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from llama_parameters import drawn

from jaxml.llm._score import Score, chunk_scores, chunk_texts, keyword_hits
from jaxml.models import llama
from jaxml.models.llama import LlamaConfig
from jaxml.unlearning import Sequences, coreset, token_log_prob

CONFIG = LlamaConfig(
    vocab_size=12,
    hidden_size=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
)
# Large enough that predictions differ.
PARAMS = drawn(CONFIG, matrices=5, rest=5)
WORDS = "alpha beta gamma delta".split()
KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 12, (7, 6), np.int32)
MASK = np.arange(6) < np.array([6, 6, 3, 6, 5, 2, 6])[:, None]
TEXTS = Sequences(jnp.asarray(TOKENS), jnp.asarray(MASK))
HITS = RNG.random((7, 6)) < 0.4


class WordTokenizer:
    """A token a word; 9 is special."""

    def decode(self, row, *, skip_special_tokens, clean_up_tokenization_spaces):
        assert skip_special_tokens and not clean_up_tokenization_spaces
        return " ".join(WORDS[token] for token in row if token != 9)


def features():
    hidden = np.asarray(llama.hidden_states(PARAMS, TEXTS.tokens, CONFIG), np.float64)
    rows = [row[mask].mean(0) for row, mask in zip(hidden, MASK, strict=True)]
    return jnp.asarray(np.stack(rows), jnp.float32)


def down_norms():
    """One gradient a chunk, by hand."""

    def nll(down, tokens, mask):
        params = {**PARAMS, "layers": {**PARAMS["layers"], "down": down}}
        logp = token_log_prob(llama.apply(params, tokens[None], CONFIG)[0], tokens)
        return -jnp.sum(jnp.where(mask[1:], logp, 0))

    slope, down = jax.jit(jax.grad(nll)), PARAMS["layers"]["down"]
    rows = zip(TEXTS.tokens, TEXTS.mask, strict=True)
    return [np.linalg.norm(np.asarray(slope(down, *row)).ravel()) for row in rows]


@pytest.fixture(scope="module")
def whole():
    """What the library says of all chunks at once, by name."""
    logits = llama.apply(PARAMS, TEXTS.tokens, CONFIG)
    logp, counted = token_log_prob(logits, TEXTS.tokens), TEXTS.mask[:, 1:]
    return {
        "random": coreset.random(KEY, 7),
        "el2n": coreset.el2n(logits, TEXTS.tokens, TEXTS.mask),
        "grand": down_norms(),
        "loss": coreset.loss(logp, counted),
        "perplexity": coreset.perplexity(logp, counted),
        "min_k": coreset.min_k(logp, counted),
        "moderate": coreset.moderate(KEY, features()),
        "k_center": coreset.k_center(features()),
        "keyword_density": (HITS & MASK).sum(1) / MASK.sum(1),
    }


@pytest.mark.parametrize("name", get_args(Score))
def test_scores_are_those_of_all_chunks_at_once(name, whole):
    # Batches of 3 of the 7 chunks: the last one is not full.
    found = chunk_scores(KEY, name, PARAMS, CONFIG, TEXTS, hits=HITS, batch_size=3)
    assert found.shape == (7,)
    # Differences of distances that nearly cancel, and an order that is the same or not.
    tolerance = {"moderate": dict(rtol=1e-4, atol=1e-5), "k_center": dict(rtol=0)}
    np.testing.assert_allclose(found, whole[name], **tolerance.get(name, dict(rtol=2e-5)))


@pytest.mark.parametrize("name", ["el2n", "loss", "moderate"])
def test_padding_does_not_count(name, whole):
    other = Sequences(jnp.where(TEXTS.mask, TEXTS.tokens, 11), TEXTS.mask)
    found = chunk_scores(KEY, name, PARAMS, CONFIG, other, batch_size=3)
    np.testing.assert_allclose(found, whole[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["el2n", "moderate"])
def test_half_precision_gives_scores_in_single(name, whole):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    found = chunk_scores(KEY, name, half, CONFIG, TEXTS)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, whole[name], rtol=0.1, atol=0.1)


def test_texts_and_hits_leave_out_padding_and_special_tokens():
    tokens = jnp.array([[9, 0, 1, 0, 2], [9, 3, 0, 0, 0]], jnp.int32)
    texts = Sequences(tokens, jnp.arange(5) < jnp.array([[5], [2]]))
    assert chunk_texts(WordTokenizer(), texts) == ("alpha beta alpha gamma", "delta")
    hits = keyword_hits(WordTokenizer(), texts, ("alpha", "delta"))
    np.testing.assert_array_equal(hits, [[0, 1, 0, 1, 0], [0, 1, 0, 0, 0]])
    found = chunk_scores(KEY, "keyword_density", PARAMS, CONFIG, texts, hits=hits)
    np.testing.assert_allclose(found, [2 / 5, 1 / 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(name="nice"), "name='nice': accepted is one of 'random', 'el2n'"),
        (
            dict(name="keyword_density"),
            r"hits=None: accepted is \[chunk, time\] with name='keyword_density'",
        ),
        (dict(batch_size=0), "batch_size=0: accepted is a whole number, 1 or more"),
        (dict(texts=Sequences(TEXTS.tokens + 1, TEXTS.mask)), "texts: tokens from 1 to 12"),
        (dict(name="moderate", texts=jax.tree.map(lambda x: x[:3], TEXTS)), "clusters=4"),
    ],
)
def test_bad_arguments_are_named(change, message, unchecked):
    given = {"name": "loss", "params": PARAMS, "decoder": CONFIG, "texts": TEXTS} | change
    with pytest.raises(ValueError, match=message):
        chunk_scores(KEY, **given)
