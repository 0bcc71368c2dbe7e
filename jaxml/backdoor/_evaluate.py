"""How well scores and flags tell poisoned rows from clean ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxml.tracing import known


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["true_positive", "false_positive"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class DetectionRates:
    """Result of `detection_rates`.

    Attributes:
      true_positive: fraction of the poisoned rows that are flagged, NaN where there are none.
      false_positive: fraction of the clean rows that are flagged, NaN where there are none.
    """

    true_positive: Float[Array, "*batch"]
    false_positive: Float[Array, "*batch"]


def auroc(score: Float[Array, " row"], is_poisoned: Bool[Array, " row"]) -> Float[Array, ""]:
    """Return the chance that a poisoned row scores above a clean one, ties counted by half.

    It is the area under the ROC curve, and the Mann-Whitney statistic.

    Args:
      score: `[row]`, high for poisoned rows.
      is_poisoned: the truth `[row]`.

    Raises:
      ValueError: the lengths differ, scores hold NaN, or all rows are poisoned or all clean.
        Under `jit` the area is NaN instead.
    """
    _check_rows(score, is_poisoned, "score")
    if not known(score, lambda score: ~jnp.any(jnp.isnan(score))):
        raise ValueError("score: holds NaN; accepted are numbers")
    if not known(is_poisoned, lambda kind: jnp.any(kind) & ~jnp.all(kind)):
        raise ValueError("is_poisoned: all rows are alike; accepted are rows of both kinds")
    rank = mid_ranks(score)
    poisoned, clean = (jnp.sum(x, dtype=rank.dtype) for x in (is_poisoned, ~is_poisoned))
    mean_rank = jnp.sum(jnp.where(is_poisoned, rank, 0)) / poisoned
    area = ((mean_rank - (poisoned + 1) / 2) / clean).astype(score.dtype)
    return jnp.where(jnp.any(jnp.isnan(score)), jnp.nan, area)


def detection_rates(
    is_backdoor: Bool[Array, " row"], is_poisoned: Bool[Array, " row"]
) -> DetectionRates:
    """Return the fractions of poisoned and of clean rows that are flagged.

    Args:
      is_backdoor: flags `[row]`, such as those of `identify`.
      is_poisoned: the truth `[row]`; it may hold one kind of rows only.

    Raises:
      ValueError: the lengths differ.
    """
    _check_rows(is_backdoor, is_poisoned, "is_backdoor")
    share = lambda kind: jnp.sum(is_backdoor & kind) / jnp.sum(kind)
    return DetectionRates(share(is_poisoned), share(~is_poisoned))


def mid_ranks(score: Float[Array, " row"]) -> Float[Array, " row"]:
    """Return the rank of each row from 1, tied rows sharing their mean, in float32 or better."""
    ordered = jnp.sort(score)
    below, up_to = (jnp.searchsorted(ordered, score, side=side) for side in ("left", "right"))
    # Ranks of thousands of rows have no place in half precision.
    dtype = score.dtype if jnp.finfo(score.dtype).bits > 16 else jnp.float32
    return (below + up_to + 1).astype(dtype) / 2


def _check_rows(values: Array, is_poisoned: Array, name: str) -> None:
    if values.ndim != 1 or values.shape != is_poisoned.shape or not values.size:
        raise ValueError(
            f"{name}: shape {values.shape}, is_poisoned: {is_poisoned.shape}; "
            "accepted is one length above 0"
        )
