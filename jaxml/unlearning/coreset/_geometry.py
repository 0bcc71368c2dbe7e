"""Scores of chunks from where they lie among each other, such as by their mean hidden state."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxml import checks
from jaxml.precision import at_least_single
from jaxml.tracing import nan_unless


def moderate(
    key: Key[Array, ""],
    features: Float[Array, "chunk width"],
    *,
    clusters: int = 4,
    iterations: int = 100,
) -> Float[Array, " chunk"]:
    """Return how near each chunk is to the typical distance from the center of its cluster.

    -|d - median of d in the cluster|, d the Euclidean distance from the center. The method keeps
    chunks that are neither central nor far out: `select(..., keep="top")`. Clusters are those of
    k-means, as texts have no classes.

    Args:
      key: of the first centers; consumed.
      features: `[chunk, width]`, such as the mean over tokens of the last hidden states; half
        precision is converted to float32.
      clusters: number of them, at most one a chunk.
      iterations: of k-means, all of which are made.

    Returns:
      `[chunk]`, 0 at most, in float32 or better; all NaN where a feature that cannot be seen, as
      under `jax.jit`, is not finite.

    Raises:
      ValueError: more clusters than chunks, a number that is not positive, or `features` not
        floating-point, finite, of two axes.

    Source: Xia et al., "Moderate coreset: a universal method of data selection for real-world
    data-efficient deep learning" (ICLR 2023), there for classes.
    """
    features = _checked(features)
    checks.counts(clusters=clusters, iterations=iterations)
    if clusters > len(features):
        raise checks.refused("clusters", clusters, f"1 to {len(features)}, the number of chunks")
    scores = _moderate(key, features, clusters=clusters, iterations=iterations)
    return nan_unless(jnp.all(jnp.isfinite(features)), scores)


def k_center(
    features: Float[Array, "chunk width"], *, first: int | Int[Array, ""] = 0
) -> Float[Array, " chunk"]:
    """Return scores by which the top k are the first k centers of a farthest-first traversal.

    Each center is the chunk that is farthest from all before it. The largest distance of a chunk
    from the first k is at most twice the smallest that any k chunks can reach.

    Args:
      features: `[chunk, width]`, as for `moderate`.
      first: index of the first center.

    Returns:
      `[chunk]`: the number of chunks for the first center, 1 for the last; NaN as of `moderate`.

    Raises:
      ValueError: `first` is not a chunk, or `features` not floating-point, finite, of two axes.

    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance" (1985); for
    coresets, Sener & Savarese, "Active learning for convolutional neural networks: a core-set
    approach" (ICLR 2018).
    """
    features = _checked(features)
    checks.within(0, len(features) - 1, first=first)
    scores = _k_center(features, jnp.asarray(first, jnp.int32))
    return nan_unless(jnp.all(jnp.isfinite(features)), scores)


@functools.partial(jax.jit, static_argnames=("clusters", "iterations"))
def _moderate(key: Array, features: Array, *, clusters: int, iterations: int) -> Array:
    centers, labels = k_means(key, features, clusters, iterations)
    distance = jnp.sqrt(_square_distance(features, centers[labels]))
    is_member = labels[None] == jnp.arange(clusters, dtype=labels.dtype)[:, None]
    median = jnp.nanmedian(jnp.where(is_member, distance[None], jnp.nan), axis=1)
    return -jnp.abs(distance - median[labels])


@jax.jit
def _k_center(features: Array, first: Array) -> Array:
    def step(state, _):
        nearest, center = state
        nearest = jnp.minimum(nearest, _square_distance(features, features[center][None]))
        # Chunks at the place of a center are at distance 0, and the center itself behind them.
        nearest = nearest.at[center].set(-jnp.inf)
        return (nearest, jnp.argmax(nearest).astype(jnp.int32)), center

    count = len(features)
    start = jnp.full(count, jnp.inf, features.dtype), first
    _, order = lax.scan(step, start, length=count)
    falling = jnp.arange(count, 0, -1, dtype=features.dtype)
    return jnp.zeros(count, features.dtype).at[order].set(falling)


def k_means(
    key: Array, features: Array, clusters: int, iterations: int
) -> tuple[Float[Array, "cluster width"], Int[Array, " chunk"]]:
    """Return centers `[cluster, width]`, and the nearest one of each chunk, `[chunk]`.

    Lloyd's iterations from the start of k-means++. A cluster that loses all chunks stays where
    it is.

    Args:
      key: consumed.
      features: `[chunk, width]`.
      clusters: number of them.
      iterations: all are made.
    """

    def step(_, centers):
        labels = _nearest(features, centers)
        total = jax.ops.segment_sum(features, labels, clusters)
        members = jax.ops.segment_sum(jnp.ones(len(features), features.dtype), labels, clusters)
        return jnp.where(members[:, None] > 0, total / jnp.maximum(members, 1)[:, None], centers)

    start = _first_centers(key, features, clusters)
    centers = lax.fori_loop(0, iterations, step, start)
    return centers, _nearest(features, centers)


def _first_centers(key: Array, features: Array, clusters: int) -> Array:
    """Chunks drawn by their squared distance from those drawn before (k-means++)."""
    key_first, key_others = jax.random.split(key)
    first = features[jax.random.randint(key_first, (), 0, len(features))]

    def step(nearest, key):
        center = features[jax.random.categorical(key, jnp.log(nearest))]
        return jnp.minimum(nearest, _square_distance(features, center[None])), center

    keys = jax.random.split(key_others, clusters - 1)
    _, others = lax.scan(step, _square_distance(features, first[None]), keys)
    return jnp.concatenate([first[None], others])


def _nearest(features: Array, centers: Array) -> Array:
    square = _square_distance(features[:, None], centers[None])
    return jnp.argmin(square, axis=1).astype(jnp.int32)


def _square_distance(points: Array, others: Array) -> Array:
    return jnp.sum(jnp.square(points - others), axis=-1)


def _checked(features: Array) -> Array:
    checks.floating(features=features)
    checks.axes("chunk width", features=features)
    checks.finite(features=features)
    return features.astype(at_least_single(features.dtype))
