"""Series whose generalised Hurst exponents are known in closed form."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key

from jaxml import checks


def fgn(
    key: Key[Array, ""], n: int, *, hurst: ArrayLike = 0.5, dtype: DTypeLike = float
) -> Float[Array, " time"]:
    """Return fractional Gaussian noise of unit variance, exact by circulant embedding.

    Args:
      key: consumed.
      n: samples.
      hurst: Hurst exponent H in (0, 1), may be traced.
      dtype: float type of the result.

    Returns:
      `[n]`.

    Raises:
      ValueError: `n` is below 2.

    Source: Davies and Harte 1987 (Biometrika 74:95).
    """
    checks.counts(least=2, n=n)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    hurst = jnp.asarray(hurst, dtype)
    covariance = _fgn_covariance(jnp.arange(n + 1), hurst, dtype)
    eigenvalues = jnp.fft.rfft(jnp.concatenate([covariance, covariance[-2:0:-1]])).real
    real, imaginary = jax.random.normal(key, (2, n + 1), dtype)
    ends = jnp.zeros(n + 1, bool).at[jnp.array([0, n])].set(True)
    real = jnp.where(ends, jnp.sqrt(jnp.asarray(2, dtype)) * real, real)
    weight = jnp.sqrt(jnp.maximum(eigenvalues, 0) * n)
    noise = lax.complex(weight * real, jnp.where(ends, 0, weight * imaginary))
    return jnp.fft.irfft(noise, 2 * n)[:n]


def fgn_h(q: ArrayLike, *, hurst: ArrayLike = 0.5) -> Float[Array, " q"]:
    """Return h(q) = H of fractional Gaussian noise.

    Args:
      q: moment orders `[q]`.
      hurst: Hurst exponent H.

    Returns:
      `[q]`.
    """
    q = _float(q)
    return jnp.full(q.shape, hurst, q.dtype)


def fbm(
    key: Key[Array, ""], n: int, *, hurst: ArrayLike = 0.5, dtype: DTypeLike = float
) -> Float[Array, " time"]:
    """Return fractional Brownian motion, the running sum of `fgn` with the same arguments.

    Returns:
      `[n]`.
    """
    return jnp.cumsum(fgn(key, n, hurst=hurst, dtype=dtype))


def fbm_h(q: ArrayLike, *, hurst: ArrayLike = 0.5) -> Float[Array, " q"]:
    """Return h(q) = H + 1 of fractional Brownian motion; arguments as for `fgn_h`.

    Returns:
      `[q]`.
    """
    return fgn_h(q, hurst=hurst) + 1


def cascade(
    key: Key[Array, ""] | None, n: int, *, a: ArrayLike = 0.6, dtype: DTypeLike = float
) -> Float[Array, " time"]:
    """Return the binomial multiplicative cascade, a measure of total 1 on n = 2^k cells.

    Args:
      key: consumed; the larger share a then falls to a random side at every split.
        None puts it right everywhere: x_i = a^ones(i) (1 - a)^(k - ones(i)).
      n: cells, a power of two.
      a: larger share, in (0.5, 1), may be traced.
      dtype: float type of the result.

    Returns:
      `[n]`.

    Raises:
      ValueError: `n` is not a power of two, or below 2.

    Source: Meneveau and Sreenivasan 1987 (PRL 59:1424).
    """
    checks.counts(least=2, n=n)
    if n & (n - 1):
        raise checks.refused("n", n, "a power of two")
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    measure = jnp.ones(1, dtype)
    shares = jnp.stack([1 - jnp.asarray(a, dtype), jnp.asarray(a, dtype)])
    for level in range(n.bit_length() - 1):
        swap = jnp.zeros((2**level, 1), bool)
        if key is not None:
            swap = jax.random.bernoulli(jax.random.fold_in(key, level), shape=(2**level, 1))
        split = jnp.where(swap, shares[::-1], shares)
        measure = (measure[:, None] * split).ravel()
    return measure


def cascade_h(q: ArrayLike, *, a: ArrayLike = 0.6) -> Float[Array, " q"]:
    """Return h(q) = 1/q - ln(a^q + (1 - a)^q) / (q ln 2) of the cascade, its limit at q = 0.

    Args:
      q: moment orders `[q]`.
      a: larger share of the cascade.

    Returns:
      `[q]`.
    """
    q = _float(q)
    a = jnp.asarray(a, q.dtype)
    zero = q == 0
    safe = jnp.where(zero, 1, q)
    h = (1 - jnp.log2(a**safe + (1 - a) ** safe)) / safe
    return jnp.where(zero, -jnp.log2(a * (1 - a)) / 2, h)


def levy_stable(
    key: Key[Array, ""], n: int, *, alpha: ArrayLike = 1.5, dtype: DTypeLike = float
) -> Float[Array, " time"]:
    """Return independent symmetric alpha-stable values of unit scale.

    Args:
      key: consumed.
      n: samples.
      alpha: stability in (0, 2], may be traced; 2 is Gaussian of variance 2.
      dtype: float type of the result.

    Returns:
      `[n]`.

    Raises:
      ValueError: `n` is below 2.

    Source: Chambers, Mallows and Stuck 1976 (JASA 71:340).
    """
    checks.counts(least=2, n=n)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    alpha = jnp.asarray(alpha, dtype)
    angle_key, wait_key = jax.random.split(key)
    tiny = float(jnp.finfo(dtype).eps)
    half = jnp.pi / 2 * (1 - tiny)
    angle = jax.random.uniform(angle_key, (n,), dtype, -half, half)
    wait = jnp.maximum(jax.random.exponential(wait_key, (n,), dtype), tiny)
    radial = (jnp.cos((1 - alpha) * angle) / wait) ** ((1 - alpha) / alpha)
    return jnp.sin(alpha * angle) / jnp.cos(angle) ** (1 / alpha) * radial


def levy_stable_h(q: ArrayLike, *, alpha: ArrayLike = 1.5) -> Float[Array, " q"]:
    """Return h(q) of stable values: 1/alpha up to q = alpha, 1/q above.

    Args:
      q: moment orders `[q]`.
      alpha: stability.

    Returns:
      `[q]`.
    """
    q = _float(q)
    alpha = jnp.asarray(alpha, q.dtype)
    above = q > alpha
    h = jnp.where(above, 1 / jnp.where(above, q, 1), 1 / alpha)
    return jnp.where(jnp.isnan(q), q, h)


def _fgn_covariance(lag, hurst, dtype):
    """Return (|k+1|^2H - 2|k|^2H + |k-1|^2H) / 2; the difference cancels at large lags."""
    k = jnp.maximum(lag, 1).astype(dtype)
    exponent = 2 * hurst
    # k^2H [(1 + 1/k)^2H - 2 + (1 - 1/k)^2H] with expm1 and log1p keeps the digits.
    up = jnp.expm1(exponent * jnp.log1p(1 / k))
    inner = jnp.where(k > 1, 1 / k, 0)
    down = jnp.where(k > 1, jnp.expm1(exponent * jnp.log1p(-inner)), -1)
    return jnp.where(lag == 0, 1, k**exponent * (up + down) / 2)


def _float(q):
    q = jnp.asarray(q)
    return q if jnp.issubdtype(q.dtype, jnp.floating) else q.astype(float)
