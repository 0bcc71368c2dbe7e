"""Scores of difficulty against numpy, token by token, and on a model that knows some chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning import coreset, token_log_prob

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(5, 9, 7))
TOKENS = RNG.integers(0, 7, (5, 9))
MASK = np.arange(9) < np.array([[9], [8], [6], [3], [2]])
MASK[1, 4] = False
LOGP = -RNG.exponential(size=(5, 8))
HITS = RNG.integers(0, 2, (5, 9)).astype(bool)


def softmax(z):
    return np.exp(z) / np.exp(z).sum()


def distance(logits, token):
    return np.linalg.norm(softmax(logits) - np.eye(7)[token])


def lowest(values, fraction):
    return np.mean(np.sort(values)[: max(1, int(fraction * len(values)))])


def expected(name, i):
    counted = MASK[i, 1:]
    if name == "el2n":
        every = [distance(LOGITS[i, t], TOKENS[i, t + 1]) for t in range(8)]
        return np.mean(np.array(every)[counted])
    logp = LOGP[i][counted]
    return {
        "loss": -logp.mean(),
        "perplexity": np.exp(-logp.mean()),
        "min_k": lowest(logp, 0.4),
        "keyword_density": HITS[i][MASK[i]].mean(),
    }[name]


ARRAYS = {
    "el2n": (LOGITS, TOKENS, MASK),
    "loss": (LOGP, MASK[:, 1:]),
    "perplexity": (LOGP, MASK[:, 1:]),
    "min_k": (LOGP, MASK[:, 1:]),
    "keyword_density": (HITS, MASK),
}


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-11), ("float32", 1e-5)])
@pytest.mark.parametrize("name", ARRAYS)
def test_scores_equal_numpy(name, dtype, rtol):
    function = getattr(coreset, name)
    arrays = [jnp.asarray(x, dtype if x.dtype == float else None) for x in ARRAYS[name]]
    wanted = [expected(name, i) for i in range(5)]
    found = jax.jit(function)(*arrays)
    assert found.dtype == dtype or name == "keyword_density"
    np.testing.assert_allclose(found, wanted, rtol=rtol)
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(*arrays), wanted, rtol=rtol)


@pytest.mark.parametrize("gap", [1.0, 20.0, 40.0])
def test_el2n_of_a_sure_model_keeps_its_digits(gap):
    """Two tokens with logits 0 and -gap: the distance is sqrt(2) times the chance of the wrong."""
    tokens, mask = jnp.array([0, 0]), jnp.array([True, True])
    logits = jnp.array([[0.0, -gap], [0.0, 0.0]], "float32")
    wrong = np.exp(-gap) / (1 + np.exp(-gap))
    found = coreset.el2n(logits, tokens, mask)
    np.testing.assert_allclose(found, np.sqrt(2) * wrong, rtol=1e-6)
    found = coreset.el2n(logits, 1 - tokens, mask)
    np.testing.assert_allclose(found, np.sqrt(2) * (1 - wrong), rtol=1e-6)


def test_el2n_is_the_norm_of_the_gradient_with_respect_to_the_logits():
    logits, tokens = jnp.asarray(LOGITS), jnp.asarray(TOKENS)
    slope = jax.grad(lambda z: jnp.sum(token_log_prob(z, tokens)))(logits)[:, :-1]
    every = jnp.linalg.norm(slope, axis=-1)
    np.testing.assert_allclose(
        coreset.el2n(logits, tokens, jnp.ones_like(tokens, bool)), every.mean(1), rtol=1e-11
    )


def test_el2n_takes_half_precision_and_any_tokens_where_none_counts():
    half = jnp.asarray(LOGITS, "bfloat16")
    tokens = jnp.asarray(np.where(MASK, TOKENS, -100), "int32")
    found = coreset.el2n(half, tokens, jnp.asarray(MASK))
    assert found.dtype == "float32"
    # float32 of the rounded logits, not half precision all the way.
    same = coreset.el2n(half.astype("float32"), jnp.asarray(TOKENS), jnp.asarray(MASK))
    np.testing.assert_array_equal(found, same)
    outside = tokens.at[0, 3].set(7)
    np.testing.assert_array_equal(
        np.isnan(coreset.el2n(half, outside, jnp.asarray(MASK))), [1, 0, 0, 0, 0]
    )


@pytest.mark.parametrize("name", ARRAYS)
def test_a_chunk_without_tokens_has_no_score_and_spoils_no_other(name):
    *arrays, mask = map(jnp.asarray, ARRAYS[name])
    found = getattr(coreset, name)(*arrays, mask.at[3].set(False))
    np.testing.assert_array_equal(np.isnan(found), [0, 0, 0, 1, 0])


def bigram_table(chunk, times):
    """Logits of the next token by counts of a text that was seen many times, and once of all."""
    counts = np.ones((20, 20))
    np.add.at(counts, (chunk[:-1], chunk[1:]), times)
    return np.log(counts)


def test_min_k_keeps_the_memorised_chunk():
    chunks = RNG.integers(0, 20, (12, 10))
    table = jnp.asarray(bigram_table(chunks[7], 50))
    tokens = jnp.asarray(chunks)
    logp = token_log_prob(table[tokens], tokens)
    score = coreset.min_k(logp, jnp.ones_like(logp, bool))
    assert coreset.select(score, 0.05, keep="top").tolist() == [7]
    # The memorised chunk is the one of the lowest loss, perplexity and EL2N.
    mask = jnp.ones_like(tokens, bool)
    for easy in (
        coreset.loss(logp, mask[:, 1:]),
        coreset.perplexity(logp, mask[:, 1:]),
        coreset.el2n(table[tokens], tokens, mask),
    ):
        assert coreset.select(easy, 0.05, keep="bottom").tolist() == [7]


def test_fraction_of_min_k():
    found = functools.partial(coreset.min_k, fraction=1.0)(
        jnp.asarray(LOGP), jnp.asarray(MASK[:, 1:])
    )
    np.testing.assert_allclose(
        -found, coreset.loss(jnp.asarray(LOGP), jnp.asarray(MASK[:, 1:])), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda z, t, m: coreset.el2n(z, t, m[:, 1:]),
            r"mask=\w+\[5, 8\]: accepted is .*, the shape of tokens",
        ),
        (
            lambda z, t, m: coreset.el2n(z, t[:, 1:], m),
            r"tokens=\w+\[5, 8\]: accepted is .*, the shape of logits",
        ),
        (lambda z, t, m: coreset.el2n(t, t, m), "logits=int"),
        (
            lambda z, t, m: coreset.loss(z[0], m),
            r"mask=\w+\[5, 9\]: accepted is \[9, 7\], the shape of logp",
        ),
        (lambda z, t, m: coreset.perplexity(t, m), "logp=int"),
        (lambda z, t, m: coreset.min_k(z[..., 0], m, fraction=0), "fraction=0: accepted"),
        (lambda z, t, m: coreset.keyword_density(t, m), "hits=int.* accepted is bool"),
        (lambda z, t, m: coreset.keyword_density(m, t), "mask=int.* accepted is bool"),
        (
            lambda z, t, m: coreset.keyword_density(m, m[1:]),
            r"mask=\w+\[4, 9\]: accepted is .*, the shape of hits",
        ),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(*map(jnp.asarray, (LOGITS, TOKENS, MASK)))
