"""Sets of texts: rows, lengths, plain tokens, and rows drawn by chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning import Sequences, sequence_log_prob
from jaxml.unlearning._sequences import check_texts, sequences

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 9, (5, 7))
MASK = np.arange(7) < np.array([[7], [5], [3], [1], [6]])
TEXTS = Sequences(jnp.asarray(TOKENS), jnp.asarray(MASK))
SETS = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), TEXTS)

PICKS = {
    "slice": slice(1, 4),
    "indices": np.array([4, 0, 0]),
    "list": [3, 1],
    "mask": np.array([True, False, True, True, False]),
    "array": jnp.array([2, 2]),
    "none": slice(0, 0),
}


@pytest.mark.parametrize("name", PICKS)
def test_rows_are_picked_as_numpy_picks_them(name):
    rows = PICKS[name]
    for texts, tokens, mask in ((TEXTS, TOKENS, MASK), (SETS, SETS.tokens, SETS.mask)):
        found = texts[rows]
        index = np.asarray(rows) if not isinstance(rows, slice) else rows
        np.testing.assert_array_equal(found.tokens, np.asarray(tokens)[..., index, :])
        np.testing.assert_array_equal(found.mask, np.asarray(mask)[..., index, :])
        assert len(found) == found.tokens.shape[-2]


@pytest.mark.parametrize("row", [3, -2, np.int64(3), jnp.array(3)])
def test_one_row_stays_a_set(row):
    np.testing.assert_array_equal(TEXTS[row].tokens, TOKENS[[3]])
    np.testing.assert_array_equal(SETS[row].mask[0], MASK[[3]])


def test_rows_end_so_that_loops_do():
    assert [len(row) for row in TEXTS] == [1] * 5
    for row in (5, -6):
        with pytest.raises(IndexError):
            TEXTS[row]


def test_lengths_are_the_terms_of_log_probabilities():
    flat = jnp.zeros((*TOKENS.shape, 9))
    logp = sequence_log_prob(flat, TEXTS.tokens, TEXTS.mask)
    np.testing.assert_allclose(np.asarray(TEXTS.lengths) * -np.log(9), logp, rtol=1e-12)
    assert TEXTS.lengths.dtype == "int32" and TEXTS.lengths.tolist() == [6, 4, 2, 0, 5]
    np.testing.assert_array_equal(SETS.lengths, [TEXTS.lengths, TEXTS.lengths[::-1]])


def test_jit_and_vmap():
    some = lambda texts, rows: (texts[rows], texts.lengths)
    found, lengths = jax.jit(jax.vmap(some))(SETS, jnp.array([[0, 1], [4, 3]]))
    np.testing.assert_array_equal(found.tokens, np.stack([TOKENS[:2]] * 2))
    np.testing.assert_array_equal(lengths, SETS.lengths)
    plain = jax.jit(jax.vmap(sequences))(SETS.tokens)
    np.testing.assert_array_equal(plain.mask, np.ones((2, 5, 7), bool))


@pytest.mark.parametrize("tokens", [TOKENS, jnp.asarray(TOKENS), SETS.tokens])
def test_of_plain_tokens_all_count(tokens):
    found = sequences(tokens)
    np.testing.assert_array_equal(found.tokens, tokens)
    assert found.mask.dtype == bool and found.mask.shape == tokens.shape and found.mask.all()
    assert sequences(TEXTS) is TEXTS


@pytest.mark.parametrize(
    ("tokens", "mask", "message"),
    [
        (TOKENS / 1, MASK, r"own=float64\[5, 7\]: accepted is integers"),
        (TOKENS[0], MASK[0], r"own=int64\[7\]: accepted is integers \[row"),
        (
            TOKENS[:0],
            MASK[:0],
            r"own=int64\[0, 7\]: accepted is one row or more, of 2 tokens or more",
        ),
        (TOKENS, MASK[:, 1:], r"own.mask=bool\[5, 6\]: .* bool\[5, 7\]"),
        (TOKENS, TOKENS, r"own.mask=int64\[5, 7\]: accepted is bool"),
        (TOKENS + 2, MASK, r"own=.* tokens from 2 to 10: accepted is 0 to 8"),
        (TOKENS - 1, MASK, r"from -1 to 7: .*does the tokenizer belong"),
    ],
)
def test_what_cannot_be_used_is_named(tokens, mask, message, unchecked):
    texts = Sequences(jnp.asarray(tokens), jnp.asarray(mask))
    with pytest.raises(ValueError, match=message):
        check_texts("own", texts, vocabulary=9)
