"""The covariance within classes, shrunk so that it can be inverted.

Each class is shrunk by itself, on its own standardised features, and the classes are averaged
with their shares: what scikit-learn's LinearDiscriminantAnalysis does with shrinkage "auto".
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def pooled_covariance(
    rows: Float[Array, "row feature"],
    labels: Int[Array, " row"],
    classes: int,
    *,
    shrinkage: float | None = None,
) -> Float[Array, "feature feature"]:
    """Return sum_k share_k [(1 - s_k) cov_k + s_k target_k] over the classes k.

    Args:
      rows: `[row, feature]`, of about unit spread.
      labels: `[row]`, class of each row, 0..classes-1.
      classes: how many classes there are; one without rows counts nothing.
      shrinkage: s of every class, with the mean variance times the identity as the target; if
        None by Ledoit and Wolf on the features divided by their deviations in the class, so
        that the target is the diagonal of cov_k, with variance 1 where a feature is constant.

    Returns:
      `[feature, feature]`, symmetric; positive definite where a class is shrunk, which Ledoit and
      Wolf's rule does not do to classes of one or two rows.

    Source: Ledoit and Wolf 2004 (J. Multivariate Anal. 88:365).
    """
    member = membership(labels, classes, rows.dtype)
    count = jnp.maximum(jnp.sum(member, axis=0), 1)
    means = class_means(rows, member)
    residual = rows - means[labels]
    variance = dot(member.T, residual**2) / count[:, None]
    if shrinkage is None:
        rounding = count[:, None] * jnp.finfo(rows.dtype).eps * means
        constant = variance <= rounding**2
        scale = jnp.sqrt(jnp.where(constant, 1, variance))
        standard = jnp.where(constant[labels], 0, residual / scale[labels])
        mu = 1 - jnp.mean(constant.astype(rows.dtype), axis=1)
        share = _ledoit_wolf(standard, labels, member, mu)
    else:
        scale = jnp.ones_like(variance)
        mu = jnp.mean(variance, axis=1)
        share = jnp.full(count.shape, shrinkage, rows.dtype)
    diagonal = dot(jnp.sum(member, axis=0) * share * mu / rows.shape[0], scale**2)
    kept = ((1 - share[labels]) / rows.shape[0])[:, None]
    return dot(residual.T, kept * residual) + jnp.diag(diagonal)


def membership(labels: Int[Array, " row"], classes: int, dtype) -> Float[Array, "row classes"]:
    """Return 1 where a row is of a class, else 0, in `dtype`.

    Args:
      labels: `[row]`, class of each row.
      classes: how many classes there are.
      dtype: floating type of the result.
    """
    return (labels[:, None] == jnp.arange(classes, dtype=labels.dtype)[None]).astype(dtype)


def class_means(
    rows: Float[Array, "row feature"], member: Float[Array, "row classes"]
) -> Float[Array, "classes feature"]:
    """Return the mean row of each class, 0 for a class without rows.

    Args:
      rows: `[row, feature]`.
      member: `[row, classes]`, from `membership`.
    """
    return dot(member.T, rows) / jnp.maximum(jnp.sum(member, axis=0), 1)[:, None]


def dot(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the matrix product at full precision on every device."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _ledoit_wolf(standard, labels, member, mu) -> Float[Array, " classes"]:
    """Return the optimal weight of mu I against each class covariance of `standard`."""
    width = standard.shape[1]
    count = jnp.maximum(jnp.sum(member, axis=0), 1)
    # |X'X|^2 = |XX'|^2: one Gram matrix serves all classes, and rows are fewer than features.
    gram = dot(standard, standard.T)
    same = labels[:, None] == labels[None]
    squared = dot(jnp.sum(jnp.where(same, gram**2, 0), axis=1), member) / count**2
    fourth = dot(jnp.diag(gram) ** 2, member) / count
    noise = (fourth - squared) / (width * count)
    distance = squared / width - mu**2
    apart = distance > 0
    ratio = jnp.where(apart, noise / jnp.where(apart, distance, 1), 0)
    return jnp.clip(ratio, 0, 1)
