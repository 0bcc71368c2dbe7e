"""Multifractal detrended cross-correlation analysis (MFDCCA) of two series."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.multifractal._flat import center, flat_threshold
from jaxml.multifractal._mfdfa import (
    DEFAULT_Q,
    checked_series,
    compile_for_orders,
    segment_exponents,
)
from jaxml.multifractal._moments import mean_by_scale
from jaxml.multifractal._scaling import MFDFA
from jaxml.multifractal._segments import segment_products
from jaxml.multifractal._validate import check_orders, check_series


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MFDCCA:
    """Cross-correlation analysis of two series.

    Attributes:
      cross: h_xy(q), its spectrum and F_xy(q, s).
      coefficient: DCCA coefficient rho(s) in [-1, 1], `[scale]`.
    """

    cross: MFDFA
    coefficient: Float[Array, "*batch scale"]


def mfdcca(
    x: ArrayLike,
    y: ArrayLike,
    *,
    scales: Sequence[int] | None = None,
    q: ArrayLike | Sequence[float] | None = None,
    order: int = 1,
    length: ArrayLike | None = None,
    flat: str = "drop",
) -> MFDCCA:
    """Return scaling of the detrended covariance of two series and their DCCA coefficient.

    The moments are of |F2_xy|, since negative q need a positive base; the coefficient keeps
    the sign: rho(s) = mean F2_xy / sqrt(mean F2_xx mean F2_yy).

    Args:
      x: series `[time]`.
      y: series `[time]` of the same dtype.
      scales: as for `mfdfa`.
      q: as for `mfdfa`.
      order: as for `mfdfa`.
      length: as for `mfdfa`.
      flat: as for `mfdfa`.

    Returns:
      `MFDCCA` of the dtype of `x`.

    Raises:
      ValueError: as `mfdfa`, and for series of different lengths or dtypes.

    Source: Zhou 2008 (PRE 77:066211); Zebende 2011 (Physica A 390:614) for the coefficient.
    """
    x, scales, length = checked_series(x, scales, order, length, flat)
    y = check_series(y, name="y")
    checks.same_trees(x=x, y=y)
    q = check_orders(DEFAULT_Q if q is None else q)
    return _compiled(x, y, length, scales, order, flat, q=q)


def _analyze(x, y, length, scales, order, flat, q):
    (x, x_peak), (y, y_peak) = center(x, length), center(y, length)
    pairs = [(0, 1), (0, 0), (1, 1)]
    segments = segment_products(jnp.stack([x, y]), length, scales, order, pairs)
    thresholds = [flat_threshold(series, length, scales, order) for series in (x, y)]
    threshold = jnp.sqrt(thresholds[0] * thresholds[1])
    log_peak = (jnp.log(x_peak) + jnp.log(y_peak)) / 2
    cross = segment_exponents(segments, threshold, log_peak, scales, q, flat)
    xy, xx, yy = (
        mean_by_scale(product, segments.valid, segments.scale_of_tile, len(scales))
        for product in segments.product
    )
    is_flat = (xx <= thresholds[0]) | (yy <= thresholds[1])
    coefficient = jnp.where(is_flat, 0, xy / jnp.sqrt(jnp.where(is_flat, 1, xx * yy)))
    return MFDCCA(cross, coefficient)


_compiled = compile_for_orders(_analyze, "scales", "order", "flat")
