"""Sums and means over what a mask counts."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxml import checks


def counted_mean(values: Array, mask: Array | None, *, name: str, axis: int | None = None) -> Array:
    """Return the mean of the values that count, all by default; 0 where none does.

    Args:
      values: `[...]`.
      mask: `[...]`, True where a value counts.
      name: of the values in the message.
      axis: along which the mean is; all by default.

    Raises:
      ValueError: `mask` is not boolean or of another shape.
    """
    if mask is None:
        return jnp.mean(values, axis=axis)
    checks.mask(mask, **{name: values})
    count = jnp.maximum(jnp.sum(mask, axis=axis), 1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0), axis=axis) / count


def row_sums(values: Array, mask: Array) -> Array:
    """Return the sum of the values of each row that count, `[*batch]`.

    Args:
      values: `[*batch, token]`.
      mask: `[*batch, token]`, True where a value counts.
    """
    return jnp.sum(jnp.where(mask, values, 0), axis=-1)


def row_means(values: Array, mask: Array) -> Array:
    """Return the mean of the values of each row that count, `[*batch]`; NaN where none does.

    Args:
      values: `[*batch, token]`.
      mask: `[*batch, token]`, True where a value counts.
    """
    return row_sums(values, mask) / jnp.sum(mask, axis=-1).astype(values.dtype)


def check_values(**arrays: Array) -> None:
    """Raise ValueError unless all are floating-point arrays that are not empty."""
    checks.floating(**arrays)
    for name, array in arrays.items():
        if not array.size:
            raise checks.refused(name, array, "1 number or more")
