"""The choice of chunks by a score, and a score by chance."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxml import checks
from jaxml.tracing import known

Keep = Literal["top", "bottom", "middle"]


def select(
    scores: Float[Array, " chunk"], fraction: float, *, keep: Keep = "top"
) -> Int[Array, " kept"]:
    """Return the chunks that a score picks.

    They are the first of one order, so that a smaller fraction of the same scores picks a part
    of them. The coreset is `forget[indices]`.

    Args:
      scores: `[chunk]`, of any of these methods. Where a NaN cannot be seen, as under `jax.jit`,
        it comes behind all numbers.
      fraction: of the chunks, above 0, 1 at most; a Python number, as it sets the shape.
      keep: "top": the highest scores; "bottom": the lowest; "middle": those whose rank is the
        nearest to the median rank. Ties by index.

    Returns:
      int32 `[kept]`, where kept is max(1, round(fraction chunk)), in the order in which they
      are picked.

    Raises:
      ValueError: `fraction` is out of range, `keep` unknown, or `scores` empty, not
        floating-point, not of one axis, or NaN.
    """
    check_selection(fraction, keep)
    checks.rows(scores=scores)
    if not known(scores, lambda scores: ~jnp.any(jnp.isnan(scores))):
        missing = np.flatnonzero(np.isnan(np.asarray(scores, np.float64))).tolist()
        raise checks.refused("scores", scores, "numbers", holds=f"NaN for chunks {missing[:10]}")
    count = len(scores)
    return _order(scores, keep)[: max(1, round(fraction * count))]


def random(key: Key[Array, ""], count: int) -> Float[Array, " chunk"]:
    """Return scores by chance: all different, so that every subset is equally likely.

    Fractions of the scores of one key are nested.

    Args:
      key: consumed.
      count: number of chunks, 1 or more.

    Returns:
      float32 `[chunk]`: the numbers 0 to count - 1, shuffled.

    Raises:
      ValueError: `count` is not positive.
    """
    checks.counts(count=count)
    return jax.random.permutation(key, jnp.arange(count, dtype=jnp.float32))


def check_selection(fraction: float, keep: str) -> None:
    """Raise ValueError if `select` does not take these, before there are scores."""
    checks.choice(get_args(Keep), keep=keep)
    checks.fraction(fraction=fraction)


def _order(scores: Array, keep: Keep) -> Array:
    ordered = _argsort(-scores if keep == "top" else scores)
    if keep != "middle":
        return ordered
    rank = _argsort(ordered)
    return _argsort(jnp.abs(2 * rank - (len(scores) - 1)))


def _argsort(values: Array) -> Array:
    return jnp.argsort(values, stable=True).astype(jnp.int32)
