"""How well scores and flags tell poisoned rows from clean ones."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxml import checks, ranks
from jaxml.tracing import known


@jax.tree_util.register_dataclass
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

    Returns:
      0 to 1 in the dtype of `score`.

    Raises:
      ValueError: the lengths differ, a wrong dtype, scores hold NaN, or all rows are poisoned or
        all clean. Under `jit` the area is NaN instead.
    """
    checks.floating(score=score)
    checks.boolean(is_poisoned=is_poisoned)
    _check_rows(score=score, is_poisoned=is_poisoned)
    if not known(score, lambda score: ~jnp.any(jnp.isnan(score))):
        raise checks.refused("score", score, "numbers", holds="NaN")
    if not known(is_poisoned, lambda kind: jnp.any(kind) & ~jnp.all(kind)):
        holds = "rows of one kind alone"
        raise checks.refused("is_poisoned", is_poisoned, "rows of both kinds", holds=holds)
    return ranks.auroc(score, is_poisoned)


def detection_rates(
    is_backdoor: Bool[Array, " row"], is_poisoned: Bool[Array, " row"]
) -> DetectionRates:
    """Return the fractions of poisoned and of clean rows that are flagged.

    Args:
      is_backdoor: flags `[row]`, such as those of `identify`.
      is_poisoned: the truth `[row]`; it may hold one kind of rows only.

    Returns:
      Two fractions, 0 to 1.

    Raises:
      ValueError: the lengths differ, or the arrays are not boolean.
    """
    checks.boolean(is_backdoor=is_backdoor, is_poisoned=is_poisoned)
    _check_rows(is_backdoor=is_backdoor, is_poisoned=is_poisoned)
    share = lambda kind: jnp.sum(is_backdoor & kind) / jnp.sum(kind)
    return DetectionRates(share(is_poisoned), share(~is_poisoned))


def _check_rows(**arrays: Array) -> None:
    checks.axes("row", **arrays)
    checks.same_shape(**arrays)
