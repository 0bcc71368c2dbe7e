"""Spectral signatures: rows far out along the main direction of their class."""

import functools

import jax
from jaxtyping import Array, Float, Int

from jaxml.backdoor.baselines._rows import (
    centred,
    check_at_least_one,
    check_features,
    check_labels,
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
    check_features(features, "features")
    check_at_least_one(classes=classes)
    check_labels(labels, features.shape[0], classes)
    return _squared_projections(features, labels, classes)


@functools.partial(jax.jit, static_argnums=2)
def _squared_projections(features, labels, classes):
    def score(member):
        rows = centred(features, member)
        return (rows @ principal_axes(rows)[:, 0]) ** 2

    return for_each_class(score, labels, classes)
