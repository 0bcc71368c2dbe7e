"""Spectral signatures: rows far out along the main direction of their class."""

import functools

import jax
from jaxtyping import Array, Float, Int

from jaxml.backdoor.baselines._classes import (
    centered,
    check_features_of_classes,
    for_each_class,
    principal_axes,
)


def spectral_signature(
    features: Float[Array, "row feature"], labels: Int[Array, " row"], *, classes: int = 10
) -> Float[Array, " row"]:
    """Score rows by their squared projection on the top singular vector of their class.

    ((phi_i - mean) v)^2, v the top right singular vector of the class's centred features.

    Args:
      features: of a late layer, `[row, feature]`.
      labels: given labels `[row]`, 0..classes-1.
      classes: how many.

    Returns:
      Scores `[row]`, 0 or more, higher is more suspicious.

    Raises:
      ValueError: the features are not finite floating-point numbers `[row, feature]`, or the
        labels are not integers 0..classes-1, one a row. Values are looked at where concrete.

    Source: Tran, Li and Madry 2018 (NeurIPS).
    """
    check_features_of_classes(features, labels, classes)
    return _squared_projections(features, labels, classes=classes)


@functools.partial(jax.jit, static_argnames="classes")
def _squared_projections(features, labels, *, classes):
    def score(member):
        rows = centered(features, member)
        return (rows @ principal_axes(rows)[:, 0]) ** 2

    return for_each_class(score, labels, classes)
