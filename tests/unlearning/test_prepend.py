"""Tokens in front of texts: what counts afterwards, and what a model says of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning import Sequences, sequence_log_prob
from jaxml.unlearning.attacks import prepend

RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.integers(0, 9, (4, 5)), "int32")
MASK = jnp.asarray(RNG.random((4, 5)) < 0.7)
TEXTS = Sequences(TOKENS, MASK)
FRONT = jnp.array([8, 3, 8])


def test_rows_begin_with_the_prefix_that_does_not_count():
    found = jax.jit(prepend)(TEXTS, FRONT)
    for row in range(4):
        assert found.tokens[row].tolist() == [8, 3, 8, *TOKENS[row].tolist()]
        assert found.mask[row].tolist() == [False] * 3 + MASK[row].tolist()
    assert found.tokens.dtype == "int32" and found.mask.dtype == bool
    sets = prepend(Sequences(TOKENS.reshape(2, 2, 5), MASK.reshape(2, 2, 5)), FRONT)
    np.testing.assert_array_equal(sets.tokens.reshape(4, 8), found.tokens)
    np.testing.assert_array_equal(sets.mask.reshape(4, 8), found.mask)


def test_maps_over_prefixes():
    found = jax.vmap(prepend, (None, 0))(TEXTS, jnp.stack([FRONT, FRONT + 1]))
    np.testing.assert_array_equal(found.tokens[1, :, :3], np.tile([9, 4, 9], (4, 1)))
    np.testing.assert_array_equal(found.tokens[:, :, 3:], jnp.stack([TOKENS, TOKENS]))


def test_a_prefix_of_nothing_changes_nothing():
    found = prepend(TEXTS, FRONT[:0])
    np.testing.assert_array_equal(found.tokens, TOKENS)
    np.testing.assert_array_equal(found.mask, MASK)


def test_the_first_token_is_predicted_from_the_prefix():
    table = jnp.asarray(RNG.normal(size=(9, 9)))
    whole = jnp.ones_like(MASK)
    found = prepend(np.asarray(TOKENS), FRONT)
    with_prefix = sequence_log_prob(table[found.tokens], found.tokens, found.mask)
    alone = sequence_log_prob(table[TOKENS], TOKENS, whole)
    first = jax.nn.log_softmax(table[8])[TOKENS[:, 0]]
    np.testing.assert_allclose(with_prefix, alone + first, rtol=1e-12)


@pytest.mark.parametrize(
    ("tokens", "mask", "front", "message"),
    [
        (
            TOKENS,
            MASK[:, 1:],
            FRONT,
            r"mask=bool\[4, 4\]: accepted is \[4, 5\], the shape of texts",
        ),
        (TOKENS, TOKENS, FRONT, "mask=int32.*: accepted is bool"),
        (MASK, MASK, FRONT, "texts=bool.*: accepted is integers"),
        (TOKENS, MASK, FRONT / 2, "tokens=float.*: accepted is integers"),
        (TOKENS, MASK, FRONT[None], r"tokens=int64\[1, 3\]: accepted is \[position\]"),
    ],
)
def test_bad_input_is_named(tokens, mask, front, message, unchecked):
    with pytest.raises(ValueError, match=message):
        prepend(Sequences(tokens, mask), front)
