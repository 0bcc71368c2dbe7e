"""The search for a suffix against all suffixes there are, on vocabularies of a few tokens."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxml.unlearning.attacks import gcg
from jaxml.unlearning.attacks._gcg import exchanges, token_gradient

KEYS = jax.random.split(jax.random.key(0), 3)
VOCABULARY, LENGTH, WIDTH = 8, 3, 4
RNG = np.random.default_rng(33)
EMBEDDING = jnp.asarray(RNG.normal(size=(VOCABULARY, WIDTH)))
MATRIX = jnp.asarray(RNG.normal(size=(LENGTH * WIDTH, 5)))
START = jnp.zeros(LENGTH, "int32")
ALL = np.array([*itertools.product(range(VOCABULARY), repeat=LENGTH)])


def surface(matrix, embedded):
    """Not a sum over positions: they meet in a tanh and a square."""
    return jnp.sum((jnp.tanh(embedded.reshape(-1) @ matrix) - 0.5) ** 2)


def values(scale):
    """The objective of all suffixes, `[first, second, third token]`."""
    every = jax.vmap(Partial(surface, scale * MATRIX))(EMBEDDING[ALL])
    return np.asarray(every).reshape((VOCABULARY,) * LENGTH)


OBJECTIVE = Partial(surface, MATRIX)
# Each exchange of one token can be drawn, and nearly always is.
SEARCH = functools.partial(
    gcg, embedding=EMBEDDING, steps=30, candidates=128, top_k=VOCABULARY, batch_size=50
)


def lowest_nearby(values):
    """The least value among the suffixes that differ in one token at most, for each."""
    return functools.reduce(np.minimum, [values.min(i, keepdims=True) for i in range(LENGTH)])


@pytest.mark.parametrize(("scale", "minima", "together"), [(0.2, 1, 0.15), (1.0, 8, 0.2)])
def test_ends_in_minima_and_finds_the_best_of_all_suffixes(scale, minima, together):
    table = values(scale)
    assert (table == lowest_nearby(table)).sum() == minima
    # What is left of the variance without the sum of what each position does alone.
    alone = [table.mean(axis=tuple({0, 1, 2} - {i}), keepdims=True) for i in range(LENGTH)]
    assert (table - sum(alone)).var() > together * table.var()
    starts = jnp.asarray(ALL[::37], "int32")
    keys = jax.random.split(jax.random.key(1), len(starts))
    run = lambda key, suffix: SEARCH(key, Partial(surface, scale * MATRIX), suffix=suffix)
    found = jax.jit(jax.vmap(run))(keys, starts)
    at = lambda suffixes: table[tuple(np.asarray(suffixes).T)]
    np.testing.assert_allclose(found.history[:, 0], at(starts), rtol=1e-12)
    np.testing.assert_allclose(found.history[:, -1], at(found.suffix), rtol=1e-12)
    assert np.all(np.diff(found.history, axis=1) <= 0)
    nearby = lowest_nearby(table)[tuple(np.asarray(found.suffix).T)]
    np.testing.assert_allclose(at(found.suffix), nearby, rtol=1e-12)
    best = at(found.suffix) == table.min()
    assert best.all() if minima == 1 else best.any()


def convex(embedded):
    return jnp.sum((jnp.sum(embedded, axis=0) - jnp.array([7.0])) ** 2)


def test_finds_the_optimum_where_it_is_the_only_minimum():
    """Digits that add up to 7: pairs of them trade, so they are not separable."""
    digits = jnp.arange(VOCABULARY, dtype="float64")[:, None]
    for key in KEYS:
        run = functools.partial(gcg, steps=20, candidates=64, top_k=3)
        found = run(key, convex, digits, jnp.full(LENGTH, 7))
        assert jnp.sum(found.suffix) == 7 and found.history[-1] == 0
        assert found.history[0] == (21 - 7) ** 2
        assert found.suffix.dtype == "int64"


def test_gradient_in_the_one_hot_rows_is_that_of_differences():
    suffix = jnp.array([5, 0, 2])
    found = token_gradient(OBJECTIVE, EMBEDDING, suffix)
    rows = np.eye(VOCABULARY)[np.asarray(suffix)]
    by_rows = lambda rows: float(surface(MATRIX, jnp.asarray(rows) @ EMBEDDING))
    for place in np.ndindex(LENGTH, VOCABULARY):
        step = np.zeros_like(rows)
        step[place] = 1e-5
        slope = (by_rows(rows + step) - by_rows(rows - step)) / 2e-5
        np.testing.assert_allclose(found[place], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("spoil", [None, np.nan, np.inf])
def test_candidates_are_the_steepest_exchanges_of_one_other_token(spoil):
    gradient = RNG.normal(size=(LENGTH, VOCABULARY))
    suffix = np.argmin(gradient, axis=1)
    allowed = np.arange(VOCABULARY) != np.argsort(gradient[1])[1]
    if spoil is not None:
        gradient[2] = spoil
    draw = jax.jit(lambda g, s, a: exchanges(KEYS[0], g, s, a, 400, 3))
    found = np.asarray(draw(*map(jnp.asarray, (gradient, suffix, allowed))))
    rows, places = np.nonzero(found != suffix)
    np.testing.assert_array_equal(rows, np.arange(400))
    tokens = found[rows, places]
    for place in range(LENGTH if spoil is None else 2):
        order = [t for t in np.argsort(gradient[place]) if allowed[t] and t != suffix[place]]
        drawn, count = np.unique(tokens[places == place], return_counts=True)
        # Each of the best 3, about 400 / 9 times.
        assert set(drawn) == set(order[:3])
        assert count.min() > 20
    assert allowed[tokens].all()


def test_a_linear_objective_falls_to_its_minimum_along_the_gradient():
    slopes = jnp.asarray(RNG.normal(size=(LENGTH, VOCABULARY)))
    linear = lambda embedded: jnp.sum(slopes * embedded)
    run = functools.partial(gcg, steps=12, candidates=32, top_k=1)
    found = run(KEYS[0], linear, jnp.eye(VOCABULARY), START)
    np.testing.assert_array_equal(found.suffix, np.argmin(slopes, axis=1))
    np.testing.assert_allclose(found.history[-1], np.min(slopes, axis=1).sum(), rtol=1e-12)


def test_only_allowed_tokens_are_put_in():
    allowed = np.zeros(VOCABULARY, bool)
    allowed[[2, 6]] = True
    start, table = jnp.array([6, 1, 2], "int32"), values(1.0)
    run = jax.jit(lambda allowed: SEARCH(KEYS[0], OBJECTIVE, suffix=start, allowed=allowed))
    found = run(jnp.asarray(allowed))
    possible = [*itertools.product((2, 6), (2, 6, 1), (2, 6))]
    assert tuple(found.suffix.tolist()) in possible
    assert found.history[-1] == pytest.approx(min(table[p] for p in possible), rel=1e-9)
    only = run(jnp.arange(VOCABULARY) == 2)
    assert all(token in (2, old) for token, old in zip(only.suffix, start, strict=True))
    none = run(jnp.zeros(VOCABULARY, bool))
    np.testing.assert_array_equal(none.suffix, start)


def test_an_objective_without_a_value_is_never_chosen():
    holes = lambda embedded: jnp.where(embedded[0, 0] > 0, jnp.nan, OBJECTIVE(embedded))
    for start, first_is_a_number in ((START, False), (START + 1, True)):
        found = SEARCH(KEYS[0], holes, suffix=start)
        assert jnp.isfinite(found.history[0]) == first_is_a_number
        assert EMBEDDING[found.suffix[0], 0] <= 0
        assert jnp.isfinite(found.history[-1])
    never = SEARCH(KEYS[0], lambda embedded: jnp.nan * jnp.sum(embedded), suffix=START)
    np.testing.assert_array_equal(never.suffix, START)
    assert np.all(never.history == np.inf)


def test_one_program_for_all_keys_suffixes_and_arrays_of_the_objective():
    traces = []

    def counted(matrix, embedded):
        traces.append(None)
        return surface(matrix, embedded)

    for i, key in enumerate(KEYS):
        SEARCH(key, Partial(counted, MATRIX + i), suffix=START + i)
        if not i:
            first = len(traces)
    assert len(traces) == first


def test_dtype_of_the_embedding_is_kept():
    dtype = "bfloat16"
    objective = Partial(surface, MATRIX.astype(dtype))
    found = gcg(KEYS[0], objective, EMBEDDING.astype(dtype), START, steps=3, top_k=4)
    assert found.history.dtype == dtype and found.suffix.dtype == "int32"
    assert found.history[-1] < found.history[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(top_k=9), "top_k=9: accepted is 1 to 8, the vocabulary"),
        (dict(top_k=0), "top_k=0: accepted is a whole number, 1 or more"),
        (dict(steps=0), "steps=0"),
        (dict(candidates=0), "candidates=0"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(suffix=START[:0]), r"suffix=int32\[0\]: accepted is \[position\]"),
        (dict(suffix=jnp.zeros((2, 3), int)), r"suffix=int64\[2, 3\]"),
        (dict(suffix=jnp.zeros(3)), r"suffix=float64\[3\]"),
        (dict(suffix=START + 8), r"suffix=.* from 8 to 8: accepted is 0 to 7"),
        (dict(embedding=EMBEDDING[0]), r"embedding=\w+\[4\]"),
        (dict(embedding=EMBEDDING.at[3, 1].set(jnp.nan)), "embedding=.* with NaN or infinity"),
        (dict(allowed=jnp.ones(7, bool)), r"allowed=bool\[7\]: accepted is bool\[8\]"),
        (dict(allowed=jnp.zeros(8, bool)), "allowed=.* with no token"),
        (dict(objective=lambda x: x[0]), r"objective=.* with shape \(4,\): accepted is a scalar"),
    ],
)
def test_bad_input_is_named(change, message, unchecked):
    settings = dict(objective=OBJECTIVE, suffix=START, **SEARCH.keywords)
    with pytest.raises(ValueError, match=message):
        gcg(KEYS[0], **{**settings, **change})
