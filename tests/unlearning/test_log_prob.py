"""Log-probabilities of tokens and sequences against numpy, and what padding must not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning._log_prob import sequence_log_prob, token_log_prob

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(4, 6, 11))
TOKENS = RNG.integers(0, 11, (4, 6))
# A prompt of two tokens, padding of different lengths.
MASK = (np.arange(6) >= 2) & (np.arange(6) < np.array([6, 5, 4, 3])[:, None])


def log_prob(logits, tokens):
    """One token after another, in double precision."""
    expected = np.empty((len(tokens), tokens.shape[1] - 1))
    for i, row in enumerate(tokens):
        for t, token in enumerate(row[1:]):
            p = np.exp(logits[i, t]) / np.exp(logits[i, t]).sum()
            expected[i, t] = np.log(p[token])
    return expected


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 2e-6)])
def test_values_equal_numpy(dtype, rtol):
    logits, tokens, mask = jnp.asarray(LOGITS, dtype), jnp.asarray(TOKENS), jnp.asarray(MASK)
    expected = log_prob(LOGITS, TOKENS)
    found = token_log_prob(logits, tokens)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=rtol)
    total = (expected * MASK[:, 1:]).sum(axis=1)
    np.testing.assert_allclose(sequence_log_prob(logits, tokens, mask), total, rtol=rtol)


def test_half_precision_is_summed_in_single():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    found = sequence_log_prob(logits, jnp.asarray(TOKENS), jnp.asarray(MASK))
    assert found.dtype == "float32"
    exact = log_prob(np.asarray(logits, float), TOKENS)
    np.testing.assert_allclose(found, (exact * MASK[:, 1:]).sum(axis=1), rtol=2e-6)


def test_large_logits_stay_finite():
    logits = jnp.asarray([[[1e4, 0.0], [0.0, 0.0]]], "float32")
    np.testing.assert_array_equal(token_log_prob(logits, jnp.array([[0, 1]])), [[-1e4]])


def test_masked_tokens_have_no_part_in_value_and_gradient():
    tokens = np.where(MASK, TOKENS, -100)
    total = lambda x, t: jnp.sum(sequence_log_prob(x, jnp.asarray(t), jnp.asarray(MASK)))
    value, gradient = jax.value_and_grad(total)(jnp.asarray(LOGITS), tokens)
    expected = jax.value_and_grad(total)(jnp.asarray(LOGITS), TOKENS)
    np.testing.assert_array_equal(value, expected[0])
    np.testing.assert_array_equal(gradient, expected[1])
    # The logits at t matter where token t + 1 counts, and only there.
    matters = np.abs(gradient).max(axis=-1) > 0
    np.testing.assert_array_equal(matters[:, :-1], MASK[:, 1:])
    assert not matters[:, -1].any()


def test_gradient_is_one_hot_less_softmax():
    one, tokens = jnp.asarray(LOGITS[0]), jnp.asarray(TOKENS[0])
    gradient = jax.grad(lambda x: token_log_prob(x, tokens)[2])(one)
    expected = np.zeros_like(LOGITS[0])
    expected[2] = np.eye(11)[TOKENS[0, 3]] - np.exp(LOGITS[0, 2]) / np.exp(LOGITS[0, 2]).sum()
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_leading_axes_are_as_vmap():
    arrays = jnp.asarray(LOGITS), jnp.asarray(TOKENS), jnp.asarray(MASK)
    found = jax.jit(jax.vmap(sequence_log_prob))(*arrays)
    np.testing.assert_allclose(found, sequence_log_prob(*arrays), rtol=1e-12)


@pytest.mark.parametrize(
    ("logits", "tokens", "mask", "message"),
    [
        (
            LOGITS,
            TOKENS[:3],
            MASK[:3],
            r"tokens=\w+\[3, 6\]: accepted is \[4, 6\], the shape of logits but for",
        ),
        (LOGITS, TOKENS / 1, MASK, "tokens=float64.*accepted is integers"),
        (
            LOGITS,
            TOKENS,
            MASK[:, :5],
            r"mask=\w+\[4, 5\]: accepted is \[4, 6\], the shape of tokens",
        ),
        (LOGITS, TOKENS, MASK * 1, "mask=int64.*accepted is bool"),
        (LOGITS.astype(int), TOKENS, MASK, "logits=int64"),
        (LOGITS[:, :1], TOKENS[:, :1], MASK[:, :1], "accepted is 2 tokens or more in a row"),
        (LOGITS[:0], TOKENS[:0], MASK[:0], r"logits=\w+\[0, 6, 11\]"),
    ],
)
def test_bad_input_is_named(logits, tokens, mask, message, unchecked):
    with pytest.raises(ValueError, match=message):
        sequence_log_prob(*map(jnp.asarray, (logits, tokens, mask)))
