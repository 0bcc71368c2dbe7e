"""Means over what a mask counts."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxml.unlearning._validate import check_mask


def counted_mean(values: Array, mask: Array | None, *, name: str) -> Array:
    """Return the mean of the values that count, all by default; 0 where none does.

    Args:
      values: `[...]`.
      mask: `[...]`, True where a value counts.
      name: of the values in the message.

    Raises:
      ValueError: `mask` is not boolean or of another shape.
    """
    if mask is None:
        return jnp.mean(values)
    check_mask(mask, **{name: values})
    count = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0)) / count


def row_means(values: Array, mask: Array) -> Array:
    """Return the mean of the values of each row that count, `[*batch]`; NaN where none does.

    Args:
      values: `[*batch, token]`.
      mask: `[*batch, token]`, True where a value counts.
    """
    count = jnp.sum(mask, axis=-1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0), axis=-1) / count
