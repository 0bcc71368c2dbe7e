"""Multifractal detrending moving average (MFDMA) of a series."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxml import checks
from jaxml.multifractal._flat import flat_threshold, scale_to_peak
from jaxml.multifractal._mfdfa import (
    DEFAULT_Q,
    checked_series,
    compile_for_orders,
    segment_exponents,
)
from jaxml.multifractal._scaling import MFDFA
from jaxml.multifractal._segments import moving_average_residuals
from jaxml.multifractal._validate import check_orders


def mfdma(
    x: ArrayLike,
    *,
    theta: float = 0.0,
    scales: Sequence[int] | None = None,
    q: ArrayLike | Sequence[float] | None = None,
    length: ArrayLike | None = None,
    flat: str = "drop",
) -> MFDFA:
    """Return exponents and spectrum of a series detrended by a moving average of its profile.

    Args:
      x: series `[time]`, any unit. Its mean counts, as in the source: it moves a one-sided
        average by (s - 1) / 2 means, so subtract it where it carries nothing.
      theta: place of the window: 0 backward, 0.5 centered, 1 forward.
      scales: window and segment lengths in samples, at most half the series;
        `default_scales(time)` by default.
      q: as for `mfdfa`.
      length: as for `mfdfa`.
      flat: as for `mfdfa`.

    Returns:
      `MFDFA`; segments are taken from the start only.

    Raises:
      ValueError: as `mfdfa`, for `theta` other than 0, 0.5, 1, and for a scale that leaves
        no segment.

    Source: Gu and Zhou 2010 (PRE 82:011136).
    """
    checks.choice((0.0, 0.5, 1.0), theta=theta)
    x, scales, length = checked_series(x, scales, 1, length, flat)
    if 2 * scales[-1] - 1 > x.shape[0]:
        accepted = f"up to {(x.shape[0] + 1) // 2}: a window and a segment need 2 s - 1 samples"
        raise checks.refused("scales", scales, accepted, holds=str(scales[-1]))
    q = check_orders(DEFAULT_Q if q is None else q)
    return _compiled(x, length, scales, theta, flat, q=q)


def _analyze(x, length, scales, theta, flat, q):
    # The mean stays in: the profile of a measure rises, and its moving average follows it.
    x, peak = scale_to_peak(x, length)
    segments = moving_average_residuals(x, length, scales, theta)
    threshold = flat_threshold(x, length, scales, 0)
    return segment_exponents(segments, threshold, jnp.log(peak), scales, q, flat)


_compiled = compile_for_orders(_analyze, "scales", "theta", "flat")
