"""Activation clustering: the smaller of the two clusters of each class."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.backdoor.baselines._classes import (
    centered,
    check_features_of_classes,
    for_each_class,
    principal_axes,
)


def activation_clustering(
    features: Float[Array, "row feature"],
    labels: Int[Array, " row"],
    *,
    classes: int = 10,
    components: int = 10,
    iterations: int = 30,
) -> Float[Array, " row"]:
    """Score rows by how much nearer they are to the smaller cluster of a class that has two.

    The features of each class are projected on their principal components and split by
    2-means, begun from the two sides of the first component. The paper flags the smaller
    cluster of a class with a high silhouette; the score is
    (d_larger - d_smaller) / (d_larger + d_smaller), d the distances to the two centers, times
    the class's mean silhouette (by distances to centers).

    Args:
      features: of a late layer, `[row, feature]`.
      labels: given labels `[row]`, 0..classes-1.
      classes: how many.
      components: principal components kept, at most the features.
      iterations: of 2-means.

    Returns:
      Scores `[row]`, -1 to 1, higher is more suspicious; positive in the smaller cluster.

    Raises:
      ValueError: the features are not finite floating-point numbers `[row, feature]`, the
        labels are not integers 0..classes-1, one a row, or a setting is out of range. Values
        are looked at where concrete.

    Source: Chen et al. 2018 (arXiv 1811.03728), with the score ours.
    """
    check_features_of_classes(features, labels, classes)
    checks.counts(components=components, iterations=iterations)
    checks.within(1, features.shape[1], components=components)
    return _cluster(features, labels, classes=classes, components=components, iterations=iterations)


@functools.partial(jax.jit, static_argnames=("classes", "components", "iterations"))
def _cluster(features, labels, *, classes, components, iterations):
    def score(member):
        rows = centered(features, member)
        rows = rows @ principal_axes(rows)[:, :components]
        distance, count = _two_means(rows, member, iterations)
        near, far = jnp.min(distance, axis=1), jnp.max(distance, axis=1)
        silhouette = jnp.sum(jnp.where(member, 1 - _ratio(near, far), 0))
        silhouette = silhouette / jnp.maximum(jnp.sum(member), 1).astype(rows.dtype)
        smaller = jnp.argmin(count)
        to_smaller, to_larger = distance[:, smaller], distance[:, 1 - smaller]
        return silhouette * _ratio(to_larger - to_smaller, to_larger + to_smaller)

    return for_each_class(score, labels, classes)


def _two_means(rows, member, iterations):
    """Return distances to the two centers `[row, 2]` and the number of members of each."""

    def centers(second):
        part = jnp.stack([member & ~second, member & second]).astype(rows.dtype)
        count = jnp.sum(part, axis=1)
        return part @ rows / jnp.maximum(count, 1)[:, None], count

    distances = lambda center: jnp.linalg.norm(rows[:, None] - center[None], axis=2)

    def step(_, second):
        distance = distances(centers(second)[0])
        return distance[:, 1] < distance[:, 0]

    center, count = centers(lax.fori_loop(0, iterations, step, rows[:, 0] > 0))
    return distances(center), count


def _ratio(a, b):
    # NaN is not 0 or less, and stays.
    return jnp.where(b <= 0, 0, a / jnp.where(b <= 0, 1, b))
