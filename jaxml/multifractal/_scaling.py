"""From moments at every scale to exponents: h(q), tau(q) and the spectrum f(alpha)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MFDFA:
    """Multifractal analysis of a series.

    Attributes:
      q: moment orders `[q]`.
      scales: segment lengths `[scale]`, samples.
      log_fluctuation: ln F_q(s) `[q, scale]`; -inf where no segment is usable (F = 0).
      h: generalised Hurst exponent `[q]`, the slope of ln F_q against ln s; 0 with infinite
        `h_stderr` where fewer than two scales are usable (a constant series).
      h_stderr: standard error of that slope; infinite below three scales.
      tau: mass exponent q h - 1.
      alpha: singularity strength d tau / dq, exact.
      f: spectrum q alpha - tau.
      width: max alpha - min alpha.
      asymmetry: (left - right) / width in [-1, 1], left = alpha(q nearest 0) - min alpha,
        right = max alpha - alpha(q nearest 0); positive when large fluctuations carry more.
      r_squared: of the fit of each q.
      dropped: segments left out as flat `[scale]`, of 2 N_s.
    """

    q: Float[Array, "*batch q"]
    scales: Int[Array, "*batch scale"]
    log_fluctuation: Float[Array, "*batch q scale"]
    h: Float[Array, "*batch q"]
    h_stderr: Float[Array, "*batch q"]
    tau: Float[Array, "*batch q"]
    alpha: Float[Array, "*batch q"]
    f: Float[Array, "*batch q"]
    width: Float[Array, "*batch"]
    asymmetry: Float[Array, "*batch"]
    r_squared: Float[Array, "*batch q"]
    dropped: Int[Array, "*batch scale"]


def scaling_exponents(
    log_f: Float[Array, "q scale"],
    derivative: Float[Array, "q scale"],
    usable: Bool[Array, " scale"],
    dropped: Int[Array, " scale"],
    scales: tuple[int, ...],
    q: Float[Array, " q"] | tuple[float, ...],
) -> MFDFA:
    """Return the exponents of moments ln F_q(s) and their derivatives d(q ln F_q)/dq.

    Source: Kantelhardt et al. 2002, equations 6, 13 and 15; alpha by canonical weights.
    """
    q = jnp.asarray(q, log_f.dtype)
    log_s = jnp.log(jnp.asarray(scales, log_f.dtype))
    h, h_stderr, r_squared = fit_slopes(log_s, log_f, usable)
    alpha, _, _ = fit_slopes(log_s, derivative, usable)
    tau = q * h - 1
    low, high, middle = jnp.min(alpha), jnp.max(alpha), alpha[jnp.argmin(jnp.abs(q))]
    width = high - low
    flat = width == 0
    return MFDFA(
        q=q,
        scales=jnp.asarray(scales, jnp.int32),
        log_fluctuation=jnp.where(usable, log_f, -jnp.inf),
        h=h,
        h_stderr=h_stderr,
        tau=tau,
        alpha=alpha,
        f=q * alpha - tau,
        width=width,
        asymmetry=jnp.where(flat, 0, (2 * middle - low - high) / jnp.where(flat, 1, width)),
        r_squared=r_squared,
        dropped=dropped,
    )


def fit_slopes(
    x: Float[Array, " point"], y: Float[Array, "line point"], usable: Bool[Array, " point"]
) -> tuple[Float[Array, " line"], Float[Array, " line"], Float[Array, " line"]]:
    """Return least-squares slope, its standard error and r^2 of each line over usable points.

    With fewer than two usable points the slope is 0, its error infinite and r^2 0.
    """
    weight, x = usable.astype(x.dtype)[None], x[None]
    count = jnp.sum(weight)
    fits, has_error = count >= 2, count >= 3
    safe = jnp.maximum(count, 1)
    x = weight * (x - jnp.sum(weight * x) / safe)
    y = weight * (y - jnp.sum(weight * y, axis=-1, keepdims=True) / safe)
    x_square = jnp.where(fits, jnp.sum(x * x), 1)
    slope = jnp.where(fits, jnp.sum(x * y, axis=-1) / x_square, 0)
    y_square = jnp.sum(y * y, axis=-1)
    left = jnp.sum((y - slope[:, None] * x) ** 2, axis=-1)
    variance = left / jnp.where(has_error, count - 2, 1) / x_square
    # Conditions that NaN does not fulfil: it reaches the result.
    exact, level = variance <= 0, y_square <= 0
    error = jnp.where(exact, 0, jnp.sqrt(jnp.where(exact, 1, variance)))
    explained = 1 - left / jnp.where(level, 1, y_square)
    return (
        slope,
        jnp.where(has_error, error, jnp.inf),
        jnp.where(fits & ~level, explained, 0),
    )
