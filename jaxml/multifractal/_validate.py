"""What the analyses accept: series, valid lengths, scales and moment orders."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.tracing import is_concrete


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
        raise checks.refused(name, x, "float32, float64 or integers")
    if x.ndim != 1:
        raise checks.refused(name, x, "one series [time]; jax.vmap takes more")
    if x.shape[0] < minimum:
        raise checks.refused(name, x, f"a series of {minimum} samples or more")
    if is_concrete(x):
        # numpy: a concrete series inside somebody's trace must be looked at outside of it.
        finite = np.isfinite(np.asarray(x))
        if not finite.all():
            where = f"NaN or infinity at sample {finite.argmin()}"
            raise checks.refused(name, x, "finite numbers", holds=where)
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
        raise checks.refused("length", length, "one integer")
    if concrete and not 0 <= int(length) <= samples:
        raise checks.refused("length", length, f"0 to {samples}, the samples of the series")
    return length.astype(np.int32)


def check_scales(scales: Sequence[int], samples: int, smallest: int) -> tuple[int, ...]:
    """Return sorted static scales.

    Raises:
      ValueError: fewer than two, repeated, not integers, or outside `smallest`..`samples`.
    """
    values = np.asarray(scales)
    if values.ndim != 1 or values.size < 2 or len(set(values.tolist())) < values.size:
        raise checks.refused("scales", scales, "two different segment lengths or more")
    if not np.issubdtype(values.dtype, np.integer):
        raise checks.refused("scales", scales, "integers, in samples")
    if values.min() < smallest or values.max() > samples:
        accepted = f"{smallest}, which is order + 2, to {samples}, the samples of the series"
        ends = f"values from {values.min()} to {values.max()}"
        raise checks.refused("scales", scales, accepted, holds=ends)
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
        raise checks.refused("q", q, "a list of finite moment orders")
    return tuple(values.tolist())
