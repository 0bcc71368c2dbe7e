"""Early rejection of bad input, with the name of the argument and what is accepted."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxml.tracing import is_concrete

FLAT_POLICIES = ("drop", "floor", "keep")


def check_series(x: Any, *, name: str = "x", minimum: int = 1) -> Float[Array, " time"]:
    """Return `x` as a float series `[time]`, integers as the default float type.

    Raises:
      ValueError: not one axis, fewer than `minimum` samples, half precision, or NaN or
        infinity in concrete values (traced values cannot be looked at).
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = x.astype(jax.dtypes.canonicalize_dtype(float))
    if x.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"{name}: dtype {x.dtype}; give float32, float64 or integers")
    if x.ndim != 1:
        raise ValueError(f"{name}: shape {x.shape}; give one series [time] (jax.vmap for more)")
    if x.shape[0] < minimum:
        raise ValueError(f"{name}: {x.shape[0]} samples; give at least {minimum}")
    if is_concrete(x):
        # numpy: a concrete series inside somebody's trace must be looked at outside of it.
        finite = np.isfinite(np.asarray(x))
        if not finite.all():
            raise ValueError(
                f"{name}: NaN or infinity at sample {finite.argmin()}; give finite values"
            )
    return x


def check_length(length: Any, samples: int) -> Int[Array | np.ndarray, ""]:
    """Return the valid length as an int32 scalar; all `samples` for None.

    Raises:
      ValueError: concrete and outside 0..`samples`, or not a scalar integer.
    """
    # A concrete length stays with numpy: to send it to a device and back takes longer than
    # the analysis of a short series.
    concrete = is_concrete(length)
    length = np.asarray(samples if length is None else length) if concrete else length
    if length.ndim or not jnp.issubdtype(length.dtype, jnp.integer):
        raise ValueError(f"length: {length.dtype}{list(length.shape)}; give one integer")
    if concrete and not 0 <= int(length) <= samples:
        raise ValueError(f"length: {int(length)}; give 0 to {samples}, the samples of the series")
    return length.astype(np.int32)


def check_scales(scales: Sequence[int], samples: int, smallest: int) -> tuple[int, ...]:
    """Return sorted static scales.

    Raises:
      ValueError: fewer than two, repeated, not integers, or outside `smallest`..`samples`.
    """
    values = np.asarray(scales)
    if values.ndim != 1 or values.size < 2 or len(set(values.tolist())) < values.size:
        raise ValueError(f"scales: {scales}; give at least two different segment lengths")
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"scales: dtype {values.dtype}; give integers, in samples")
    if values.min() < smallest or values.max() > samples:
        raise ValueError(
            f"scales: {values.min()}..{values.max()}; give {smallest} (order + 2, at least 3) to "
            f"{samples} (the samples of the series)"
        )
    return tuple(sorted(values.tolist()))


def check_orders(q: Any) -> tuple[float, ...] | Float[Array, " q"]:
    """Return moment orders as a static tuple, or as they are when traced.

    Raises:
      ValueError: empty, not one axis, or not finite.
    """
    if not is_concrete(q):
        return q
    values = np.asarray(q, float)
    if values.ndim != 1 or not values.size or not np.all(np.isfinite(values)):
        raise ValueError(f"q: {q}; give a list of finite moment orders")
    return tuple(values.tolist())


def check_choice(value: Any, accepted: Sequence[Any], name: str) -> None:
    """Raise ValueError unless `value` is one of `accepted`."""
    if value not in accepted:
        raise ValueError(f"{name}: {value!r}; give one of {', '.join(map(repr, accepted))}")
