"""Masks of keywords, of all but them and of the control, by hand and by counting."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning import Sequences, coreset, keywords

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
TOKENS = jnp.asarray(RNG.integers(0, 9, (5, 8)), "int32")
MASK = jnp.asarray(np.arange(8) < np.array([[8], [7], [6], [4], [1]]))
HITS = jnp.asarray(RNG.integers(0, 2, (5, 8)), bool).at[0, 0].set(True).at[2].set(False)
TEXTS = Sequences(TOKENS, MASK)


def test_keywords_and_complement_make_up_what_counted():
    kept = jax.jit(keywords.keyword_mask)(TEXTS, HITS)
    rest = jax.jit(keywords.complement_mask)(TEXTS, HITS)
    for i, t in itertools.product(range(5), range(8)):
        assert kept.mask[i, t] == (MASK[i, t] and HITS[i, t])
        assert rest.mask[i, t] == (MASK[i, t] and not HITS[i, t])
    for found in (kept, rest):
        np.testing.assert_array_equal(found.tokens, TOKENS)
    np.testing.assert_array_equal(kept.mask | rest.mask, MASK)
    assert not jnp.any(kept.mask & rest.mask)


def test_control_has_as_many_terms_a_row_among_those_that_count():
    kept = keywords.keyword_mask(TEXTS, HITS)
    keys = jax.random.split(KEY, 50)
    found = jax.jit(jax.vmap(keywords.random_mask, in_axes=(0, None, None)))(keys, TEXTS, HITS)
    terms = np.asarray(kept.mask[:, 1:]).sum(1)
    assert 0 in terms and terms.max() > 2
    np.testing.assert_array_equal(found.mask.sum(-1), np.tile(terms, (50, 1)))
    assert not np.any(found.mask & ~MASK) and not np.any(found.mask[..., 0])
    np.testing.assert_array_equal(found.tokens[0], TOKENS)


def test_control_is_uniform():
    """All sets of 2 of the 5 tokens are equally likely, in every row on its own."""
    mask = jnp.asarray([[True, True, False, True, True, True, True]] * 2)
    hits = jnp.asarray([[True, False, True, True, True, False, False]] * 2)
    texts = Sequences(jnp.zeros((2, 7), "int32"), mask)
    draw = jax.jit(jax.vmap(lambda key: keywords.random_mask(key, texts, hits).mask))
    found = np.asarray(draw(jax.random.split(KEY, 4000)))
    codes = found @ 2 ** np.arange(7)
    for row in codes.T:
        kinds, counts = np.unique(row, return_counts=True)
        assert len(kinds) == 10
        # Chi-square with 9 degrees of freedom: 27.9 is exceeded once in 1000.
        assert ((counts - 400) ** 2 / 400).sum() < 27.9
    # Rows are drawn independently: both agree one time in 10, give or take 4 deviations.
    assert abs(np.mean(codes[:, 0] == codes[:, 1]) - 0.1) < 4 * np.sqrt(0.09 / 4000)


@pytest.mark.parametrize(
    "function",
    [
        keywords.keyword_mask,
        keywords.complement_mask,
        lambda texts, hits: keywords.random_mask(KEY, texts, hits),
    ],
)
def test_jit_and_vmap_over_sets(function):
    sets = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1], leaf]), TEXTS)
    hits = jnp.stack([HITS, HITS, ~HITS])
    found = jax.jit(jax.vmap(function))(sets, hits)
    for i in range(3):
        one = function(jax.tree.map(lambda leaf: leaf[i], sets), hits[i])  # noqa: B023
        np.testing.assert_array_equal(found.mask[i], one.mask)


def test_hits_may_come_from_numpy():
    np.testing.assert_array_equal(
        keywords.keyword_mask(TEXTS, np.asarray(HITS)).mask, keywords.keyword_mask(TEXTS, HITS).mask
    )
    found = coreset.keyword_density(np.asarray(HITS), MASK)
    np.testing.assert_array_equal(found, coreset.keyword_density(HITS, MASK))


def test_sets_in_front_need_no_vmap():
    sets = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), TEXTS)
    found = keywords.random_mask(KEY, sets, jnp.stack([HITS, HITS])).mask
    terms = (sets.mask & HITS)[..., 1:].sum(-1)
    np.testing.assert_array_equal(found.sum(-1), terms)


@pytest.mark.parametrize("name", ["keyword_mask", "complement_mask", "random_mask"])
def test_bad_input_is_named(name, unchecked):
    call = lambda *args: getattr(keywords, name)(*([KEY] if name == "random_mask" else []), *args)
    with pytest.raises(
        ValueError, match=r"hits=\w+\[5, 7\]: accepted is \[5, 8\], the shape of mask"
    ):
        call(TEXTS, HITS[:, 1:])
    with pytest.raises(ValueError, match="hits=int32.*accepted is bool"):
        call(TEXTS, TOKENS)
