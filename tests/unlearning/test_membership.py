"""Scores of membership against numpy, text by text, and on a model that knows some."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning._log_prob import token_log_prob
from jaxml.unlearning.metrics import _membership as membership

RNG = np.random.default_rng(0)
LOGP, OTHER = -RNG.exponential(size=(2, 6, 12))
SIZES = RNG.integers(20, 90, 6)
MASK = np.arange(12) < np.array([[12], [11], [7], [5], [2], [1]])
LOGITS = 2 * RNG.normal(size=(6, 13, 9))
TOKENS = RNG.integers(0, 9, (6, 13))
FULL = np.concatenate([np.ones((6, 1), bool), MASK], axis=1)


def lowest(values, fraction):
    """As the code of MUSE has it, with 1 token at least."""
    count = max(1, int(fraction * len(values)))
    return np.mean(np.sort(values)[:count])


def standardised(logits, token):
    p = np.exp(logits) / np.exp(logits).sum()
    mean = (p * np.log(p)).sum()
    return (np.log(p[token]) - mean) / np.sqrt((p * np.log(p) ** 2).sum() - mean**2)


def expected(name, i, fraction):
    logp = LOGP[i][MASK[i]]
    if name == "min_k_plus_plus":
        every = [standardised(LOGITS[i, t], TOKENS[i, t + 1]) for t in range(12)]
        return lowest(np.array(every)[MASK[i]], fraction)
    return {
        "loss_score": logp.mean(),
        "zlib_score": logp.mean() / SIZES[i],
        "reference_score": logp.mean() - OTHER[i][MASK[i]].mean(),
        "min_k_prob": lowest(logp, fraction),
    }[name]


ARRAYS = {
    "loss_score": (LOGP, MASK),
    "zlib_score": (LOGP, MASK, SIZES),
    "reference_score": (LOGP, OTHER, MASK),
    "min_k_prob": (LOGP, MASK),
    "min_k_plus_plus": (LOGITS, TOKENS, FULL),
}
CALLS = [(name, None) for name in ARRAYS] + [
    (name, fraction) for name in ("min_k_prob", "min_k_plus_plus") for fraction in (0.05, 0.29, 1.0)
]


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-11), ("float32", 1e-5)])
@pytest.mark.parametrize(("name", "fraction"), CALLS)
def test_scores_equal_numpy(name, fraction, dtype, rtol):
    function = getattr(membership, name)
    if fraction is not None:
        function = functools.partial(function, fraction=fraction)
    cast = lambda x: jnp.asarray(x, dtype) if x.dtype == float else jnp.asarray(x)
    arrays = [cast(x) for x in ARRAYS[name]]
    wanted = [expected(name, i, fraction or 0.4) for i in range(6)]
    found = jax.jit(function)(*arrays)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, wanted, rtol=rtol)
    np.testing.assert_allclose(jax.vmap(function)(*arrays), wanted, rtol=rtol)


@pytest.mark.parametrize("fraction", [0.29, 0.3, 0.57, 0.7])
def test_number_of_tokens_is_that_of_python(fraction):
    length = 100
    logp = jnp.asarray(-np.arange(1.0, length + 1), "float32")[None]
    mask = jnp.asarray(np.arange(length) < np.arange(1, length + 1)[:, None])
    found = membership.min_k_prob(jnp.broadcast_to(logp, mask.shape), mask, fraction=fraction)
    # The lowest k of -1 .. -n have the mean -(n - (k - 1) / 2).
    n = np.arange(1, length + 1)
    k = np.array([max(1, int(fraction * m)) for m in n])
    np.testing.assert_allclose(found, -(n - (k - 1) / 2), rtol=1e-6)


def test_texts_that_a_model_knows_score_higher():
    logits = LOGITS.copy()
    i, t = np.ix_([1, 3], range(12))
    logits[i, t, TOKENS[[1, 3], 1:]] += 5
    logits, tokens, mask = map(jnp.asarray, (logits, TOKENS, np.ones_like(FULL)))
    logp = token_log_prob(logits, tokens)
    plain = token_log_prob(jnp.asarray(LOGITS), tokens)
    inner = mask[:, 1:]
    for score in (
        membership.loss_score(logp, inner),
        membership.zlib_score(logp, inner, jnp.full(6, 50)),
        membership.reference_score(logp, plain, inner),
        membership.min_k_prob(logp, inner),
        membership.min_k_plus_plus(logits, tokens, mask),
    ):
        assert set(np.argsort(score)[-2:].tolist()) == {1, 3}


def test_places_without_spread_have_no_standardised_score():
    flat, certain = np.zeros((3, 4)), np.where(np.arange(4) == 2, 0.0, -np.inf) * np.ones((3, 4))
    for logits in (flat, certain):
        found = membership.min_k_plus_plus(
            jnp.asarray(logits), jnp.array([2, 2, 2]), jnp.ones(3, bool)
        )
        np.testing.assert_array_equal(found, 0)


def test_a_text_without_tokens_has_no_score_and_spoils_no_other():
    spoiled = jnp.asarray(np.where(MASK, LOGP, np.nan)).at[0].set(np.nan)
    mask = jnp.asarray(MASK).at[0].set(False)
    for function in (membership.loss_score, membership.min_k_prob):
        found = function(spoiled, mask)
        assert np.isnan(found[0])
        np.testing.assert_allclose(found[1:], function(jnp.asarray(LOGP), jnp.asarray(MASK))[1:])
        counted = function(jnp.asarray(LOGP).at[2, 3].set(np.nan), mask)
        np.testing.assert_array_equal(np.isnan(counted), [1, 0, 1, 0, 0, 0])


def test_perplexity_weighs_tokens_not_texts():
    found = jax.jit(membership.perplexity)(jnp.asarray(LOGP), jnp.asarray(MASK))
    np.testing.assert_allclose(found, np.exp(-LOGP[MASK].mean()), rtol=1e-12)
    uniform = token_log_prob(jnp.zeros((1, 13, 9)), jnp.asarray(TOKENS[:1]))
    np.testing.assert_allclose(membership.perplexity(uniform, uniform < 0), 9, rtol=1e-12)


def test_compressed_size():
    text = "caf\u00e9 " * 50
    assert membership.zlib_size(text) == len(zlib.compress(text.encode("utf-8"))) < 40
    assert membership.zlib_size("") == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, m, n: membership.loss_score(x, m[:2]), r"mask=\w+\[2, 12\]"),
        (lambda x, m, n: membership.loss_score(n, m), "logp=int"),
        (
            lambda x, m, n: membership.perplexity(x, m.T),
            r"mask=\w+\[12, 6\]: accepted is \[6, 12\], the shape of logp",
        ),
        (
            lambda x, m, n: membership.zlib_score(x, m, n[:2]),
            r"sizes=\w+\[2\]: .* \[6\], one a text",
        ),
        (
            lambda x, m, n: membership.reference_score(x, x[:1], m),
            r"reference_logp=\w+\[1, 12\]: accepted is \[6, 12\], the",
        ),
        (lambda x, m, n: membership.min_k_prob(x, m, fraction=0.0), "fraction=0.0"),
        (lambda x, m, n: membership.min_k_prob(x, m, fraction=40), "fraction=40: .* 1 at most"),
        (
            lambda x, m, n: membership.min_k_plus_plus(x, n, m),
            r"mask=\w+\[6, 12\]: accepted is \[6\], the shape of tokens",
        ),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(*map(jnp.asarray, (LOGP, MASK, SIZES)))
