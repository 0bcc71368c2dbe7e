"""Scores by class: a function of the rows of each class, and their principal axes."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxml import checks


def for_each_class(f: Callable[[Array], Array], labels: Array, classes: int) -> Array:
    """Return `f(member)[i]` for each row i, `member` being the rows of its class.

    Args:
      f: of `member` `[row]`, boolean, to `[row]`.
      labels: `[row]`, 0..classes-1.
      classes: how many.
    """
    of_class = lax.map(lambda c: f(labels == c), jnp.arange(classes, dtype=labels.dtype))
    return of_class[labels, jnp.arange(labels.shape[0])]


def centered(features: Array, member: Array) -> Array:
    """Return the features about the mean of the members; 0 in the other rows."""
    weight = member.astype(features.dtype)
    mean = weight @ features / jnp.maximum(jnp.sum(weight), 1)
    return jnp.where(member[:, None], features - mean[None], 0)


def principal_axes(rows: Array) -> Array:
    """Return the eigenvectors of X'X, largest eigenvalue first, `[feature, axis]`."""
    scatter = jnp.matmul(rows.T, rows, precision="highest")
    return jnp.linalg.eigh(scatter)[1][:, ::-1]


def check_features_of_classes(features: Array, labels: Array, classes: int) -> None:
    """Accept finite features `[row, feature]`, and a label of `classes` for each row."""
    checks.axes("row feature", features=features)
    checks.single_or_double(features=features)
    checks.finite(features=features)
    checks.counts(classes=classes)
    checks.labels(labels=labels, rows=features.shape[0], classes=classes)
