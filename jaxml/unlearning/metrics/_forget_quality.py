"""Forget quality: whether two models' truth ratios come from one distribution."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.precision import half_as_single


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ForgetQuality:
    """Result of `forget_quality`.

    Attributes:
      p_value: of the two-sample Kolmogorov-Smirnov test: above 0.05 the models are not told
        apart.
      statistic: largest distance of the two distribution functions, 0 to 1.
    """

    p_value: Float[Array, "*batch"]
    statistic: Float[Array, "*batch"]


@half_as_single
def forget_quality(
    ratio: Float[Array, " row"], retrained_ratio: Float[Array, " retrained"]
) -> ForgetQuality:
    """Return the two-sided Kolmogorov-Smirnov test of two sets of truth ratios.

    The p-value is exact, that of scipy's `ks_2samp` with `method="exact"`, to all its digits
    where it is small too. It takes row x retrained operations and row of memory.

    Args:
      ratio: `[row]`, of the unlearned model on the forget set, as of `truth_ratio`; TOFU takes
        the geometric mean. The result does not change under a monotone map of all ratios.
      retrained_ratio: `[retrained]`, of the model trained without the forget set.

    Returns:
      `ForgetQuality` of the dtype of `ratio`; NaN if a ratio is NaN.

    Raises:
      ValueError: not one axis, no ratio, a wrong dtype, or more than 2^31 pairs.

    Source: Maini et al., "TOFU: a task of fictitious unlearning for LLMs" (COLM 2024).
    """
    checks.rows(ratio=ratio)
    checks.rows(retrained_ratio=retrained_ratio)
    m, n = ratio.size, retrained_ratio.size
    if m * n >= 2**31:
        raise checks.refused("ratio", ratio, f"below 2^31 pairs with {n} of retrained_ratio")
    pooled = jnp.concatenate([ratio, retrained_ratio.astype(ratio.dtype)])
    below = lambda x: jnp.searchsorted(jnp.sort(x), pooled, side="right").astype(jnp.int32)
    # In units of 1 / (m n), so that the distance is an integer.
    ahead = below(ratio) * n - below(retrained_ratio) * m
    # Not the largest abs: on a GPU, XLA was seen to leave the abs of these integers out.
    distance = jnp.maximum(jnp.max(ahead), -jnp.min(ahead))
    p_value = _exceeds(distance, m, n, ratio.dtype)
    statistic = distance.astype(ratio.dtype) / (m * n)
    missing = jnp.any(jnp.isnan(pooled))
    return ForgetQuality(*(jnp.where(missing, jnp.nan, x) for x in (p_value, statistic)))


def _exceeds(distance: Array, m: int, n: int, dtype) -> Array:
    """Chance that a random order of m and n things gets as far from the diagonal as `distance`.

    P(i, j), that an order of the first i and j things does, is 1 where |i n - j m| is as large,
    and i / (i + j) P(i - 1, j) + j / (i + j) P(i, j - 1) elsewhere: there is nothing negative in
    it to cancel. One diagonal i + j = s after another.
    """
    i = jnp.arange(m + 1, dtype=jnp.int32)

    def diagonal(before, s):
        j = s - i
        one_less = jnp.concatenate([jnp.zeros(1, dtype), before[:-1]])
        share = i.astype(dtype) / s.astype(dtype)
        chance = share * one_less + (1 - share) * before
        # Places outside of the table only pass to others outside, or with a share of 0.
        inside = (j >= 0) & (j <= n)
        reached = jnp.abs(i * n - jnp.clip(j, 0, n) * m) >= distance
        return jnp.where(inside, jnp.where(reached, 1, chance), 0), None

    start = jnp.where((i == 0) & (distance <= 0), jnp.ones((), dtype), 0)
    steps = jnp.arange(1, m + n + 1, dtype=jnp.int32)
    return jax.lax.scan(diagonal, start, steps)[0][m]
