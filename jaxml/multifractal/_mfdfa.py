"""Multifractal detrended fluctuation analysis (MFDFA) of a series."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.multifractal._flat import center, flat_threshold, usable_segments
from jaxml.multifractal._moments import Orders, log_moments
from jaxml.multifractal._scaling import MFDFA, scaling_exponents
from jaxml.multifractal._segments import Segments, segment_products
from jaxml.multifractal._validate import (
    check_length,
    check_orders,
    check_scales,
    check_series,
)

DEFAULT_Q = tuple(np.arange(-5, 5.01, 0.25).tolist())
ORDERS = (0, 1, 2, 3)
FLAT_POLICIES = ("drop", "floor", "keep")


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
    return _checked_call(_exponents, x, scales, DEFAULT_Q if q is None else q, order, length, flat)


def fluctuation(
    x: ArrayLike,
    scales: Sequence[int],
    q: ArrayLike | Sequence[float],
    *,
    order: int = 1,
    length: ArrayLike | None = None,
    flat: str = "drop",
) -> Float[Array, "q scale"]:
    """Return the fluctuation function F_q(s), without the exponents.

    Arguments and errors as for `mfdfa`.

    Returns:
      `[q, scale]`, in the unit of `x`.
    """
    return _checked_call(_fluctuations, x, scales, q, order, length, flat)


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

    Returns:
      Scalar of the dtype of `x`.
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

    Returns:
      Two scales or more, in samples, in rising order.

    Raises:
      ValueError: `n` leaves fewer than two scales.
    """
    largest = n // 8 if maximum is None else maximum
    bases = {round(minimum * 2 ** (j / per_octave)) for j in range(per_octave)}
    scales = {b << k for b in bases for k in range(64) if b << k <= largest}
    if len(scales) < 2:
        accepted = f"samples enough for two scales between {minimum} and {largest}"
        raise checks.refused("n", n, f"{accepted}; or pass scales of your own")
    return tuple(sorted(scales))


def checked_series(x, scales, order, length, flat):
    """Return the checked series, static scales and valid length of any of the analyses."""
    checks.choice(ORDERS, order=order)
    checks.choice(FLAT_POLICIES, flat=flat)
    x = check_series(x, minimum=order + 2)
    samples = x.shape[0]
    scales = default_scales(samples) if scales is None else scales
    return x, check_scales(scales, samples, order + 2), check_length(length, samples)


def segment_exponents(
    segments: Segments,
    threshold: Float[Array, " scale"],
    log_peak: Float[Array, ""],
    scales: tuple[int, ...],
    q: Orders,
    flat: str,
) -> MFDFA:
    """Return the exponents of the first pair of series, which were divided by exp(`log_peak`)."""
    f2, valid, dropped = usable_segments(segments, threshold, flat)
    log_f, a = log_moments(f2[0], valid, segments.scale_of_tile, len(scales), q)
    usable = dropped < segments.count
    return scaling_exponents(log_f + log_peak, a + log_peak, usable, dropped, scales, q)


def compile_for_orders(function: Callable[..., Any], *static: str) -> Callable[..., Any]:
    """Return a function compiled with these arguments static, and its `q` if it is a tuple."""
    static_q = jax.jit(function, static_argnames=(*static, "q"))
    traced_q = jax.jit(function, static_argnames=static)

    def compiled(*args, q):
        return (static_q if isinstance(q, tuple) else traced_q)(*args, q=q)

    return compiled


def _checked_call(compiled, x, scales, q, order, length, flat):
    x, scales, length = checked_series(x, scales, order, length, flat)
    return compiled(x, length, scales, order, flat, q=check_orders(q))


def _analyze(x, length, scales, order, flat, q):
    centered, peak = center(x, length)
    segments = segment_products(centered[None], length, scales, order, [(0, 0)])
    threshold = flat_threshold(centered, length, scales, order)
    return segment_exponents(segments, threshold, jnp.log(peak), scales, q, flat)


def _fluctuation(x, length, scales, order, flat, q):
    return jnp.exp(_analyze(x, length, scales, order, flat, q).log_fluctuation)


_exponents = compile_for_orders(_analyze, "scales", "order", "flat")
# Compiled apart, without the sums that only the exponents need.
_fluctuations = compile_for_orders(_fluctuation, "scales", "order", "flat")
