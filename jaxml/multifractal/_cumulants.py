"""Log-cumulants c1, c2, c3: the spectrum near its top, without moments."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxml.multifractal._flat import center, flat_threshold, usable_segments
from jaxml.multifractal._mfdfa import checked_series
from jaxml.multifractal._moments import mean_by_scale
from jaxml.multifractal._scaling import fit_slopes
from jaxml.multifractal._segments import segment_products


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cumulants:
    """Log-cumulants of a series.

    Attributes:
      c: slopes of `curves` against ln s, `[3]`.
      c_stderr: their standard errors, `[3]`.
      curves: first three cumulants of ln F(v, s) over the segments, `[3, scale]`.
      scales: segment lengths `[scale]`, samples.
      dropped: segments left out as flat `[scale]`, of 2 N_s.
    """

    c: Float[Array, "*batch 3"]
    c_stderr: Float[Array, "*batch 3"]
    curves: Float[Array, "*batch 3 scale"]
    scales: Int[Array, "*batch scale"]
    dropped: Int[Array, "*batch scale"]


def cumulants(
    x: ArrayLike,
    *,
    scales: Sequence[int] | None = None,
    order: int = 1,
    length: ArrayLike | None = None,
    flat: str = "drop",
) -> Cumulants:
    """Return c1, c2, c3 with q h(q) = c1 q + c2 q^2 / 2 + c3 q^3 / 6 + ... about q = 0.

    c1 = h(0) is where the spectrum peaks, c2 < 0 says that it is multifractal, c3 that it is
    skewed. Arguments and errors as for `mfdfa`.

    Returns:
      `Cumulants` of the dtype of `x`; its curves are 0 at scales with no segment.

    Source: Castaing et al. 1993 (Physica D 68:387), with F(v, s) in place of increments.
    """
    x, scales, length = checked_series(x, scales, order, length, flat)
    return _compiled(x, length, scales, order, flat)


@partial(jax.jit, static_argnames=("scales", "order", "flat"))
def _compiled(x, length, scales, order, flat):
    centered, peak = center(x, length)
    segments = segment_products(centered[None], length, scales, order, [(0, 0)])
    threshold = flat_threshold(centered, length, scales, order)
    f2, valid, dropped = usable_segments(segments, threshold, flat)
    average = lambda values: mean_by_scale(values, valid, segments.scale_of_tile, len(scales))
    log_f = jnp.log(f2[0]) / 2
    first = average(log_f)
    deviation = log_f - first[segments.scale_of_tile, None]
    usable = dropped < segments.count
    first = jnp.where(usable, first + jnp.log(peak), 0)
    curves = jnp.stack([first, average(deviation**2), average(deviation**3)])
    c, c_stderr, _ = fit_slopes(jnp.log(jnp.asarray(scales, x.dtype)), curves, usable)
    return Cumulants(c, c_stderr, curves, jnp.asarray(scales, jnp.int32), dropped)
