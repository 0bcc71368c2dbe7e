"""Which segments carry information: the flat ones have no logarithm."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxml.multifractal._segments import Segments


def center(
    x: Float[Array, " time"], length: Int[Array, ""]
) -> tuple[Float[Array, " time"], Float[Array, ""]]:
    """Return the series over its peak less its mean, zero beyond `length`, and that peak."""
    x, peak = scale_to_peak(x, length)
    inside = jnp.arange(x.shape[0], dtype=length.dtype) < length
    samples = jnp.maximum(length, 1).astype(x.dtype)
    return jnp.where(inside, x - jnp.sum(x) / samples, 0), peak


def scale_to_peak(
    x: Float[Array, " time"], length: Int[Array, ""]
) -> tuple[Float[Array, " time"], Float[Array, ""]]:
    """Return the series over its largest magnitude, zero beyond `length`, and that peak.

    It keeps squares of any unit in range; F scales with the peak exactly.
    """
    inside = jnp.arange(x.shape[0], dtype=length.dtype) < length
    peak = jnp.max(jnp.where(inside, jnp.abs(x), 0), initial=0)
    peak = lax.stop_gradient(jnp.where(peak > 0, peak, 1))
    return jnp.where(inside, x / peak, 0), peak


def flat_threshold(
    centered: Float[Array, " time"], length: Int[Array, ""], scales: tuple[int, ...], order: int
) -> Float[Array, " scale"]:
    """Return F2 below which a segment is flat: 80 or 100 dB under the series, or rounding.

    Rounding of a profile of s samples leaves F2 of the order of (eps s)^2 times the variance;
    with no slope in the fit (order 0) also an error of the mean, eps of the peak 1, remains.
    """
    dtype = centered.dtype
    variance = jnp.sum(centered**2) / jnp.maximum(length, 1).astype(dtype)
    relative = 1e-8 if dtype == jnp.float32 else 1e-10
    eps = float(jnp.finfo(dtype).eps)
    rounding = jnp.asarray((4 * eps * np.asarray(scales)) ** 2, dtype)
    return relative * variance + rounding * (1 if order == 0 else variance)


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
        is_flat = f2[0] <= 0
    else:
        is_flat = f2[0] <= (tile_threshold if flat == "drop" else 0)
    # NaN is not flat: it stays, and is seen in the result.
    valid = segments.valid & ~is_flat
    used = jnp.zeros(threshold.shape, segments.count.dtype)
    used = used.at[segments.scale_of_tile].add(jnp.sum(valid, axis=-1, dtype=used.dtype))
    return jnp.where(valid, f2, 1), valid, segments.count - used
