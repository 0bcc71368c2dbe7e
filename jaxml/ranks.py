"""Ranks of scores, and the area under the ROC curve that they give."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real


def auroc(score: Real[Array, " row"], is_positive: Bool[Array, " row"]) -> Float[Array, ""]:
    """Return the chance that a positive row scores above a negative one, ties counted by half.

    It is the area under the ROC curve, and the Mann-Whitney statistic.

    Args:
      score: `[row]`, high for positive rows.
      is_positive: the truth `[row]`.

    Returns:
      0 to 1 in the dtype of `score`, float32 for integers; NaN where a score is NaN, or where all
      rows are of one kind.
    """
    rank = mid_ranks(score)
    positive, negative = (jnp.sum(x, dtype=rank.dtype) for x in (is_positive, ~is_positive))
    mean_rank = jnp.sum(jnp.where(is_positive, rank, 0)) / positive
    area = (mean_rank - (positive + 1) / 2) / negative
    if jnp.issubdtype(score.dtype, jnp.floating):
        area = area.astype(score.dtype)
    return jnp.where(jnp.any(jnp.isnan(score)), jnp.nan, area)


def mid_ranks(score: Real[Array, " row"]) -> Float[Array, " row"]:
    """Return the rank of each row from 1, tied rows sharing their mean, in float32 or better.

    Args:
      score: `[row]`.
    """
    ordered = jnp.sort(score)
    below, up_to = (jnp.searchsorted(ordered, score, side=side) for side in ("left", "right"))
    # Ranks of thousands of rows have no place in half precision, and tied ones are no integers.
    dtype = jnp.float64 if score.dtype == jnp.float64 else jnp.float32
    return (below + up_to + 1).astype(dtype) / 2
