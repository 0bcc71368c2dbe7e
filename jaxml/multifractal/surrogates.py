"""Surrogate series: what a spectrum's width owes to the distribution, what to correlations."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxml.multifractal._validate import check_series
from jaxml.tracing import nan_unless


def shuffle(key: Key[Array, ""], x: ArrayLike) -> Float[Array, " time"]:
    """Return the values of `x` in random order: same distribution, no correlation.

    Args:
      key: consumed.
      x: series `[time]`.

    Returns:
      `[time]`.

    Raises:
      ValueError: NaN, infinite, wrong rank, or fewer than 2 samples.
    """
    return jax.random.permutation(key, check_series(x, minimum=2))


def phase(key: Key[Array, ""], x: ArrayLike) -> Float[Array, " time"]:
    """Return a series with the power spectrum of `x` and random phases: linear and Gaussian.

    The zero and Nyquist frequencies keep their real coefficients.

    Args:
      key: consumed.
      x: series `[time]`.

    Returns:
      `[time]`.

    Raises:
      ValueError: as for `shuffle`.

    Source: Theiler et al. 1992 (Physica D 58:77).
    """
    x = check_series(x, minimum=2)
    samples = x.shape[0]
    spectrum = jnp.fft.rfft(x)
    angle = jax.random.uniform(key, spectrum.shape, x.dtype, maxval=2 * jnp.pi)
    real = jnp.zeros(spectrum.shape, bool).at[0].set(True).at[-1].set(samples % 2 == 0)
    angle = jnp.where(real, 0, angle)
    return jnp.fft.irfft(spectrum * lax.complex(jnp.cos(angle), jnp.sin(angle)), samples)


def iaaft(
    key: Key[Array, ""], x: ArrayLike, *, max_iterations: int = 1000
) -> Float[Array, " time"]:
    """Return a series with exactly the values of `x` and, nearly, its power spectrum.

    Imposes amplitudes and ranks in turn until the ranks stop changing.

    Args:
      key: consumed.
      x: series `[time]`.
      max_iterations: bound on the iterations.

    Returns:
      `[time]`.

    Raises:
      ValueError: as for `shuffle`.

    Source: Schreiber and Schmitz 1996 (PRL 77:635).
    """
    x = check_series(x, minimum=2)
    samples = x.shape[0]
    amplitude, ranked = jnp.abs(jnp.fft.rfft(x)), jnp.sort(x)

    def impose(order):
        current = jnp.zeros_like(x).at[order].set(ranked)
        spectrum = jnp.fft.rfft(current)
        size = jnp.abs(spectrum)
        gain = amplitude / jnp.where(size > 0, size, 1)
        real = jnp.where(size > 0, gain * spectrum.real, amplitude)
        return jnp.argsort(jnp.fft.irfft(lax.complex(real, gain * spectrum.imag), samples))

    def step(state):
        order, _, count = state
        new = impose(order)
        return new, jnp.any(new != order), count + 1

    start = jnp.argsort(jax.random.permutation(key, x))

    def moving(state):
        _, changed, count = state
        return changed & (count < max_iterations)

    order, _, _ = lax.while_loop(moving, step, (start, jnp.asarray(True), jnp.asarray(0)))
    surrogate = jnp.zeros_like(x).at[order].set(ranked)
    return nan_unless(jnp.all(jnp.isfinite(x)), surrogate)
