"""Exact memorization and extraction strength by their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning.metrics._greedy import exact_memorization, extraction_strength


def case(right, mask=None):
    """Predictions that are right where `right` has a 1, and the mask."""
    right = np.array([int(c) for c in right])
    tokens = np.arange(len(right))
    mask = np.ones(len(right)) if mask is None else np.array([int(c) for c in mask])
    return tokens + 1 - right, tokens, mask.astype(bool)


CASES = [
    ("1111", None, 1, 1),
    ("0000", None, 0, 0),
    ("0111", None, 3 / 4, 3 / 4),
    ("1011", None, 3 / 4, 1 / 2),
    ("1110", None, 3 / 4, 0),
    # Only what the mask holds is counted, wherever it is.
    ("0111", "0111", 1, 1),
    ("1101", "0110", 1 / 2, 0),
    ("0110", "0110", 1, 1),
    ("0011", "1010", 1 / 2, 1 / 2),
]


@pytest.mark.parametrize(("right", "mask", "exact", "strength"), CASES)
def test_shares_by_hand(right, mask, exact, strength):
    arrays = [jnp.asarray(a) for a in case(right, mask)]
    for function, expected in ((exact_memorization, exact), (extraction_strength, strength)):
        found = function(*arrays)
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_strength_is_the_shortest_prompt_of_random_rows():
    rng = np.random.default_rng(0)
    predicted, tokens, mask = rng.integers(0, 2, (3, 200, 7))
    mask = mask > 0
    mask[:, 0] = True
    expected = []
    for p, t, m in zip(predicted, tokens, mask, strict=True):
        right = (p == t)[m]
        k = next((k for k in range(len(right)) if right[k:].all()), len(right))
        expected.append(1 - k / len(right))
    arrays = [jnp.asarray(a) for a in (predicted, tokens, mask)]
    found = jax.jit(extraction_strength)(*arrays)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(jax.vmap(extraction_strength)(*arrays), found)
    share = ((predicted == tokens) & mask).sum(axis=1) / mask.sum(axis=1)
    np.testing.assert_allclose(jax.vmap(exact_memorization)(*arrays), share, rtol=1e-6)


def test_a_text_without_tokens_has_no_share():
    arrays = [jnp.asarray(a) for a in case("11", "00")]
    assert np.isnan(exact_memorization(*arrays)) and np.isnan(extraction_strength(*arrays))


@pytest.mark.parametrize("function", [exact_memorization, extraction_strength])
def test_bad_input_is_named(function, unchecked):
    predicted, tokens, mask = (jnp.asarray(a) for a in case("1010"))
    with pytest.raises(
        ValueError, match=r"predicted=\w+\[3\]: accepted is \[4\], the shape of tokens"
    ):
        function(predicted[:3], tokens, mask)
    with pytest.raises(ValueError, match=r"mask=\w+\[3\]"):
        function(predicted, tokens, mask[:3])
    with pytest.raises(ValueError, match="predicted=float64"):
        function(predicted / 1, tokens, mask)
