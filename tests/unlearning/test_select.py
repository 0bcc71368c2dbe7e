"""The choice of chunks by a score, by hand and against sorting in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning import coreset

RNG = np.random.default_rng(0)
KEEP = ("top", "bottom", "middle")
FRACTIONS = (0.001, 0.05, 0.1, 0.25, 0.5, 0.9, 1.0)


def expected(scores, fraction, keep):
    """Chunk by chunk in Python."""
    scores = scores.tolist()
    count = len(scores)
    rank = {chunk: rank for rank, chunk in enumerate(sorted(range(count), key=scores.__getitem__))}
    cost = {
        "top": lambda i: -scores[i],
        "bottom": lambda i: scores[i],
        "middle": lambda i: abs(rank[i] - (count - 1) / 2),
    }[keep]
    return sorted(range(count), key=cost)[: max(1, round(fraction * count))]


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize(("count", "fraction"), [(1, 1.0), (2, 0.5), (7, 0.4), (40, 0.01), (9, 1)])
def test_equals_sorting_in_python(count, fraction, keep):
    # Few different values: many ties.
    scores = np.stack([RNG.normal(size=count), RNG.integers(-1, 2, count)])
    select = functools.partial(coreset.select, fraction=fraction, keep=keep)
    found = jax.jit(jax.vmap(select))(jnp.asarray(scores))
    assert found.dtype == "int32"
    for row, wanted in zip(found, scores, strict=True):
        np.testing.assert_array_equal(row, expected(wanted, fraction, keep))


@pytest.mark.parametrize("keep", KEEP)
def test_a_growing_fraction_keeps_what_it_had(keep):
    scores = coreset.random(jax.random.key(0), 30)
    kept = [set(coreset.select(scores, f, keep=keep).tolist()) for f in FRACTIONS]
    for fewer, more in zip(kept, kept[1:], strict=False):
        assert fewer <= more
    assert kept[-1] == set(range(30))


def test_by_hand():
    scores = jnp.array([0.0, -jnp.inf, 3.0, -0.0, jnp.inf])
    for keep, order in {
        "top": [4, 2, 0, 3, 1],
        "bottom": [1, 0, 3, 2, 4],
        "middle": [3, 0, 2, 1, 4],
    }.items():
        np.testing.assert_array_equal(coreset.select(scores, 1.0, keep=keep), order)
        np.testing.assert_array_equal(coreset.select(scores, 0.2, keep=keep), order[:1])


@pytest.mark.parametrize("keep", KEEP)
def test_vmap_equals_one_by_one(keep):
    scores = jnp.asarray(RNG.normal(size=(3, 12)), "float32")
    select = functools.partial(coreset.select, fraction=0.3, keep=keep)
    found = jax.vmap(select)(scores)
    np.testing.assert_array_equal(found, jnp.stack([select(row) for row in scores]))


def test_missing_scores_come_last_where_they_cannot_be_seen():
    scores = jnp.array([1.0, jnp.nan, 2.0])
    for keep, last in {"top": [2, 0, 1], "bottom": [0, 2, 1]}.items():
        select = functools.partial(coreset.select, fraction=1.0, keep=keep)
        np.testing.assert_array_equal(jax.jit(select)(scores), last)


def test_random_subsets_are_all_equally_likely():
    draw = lambda key: coreset.select(coreset.random(key, 5), 0.4)
    found = jax.vmap(draw)(jax.random.split(jax.random.key(1), 4000))
    pairs, counts = np.unique(np.sort(found, axis=1), axis=0, return_counts=True)
    assert len(pairs) == 10
    # Chi-square with 9 degrees of freedom: 27.9 is exceeded once in 1000.
    assert ((counts - 400) ** 2 / 400).sum() < 27.9


def test_random_scores_are_all_different():
    scores = coreset.random(jax.random.key(0), 1000)
    np.testing.assert_array_equal(np.sort(scores), np.arange(1000))
    assert scores.dtype == "float32"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: coreset.select(x, 0.0), "fraction=0.0: accepted is above 0, 1 at most"),
        (lambda x: coreset.select(x, 5), "fraction=5: accepted"),
        (lambda x: coreset.select(x, float("nan")), "fraction=nan: accepted"),
        (
            lambda x: coreset.select(x, 0.5, keep="best"),
            "keep='best': accepted is one of 'top', 'bot",
        ),
        (lambda x: coreset.select(x[None], 0.5), r"scores=\w+\[1, 4\]: accepted is \[row\]"),
        (lambda x: coreset.select(x[:0], 0.5), r"scores=\w+\[0\]"),
        (lambda x: coreset.select(x.astype(int), 0.5), "scores=int"),
        (
            lambda x: coreset.select(x.at[2].set(jnp.nan), 0.5),
            r"scores=.* with NaN for chunks \[2\]",
        ),
        (
            lambda x: coreset.random(jax.random.key(0), 0),
            "count=0: accepted is a whole number, 1 or more",
        ),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(jnp.arange(4.0))


def test_missing_scores_that_a_traced_function_captures_are_named(unchecked):
    scores = jnp.array([jnp.nan, 1.0])
    with pytest.raises(ValueError, match=r"scores=.* with NaN for chunks \[0\]"):
        jax.jit(lambda: coreset.select(scores, 0.5))()
