"""The quadratic that the speech papers fit to f(alpha): its skewness and its width."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml import checks


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuadraticSpectrum:
    """Fit f = curvature (alpha - peak)^2 + skewness (alpha - peak) + top.

    Attributes:
      curvature: of the parabola; below 0 where it has a maximum.
      skewness: its slope at `peak`; positive for a spectrum with the longer right side.
      top: its value at `peak`.
      peak: alpha of the spectrum's largest f.
      width: distance of the roots f = 0; 0 where there are none or it opens upwards.
    """

    curvature: Float[Array, "*batch"]
    skewness: Float[Array, "*batch"]
    top: Float[Array, "*batch"]
    peak: Float[Array, "*batch"]
    width: Float[Array, "*batch"]


def quadratic_spectrum(alpha: Float[Array, " q"], f: Float[Array, " q"]) -> QuadraticSpectrum:
    """Return the least-squares parabola of a spectrum about the alpha of its largest f.

    Args:
      alpha: of the spectrum, `[q]` as `mfdfa` returns it, at least three orders.
      f: of the spectrum, `[q]`.

    Returns:
      `QuadraticSpectrum`; of a single point (a constant series) its f and zeros.

    Raises:
      ValueError: shapes differ, fewer than three orders, or neither float32 nor float64.

    Source: Shimizu, Thurner and Ehrenberger 2002 (Fractals 10:103).
    """
    if alpha.ndim != 1 or alpha.shape[0] < 3:
        raise checks.refused("alpha", alpha, "[q], three moment orders or more")
    checks.single_or_double(alpha=alpha, f=f)
    checks.same_shape(alpha=alpha, f=f)
    peak = alpha[jnp.argmax(f)]
    reach = jnp.max(jnp.abs(alpha - peak))
    spread = reach > 0
    reach = jnp.where(spread, reach, 1)
    t = (alpha - peak) / reach
    design = jnp.stack([t**2, t, jnp.ones_like(t)], axis=-1)
    # Without spread the first two columns vanish: the identity keeps the system regular.
    normal = design.T @ design + jnp.where(spread, 0, 1) * jnp.diag(jnp.array([1, 1, 0], t.dtype))
    c2, c1, c0 = jnp.linalg.solve(normal, design.T @ f)
    curvature, skewness = c2 / reach**2, c1 / reach
    discriminant = skewness**2 - 4 * curvature * c0
    # A straight line is fitted with the curvature of rounding, whose sign means nothing.
    rounding = 100 * jnp.finfo(f.dtype).eps * jnp.maximum(jnp.abs(c0), jnp.abs(c1))
    # NaN is no open parabola: it reaches the width.
    is_open = (c2 >= -rounding) | (discriminant <= 0)
    root = jnp.sqrt(jnp.where(is_open, 1, discriminant))
    width = jnp.where(is_open, 0, root / jnp.where(is_open, 1, -curvature))
    return QuadraticSpectrum(curvature, skewness, c0, peak, width)
