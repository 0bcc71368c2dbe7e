"""Clusters and centers against plain numpy, scikit-learn and exhaustive search."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning import coreset
from jaxml.unlearning.coreset._geometry import k_means

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
FEATURES = RNG.normal(size=(30, 4))
# Four clouds far apart: k-means++ finds one center in each.
CLOUDS = np.repeat(20 * np.eye(4), [9, 8, 7, 6], axis=0) + RNG.normal(size=(30, 4))
LABELS = np.repeat(np.arange(4), [9, 8, 7, 6])


def inertia(features, centers):
    return (np.linalg.norm(features[:, None] - centers, axis=-1).min(1) ** 2).sum()


def lloyd(features, centers):
    """One iteration, cluster by cluster."""
    labels = np.linalg.norm(features[:, None] - centers, axis=-1).argmin(1)
    return np.stack([features[labels == c].mean(0) for c in range(len(centers))])


def test_moderate_equals_numpy_on_clouds():
    centers = np.stack([CLOUDS[LABELS == c].mean(0) for c in range(4)])
    d = np.linalg.norm(CLOUDS - centers[LABELS], axis=1)
    medians = np.array([np.median(d[LABELS == c]) for c in range(4)])
    expected = -np.abs(d - medians[LABELS])
    for dtype, rtol in (("float64", 1e-9), ("float32", 1e-4)):
        found = jax.jit(coreset.moderate)(KEY, jnp.asarray(CLOUDS, dtype))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


def test_moderate_of_one_cluster():
    d = np.linalg.norm(FEATURES - FEATURES.mean(0), axis=1)
    found = coreset.moderate(KEY, jnp.asarray(FEATURES), clusters=1, iterations=1)
    np.testing.assert_allclose(found, -np.abs(d - np.median(d)), rtol=1e-11, atol=1e-14)


def test_a_cluster_for_each_chunk_and_chunks_at_one_place():
    distinct = coreset.moderate(KEY, jnp.asarray(FEATURES[:5]), clusters=5)
    np.testing.assert_array_equal(distinct, 0)
    same = coreset.moderate(KEY, jnp.ones((6, 3)), clusters=4)
    np.testing.assert_array_equal(same, 0)


@pytest.mark.parametrize("clusters", [2, 5])
def test_k_means_goes_as_far_as_lloyd_and_no_iteration_moves_it(clusters):
    features = jnp.asarray(FEATURES)
    run = jax.jit(k_means, static_argnums=(2, 3))
    centers, labels = run(KEY, features, clusters, 100)
    np.testing.assert_allclose(lloyd(FEATURES, np.asarray(centers)), centers, rtol=1e-12)
    start = np.asarray(run(KEY, features, clusters, 0)[0])
    # The start is made of chunks.
    assert {tuple(row) for row in start} <= {tuple(row) for row in FEATURES}
    for _ in range(100):
        start = lloyd(FEATURES, start)
    np.testing.assert_allclose(centers, start, rtol=1e-10)
    every = np.linalg.norm(FEATURES[:, None] - np.asarray(centers), axis=-1)
    np.testing.assert_array_equal(labels, every.argmin(1))


def test_k_means_is_as_good_as_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    reference = cluster.KMeans(5, n_init=20, random_state=0).fit(FEATURES).inertia_
    run = jax.jit(jax.vmap(lambda key: k_means(key, jnp.asarray(FEATURES), 5, 30)[0]))
    found = [inertia(FEATURES, np.asarray(c)) for c in run(jax.random.split(KEY, 60))]
    assert min(found) < 1.001 * reference
    # A single start is not far behind.
    assert np.median(found) < 1.15 * reference


def test_first_centers_are_drawn_by_squared_distance():
    features = jnp.array([[0.0], [1.0], [3.0]])
    start = jax.jit(jax.vmap(lambda key: k_means(key, features, 2, 0)[0]))
    pairs = np.asarray(start(jax.random.split(KEY, 20000)))[..., 0]
    chances = {(0, 1): 1 / 10, (0, 3): 9 / 10, (1, 0): 1 / 5, (1, 3): 4 / 5, (3, 0): 9 / 13}
    for (first, second), chance in chances.items():
        share = np.mean((pairs[:, 0] == first) & (pairs[:, 1] == second))
        np.testing.assert_allclose(share, chance / 3, atol=0.015)


def farthest_first(features, first):
    order = [first]
    while len(order) < len(features):
        gaps = [min(np.linalg.norm(x - features[c]) for c in order) for x in features]
        order.append(max(set(range(len(features))) - set(order), key=lambda i: (gaps[i], -i)))
    return order


@pytest.mark.parametrize("first", [0, 17])
def test_k_center_equals_numpy_and_is_nested(first):
    scores = coreset.k_center(jnp.asarray(FEATURES), first=first)
    order = farthest_first(FEATURES, first)
    assert sorted(scores.tolist()) == list(range(1, 31))
    for fraction in (0.03, 0.1, 0.5, 1.0):
        kept = coreset.select(scores, fraction)
        np.testing.assert_array_equal(kept, order[: len(kept)])


def radius(features, centers):
    return np.linalg.norm(features[:, None] - features[list(centers)], axis=-1).min(1).max()


@pytest.mark.parametrize("seed", range(5))
def test_k_center_is_within_twice_the_best_radius(seed):
    features = np.random.default_rng(seed).normal(size=(8, 2))
    scores = coreset.k_center(jnp.asarray(features), first=seed)
    for k in (1, 2, 3, 4):
        best = min(radius(features, c) for c in itertools.combinations(range(8), k))
        found = radius(features, np.asarray(coreset.select(scores, k / 8)))
        assert best <= found <= 2 * best + 1e-12


def test_k_center_takes_chunks_at_one_place_once_each():
    features = jnp.array([[0.0], [0.0], [2.0], [0.0]])
    np.testing.assert_array_equal(coreset.k_center(features, first=1), [2, 4, 3, 1])


def test_vmap_and_a_traced_first_center():
    sets = jnp.asarray(RNG.normal(size=(3, 9, 2)))
    firsts = jnp.arange(3, dtype="int32")
    found = jax.jit(jax.vmap(lambda x, i: coreset.k_center(x, first=i)))(sets, firsts)
    for i in range(3):
        np.testing.assert_array_equal(found[i], coreset.k_center(sets[i], first=i))
    first = firsts[1]
    captured = jax.jit(lambda x: coreset.k_center(x, first=first))
    np.testing.assert_array_equal(captured(sets[1]), found[1])
    keys = jax.random.split(KEY, 3)
    moderate = functools.partial(coreset.moderate, clusters=2, iterations=5)
    found = jax.vmap(moderate)(keys, sets)
    for i in range(3):
        np.testing.assert_allclose(found[i], moderate(keys[i], sets[i]), rtol=1e-10, atol=1e-14)


def test_half_precision_is_computed_in_single():
    half = jnp.asarray(FEATURES, "bfloat16")
    for function in (coreset.k_center, functools.partial(coreset.moderate, KEY, iterations=9)):
        assert function(half).dtype == "float32"
        np.testing.assert_array_equal(function(half), function(half.astype("float32")))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: coreset.moderate(KEY, x, clusters=31), "clusters=31: accepted is 1 to 30, the"),
        (
            lambda x: coreset.moderate(KEY, x, clusters=0),
            "clusters=0: accepted is a whole number, 1 or more",
        ),
        (
            lambda x: coreset.moderate(KEY, x, iterations=0),
            "iterations=0: accepted is a whole number, 1 or more",
        ),
        (lambda x: coreset.moderate(KEY, x[0]), r"features=\w+\[4\].*accepted is \[chunk, w"),
        (
            lambda x: coreset.moderate(KEY, x.at[3, 1].set(jnp.nan)),
            "features=.* with NaN or infinity",
        ),
        (lambda x: coreset.k_center(x.astype(int)), "features=int"),
        (lambda x: coreset.k_center(x.at[3, 1].set(jnp.inf)), "features=.* with NaN or infinity"),
        (lambda x: coreset.k_center(x, first=30), "first=30: accepted is 0 to 29"),
        (lambda x: coreset.k_center(x, first=-1), "first=-1: accepted is 0 to 29"),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(jnp.asarray(FEATURES))
