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


PAD = 0
WORDS = [[5, 6, 7, 8, 4, 3], [8, 8, 7, 4, 3], [5, 7, 6], [6, 4]]


def padded(rows, uncounted=0, *, left, length=None):
    """Return rows filled up at one side, the first words of each a prompt."""
    length = length or max(map(len, rows))
    tokens, mask = np.full((len(rows), length), PAD), np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        start = length - len(row) if left else 0
        tokens[i, start : start + len(row)] = row
        mask[i, start + uncounted : start + len(row)] = True
    return Sequences(jnp.asarray(tokens), jnp.asarray(mask))


# Rows, and how many words of each are a prompt; of chunks that end in a short one none are.
LEFT = [
    *((rows, prompt) for rows in (WORDS, [[PAD, *w] for w in WORDS]) for prompt in (0, 1)),
    ([*WORDS[:1] * 9, WORDS[2]], 0),
]


@pytest.mark.parametrize("length", [6, 9])
@pytest.mark.parametrize(("rows", "uncounted"), LEFT)
def test_rows_padded_at_the_left_are_refused(rows, uncounted, length):
    length = max(length, max(map(len, rows)))
    message = r"forget=int.* with padding at the left: accepted is rows padded at the right"
    with pytest.raises(ValueError, match=message):
        check_texts("forget", padded(rows, uncounted, left=True, length=length))
    check_texts("prompts", padded(rows, uncounted, left=True, length=length), left_padding=True)
    check_texts("forget", padded(rows, uncounted, left=False, length=length))


def test_what_looks_like_padding_at_the_left_is_a_prompt():
    double_start = padded([[1, 1, *words] for words in WORDS], 2, left=False)
    check_texts("texts", double_start)
    # As after `attacks.prepend`, of a suffix before it is optimized.
    check_texts("texts", padded([[2] * 5 + words for words in [WORDS[0]] * 2], 5, left=False))
    # Keywords count alone, and a few chunks start with the dots of a table of contents.
    mask = RNG.uniform(size=(40, 30)) < 0.2
    mask[:, :3] = False
    tokens = RNG.integers(1, 99, (40, 30))
    tokens[3, :7], tokens[8, :3] = 5, 5
    check_texts("texts", Sequences(jnp.asarray(tokens), jnp.asarray(mask)))
    jax.jit(lambda texts: check_texts("texts", texts))(padded(WORDS, left=True))
