"""Multifractal detrended fluctuation analysis (MFDFA) of a series."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxml.multifractal.moments import log_moments
from jaxml.multifractal.scaling import MFDFA, scaling_exponents
from jaxml.multifractal.segments import Segments, segment_products
from jaxml.multifractal.validate import (
    FLAT_POLICIES,
    check_choice,
    check_length,
    check_orders,
    check_scales,
    check_series,
)

DEFAULT_Q = tuple(np.arange(-5, 5.01, 0.25).tolist())
ORDERS = (0, 1, 2, 3)


def mfdfa(
    x: ArrayLike,
    *,
    scales: Sequence[int] | None = None,
    q: ArrayLike | Sequence[float] | None = None,
    order: int = 1,
    length: ArrayLike | None = None,
    flat: str = "drop",
) -> MFDFA:
    """Return generalised Hurst exponents and the multifractal spectrum of a series.

    Compiled once per shape, scales, q, order and policy; `length` is traced, so a padded
    batch of any lengths is `jax.vmap(lambda x, n: mfdfa(x, length=n))(batch, lengths)`.

    Args:
      x: series `[time]`, any unit; it is summed to its profile inside.
      scales: segment lengths in samples, `default_scales(time)` by default. Sets b 2^k take
        the fast pyramid, other integers an explicit fit.
      q: moment orders `[q]`, -5..5 in steps of 0.25 by default; may be traced.
      order: degree of the polynomial trend of the profile, 0 to 3.
      length: number of valid samples, the rest is padding; all by default.
      flat: segments that a polynomial fits to rounding have no logarithm. "drop" leaves them
        out (counted in `dropped`), "floor" raises them to the threshold, "keep" leaves out
        exact zeros only.

    Returns:
      `MFDFA` of the dtype of `x`. A constant series has every segment dropped, h = 0 and
      infinite `h_stderr`.

    Raises:
      ValueError: NaN, infinite, empty or too short series, wrong rank, a scale below
        order + 2 or above the series, unknown order or policy.

    Source: Kantelhardt et al. 2002 (Physica A 316:87).
    """
    x, scales, q, length = _checked(x, scales, q, order, length, flat)
    if isinstance(q, tuple):
        return _compiled(x, length, scales, q, order, flat)
    return _compiled_traced_q(x, length, scales, q, order, flat)


def fluctuation(
    x: ArrayLike,
    scales: Sequence[int],
    q: ArrayLike | Sequence[float],
    *,
    order: int = 1,
    length: ArrayLike | None = None,
    flat: str = "drop",
) -> Float[Array, "q scale"]:
    """Return the fluctuation function F_q(s) `[q, scale]`, in the unit of `x`; see `mfdfa`."""
    result = mfdfa(x, scales=scales, q=q, order=order, length=length, flat=flat)
    return jnp.exp(result.log_fluctuation)


def hurst(
    x: ArrayLike,
    *,
    scales: Sequence[int] | None = None,
    order: int = 1,
    length: ArrayLike | None = None,
    flat: str = "drop",
) -> Float[Array, ""]:
    """Return h(2), the exponent of plain DFA: H of fractional noise, H + 1 of its sum.

    Arguments and errors as for `mfdfa`.
    """
    return mfdfa(x, scales=scales, q=(2.0,), order=order, length=length, flat=flat).h[0]


def default_scales(
    n: int, *, minimum: int = 16, maximum: int | None = None, per_octave: int = 4
) -> tuple[int, ...]:
    """Return segment lengths round(minimum 2^(j/per_octave)) 2^k up to `maximum` samples.

    Args:
      n: samples of the series.
      minimum: smallest scale, samples; DFA is biased below 10 (order + 1).
      maximum: largest scale, samples; n // 8 by default.
      per_octave: scales an octave, evenly spaced in the logarithm but for rounding.

    Raises:
      ValueError: `n` leaves fewer than two scales.
    """
    largest = n // 8 if maximum is None else maximum
    bases = {round(minimum * 2 ** (j / per_octave)) for j in range(per_octave)}
    found = {b << k for b in bases for k in range(64) if b << k <= largest}
    if len(found) < 2:
        raise ValueError(
            f"n: {n} samples leave fewer than two scales between {minimum} and {largest}; "
            "give a longer series or scales of your own"
        )
    return tuple(sorted(found))


def usable_segments(
    segments: Segments, threshold: Float[Array, " scale"], flat: str
) -> tuple[Float[Array, "pair tile segment"], Bool[Array, "tile segment"], Int[Array, " scale"]]:
    """Return |F2| made positive, the segments to use and the number left out at each scale.

    A segment is used if the first pair's |F2| passes the policy `flat`.
    """
    f2 = jnp.abs(segments.product)
    tile_threshold = threshold[segments.scale_of_tile, None]
    if flat == "floor":
        f2 = jnp.maximum(f2, tile_threshold)
        valid = segments.valid & (f2[0] > 0)
    else:
        valid = segments.valid & (f2[0] > (tile_threshold if flat == "drop" else 0))
    used = jnp.zeros(threshold.shape, segments.count.dtype)
    used = used.at[segments.scale_of_tile].add(jnp.sum(valid, axis=-1, dtype=used.dtype))
    return jnp.where(valid, f2, 1), valid, segments.count - used


def centre(x: Float[Array, " time"], length: Int[Array, ""]):
    """Return the series less its mean over its peak, zero beyond `length`, and that peak.

    Dividing by the peak keeps squares of any unit in range; F scales with it exactly.
    """
    inside = jnp.arange(x.shape[0], dtype=length.dtype) < length
    samples = jnp.maximum(length, 1).astype(x.dtype)
    peak = jnp.max(jnp.where(inside, jnp.abs(x), 0), initial=0)
    peak = lax.stop_gradient(jnp.where(peak > 0, peak, 1))
    x = jnp.where(inside, x / peak, 0)
    return jnp.where(inside, x - jnp.sum(x) / samples, 0), peak


def flat_threshold(
    centred: Float[Array, " time"], length: Int[Array, ""], scales: tuple[int, ...], order: int
) -> Float[Array, " scale"]:
    """Return F2 below which a segment is flat: 80 or 100 dB under the series, or rounding.

    Rounding of a profile of s samples leaves F2 of the order of (eps s)^2 times the variance;
    with no slope in the fit (order 0) also an error of the mean, eps of the peak 1, remains.
    """
    dtype = centred.dtype
    variance = jnp.sum(centred**2) / jnp.maximum(length, 1).astype(dtype)
    relative = 1e-8 if dtype == jnp.float32 else 1e-10
    eps = float(jnp.finfo(dtype).eps)
    rounding = jnp.asarray((4 * eps * np.asarray(scales)) ** 2, dtype)
    return relative * variance + rounding * (1 if order == 0 else variance)


def _checked(x, scales, q, order, length, flat):
    check_choice(order, ORDERS, "order")
    check_choice(flat, FLAT_POLICIES, "flat")
    x = check_series(x, minimum=order + 2)
    samples = x.shape[0]
    scales = default_scales(samples) if scales is None else scales
    scales = check_scales(scales, samples, order + 2)
    q = check_orders(DEFAULT_Q if q is None else q)
    return x, scales, q, check_length(length, samples)


def _analyse(x, length, scales, q, order, flat):
    centred, peak = centre(x, length)
    segments = segment_products(centred[None], length, scales, order, [(0, 0)])
    threshold = flat_threshold(centred, length, scales, order)
    f2, valid, dropped = usable_segments(segments, threshold, flat)
    log_f, a = log_moments(f2[0], valid, segments.scale_of_tile, len(scales), q)
    log_peak = jnp.log(peak)
    usable = dropped < segments.count
    return scaling_exponents(log_f + log_peak, a + log_peak, usable, dropped, scales, q)


_static = ("scales", "order", "flat")
_compiled = partial(jax.jit, static_argnames=(*_static, "q"))(_analyse)
_compiled_traced_q = partial(jax.jit, static_argnames=_static)(_analyse)
