"""Moments of l = ln F2 over the segments of a scale, by log-sum-exp, for every q at once.

K(q) = ln mean_v exp(q l_v / 2) is q ln F_q. Its derivative A(q) = sum_v mu_v l_v / 2 with the
weights mu_v = exp(q l_v / 2) / sum exp(q l / 2) makes alpha = d tau / dq exact: it is the
canonical measure of Chhabra and Jensen 1989 (PRL 62:1327).
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

# Tiles whose powers are raised together: two signs of q times these fit the cache of a core.
_CHUNK = 4096

Orders = Float[Array, " q"] | tuple[float, ...]


def log_moments(
    f2: Float[Array, "tile segment"],
    valid: Bool[Array, "tile segment"],
    scale_of_tile: np.ndarray,
    scales: int,
    q: Orders,
) -> tuple[Float[Array, "q scale"], Float[Array, "q scale"]]:
    """Return ln F_q(s) and A(q, s) = d(q ln F_q)/dq for every moment order and scale.

    Args:
      f2: F2 of the segments in tiles of one scale each, positive everywhere.
      valid: segments that count.
      scale_of_tile: number of the scale of each tile.
      scales: how many scales there are.
      q: moment orders; a tuple is static, and the multiples of one step are fastest.

    Returns:
      ln F_q, at q = 0 its limit mean(l) / 2, and A; both 0 at scales with no valid segment.

    Source: Kantelhardt et al. 2002, step 4.
    """
    step = _common_step(q)
    if step is None:
        order = jnp.asarray(q, f2.dtype)
        log_f, a = _exponential_moments(f2, valid, scale_of_tile, scales, order)
    else:
        log_f, a = _geometric_moments(f2, valid, scale_of_tile, scales, q, step)
    usable = jnp.zeros(scales, bool).at[scale_of_tile].max(jnp.any(valid, axis=-1))
    return jnp.where(usable, log_f, 0), jnp.where(usable, a, 0)


def mean_by_scale(
    values: Float[Array, "tile segment"],
    valid: Bool[Array, "tile segment"],
    scale_of_tile: np.ndarray,
    scales: int,
) -> Float[Array, " scale"]:
    """Return the mean over the valid segments of each scale, 0 where there is none."""
    inside = valid.astype(values.dtype)
    tiles = jnp.stack([jnp.sum(jnp.where(valid, v, 0), axis=-1) for v in (values, inside)])
    total, count = _by_scale(tiles, scale_of_tile, scales)
    return total / jnp.maximum(count, 1)


def _common_step(q: Orders) -> float | None:
    """Return the step of which every static q is a small multiple, else None."""
    if not isinstance(q, tuple):
        return None
    step = min((abs(v) for v in q if v), default=1.0)
    multiples = np.asarray(q) / step
    even = np.allclose(multiples, np.round(multiples), atol=1e-9)
    return step if even and np.abs(multiples).max() <= 4 * len(q) else None


def _geometric_moments(f2, valid, scale_of_tile, scales, q, step):
    """Powers of exp(step l / 2): one exponential a segment serves all q of one sign."""
    multiples = np.round(np.asarray(q) / step).astype(int)
    signs = (-1, 1)
    reference = jnp.stack([_extreme(f2, valid, scale_of_tile, scales, s) for s in signs])
    powers = max(1, int(np.abs(multiples).max()))
    slope = jnp.asarray(signs, f2.dtype)[:, None, None] * (step / 2)

    def power_sums(f2, valid, reference):
        # The logarithm of a ratio is exact to rounding where a difference of logarithms is
        # not; of square roots, whose ratio stays in the range of the type.
        quotient = jnp.sqrt(f2)[None] / jnp.sqrt(reference)[..., None]
        delta = 2 * jnp.log(jnp.where(valid, quotient, 1))
        ratio = jnp.where(valid, jnp.exp(slope * delta), 0)

        def raise_power(power, _):
            # The sums are of the new power: of the old one they would need a copy of it.
            power = power * ratio
            return power, (_row_sums(power), _row_sums(power * delta))

        start = jnp.broadcast_to(valid, delta.shape).astype(f2.dtype)
        _, (total, weighted) = lax.scan(raise_power, start, None, length=powers)
        return _row_sums(start), _row_sums(delta), total, weighted

    # Power 0 stays apart: whoever wants ln F alone then needs no other weighted sum, and the
    # compiler leaves them out.
    count, weighted_0, total, weighted = (
        _by_scale(sums, scale_of_tile, scales)
        for sums in _in_chunks(power_sums, f2, valid, reference[:, scale_of_tile])
    )
    half_reference = jnp.log(reference) / 2
    log_mean = jnp.log(_filled(total) / _filled(count)[None])
    tilt = weighted / _filled(total) / 2
    mean_log = (half_reference + weighted_0 / _filled(count) / 2)[0]

    side, power = (multiples > 0).astype(int), np.maximum(np.abs(multiples) - 1, 0)
    at_zero = (multiples == 0)[:, None]
    order = jnp.asarray(np.where(multiples == 0, 1, q), f2.dtype)[:, None]
    log_f = half_reference[side] + log_mean[power, side] / order
    a = half_reference[side] + tilt[power, side]
    return jnp.where(at_zero, mean_log, log_f), jnp.where(at_zero, mean_log, a)


def _exponential_moments(f2, valid, scale_of_tile, scales, order):
    """One exponential a segment and q, for any q; differentiable in traced q, at 0 too."""
    mean_of = lambda values: mean_by_scale(values, valid, scale_of_tile, scales)
    log_f2 = jnp.log(f2)
    mean = mean_of(log_f2)
    deviation = log_f2 - mean[scale_of_tile, None]
    variance, third = mean_of(deviation**2), mean_of(deviation**3)
    low, high = (_extreme(f2, valid, scale_of_tile, scales, sign) for sign in (-1, 1))

    def one(q):
        # Below 0.1 the sum is of exp(.) - 1 about the mean, below 0.001 a series in q:
        # ln(mean) / q of plain exponentials would lose every digit.
        small, tiny = jnp.abs(q) < 0.1, jnp.abs(q) < 1e-3
        side = jnp.log(jnp.where(q > 0, high, low))
        reference = jnp.where(small, mean, side)
        exponent = jnp.where(valid, q / 2 * (log_f2 - reference[scale_of_tile, None]), 0)
        excess = mean_of(jnp.where(small, jnp.expm1(exponent), 0))
        size = mean_of(jnp.exp(exponent))
        tilt = mean_of(jnp.exp(exponent) * log_f2) / _filled(size)
        log_mean = jnp.where(small, jnp.log1p(excess), jnp.log(_filled(size)))
        series = mean / 2 + q * variance / 8 + q**2 * third / 48
        log_f = reference / 2 + log_mean / jnp.where(tiny, 1, q)
        return jnp.where(tiny, series, log_f), tilt / 2

    return lax.map(one, order)


def _in_chunks(power_sums, f2, valid, reference):
    """Return the sums of all tiles, of so many at a time that their powers fit a cache."""
    tiles = f2.shape[0]
    if tiles <= _CHUNK:
        return power_sums(f2, valid, reference)
    fill = -tiles % _CHUNK
    chunks = (
        jnp.pad(f2, ((0, fill), (0, 0)), constant_values=1).reshape(-1, _CHUNK, f2.shape[1]),
        jnp.pad(valid, ((0, fill), (0, 0))).reshape(-1, _CHUNK, f2.shape[1]),
        jnp.pad(reference.T, ((0, fill), (0, 0)), constant_values=1).reshape(-1, _CHUNK, 2),
    )
    parts = lax.map(lambda chunk: power_sums(*chunk[:2], chunk[2].T), chunks)
    join = lambda part: jnp.moveaxis(part, 0, -2).reshape(*part.shape[1:-1], -1)[..., :tiles]
    return [join(part) for part in parts]


def _row_sums(tiles):
    """Return the sum of each tile, as a product: compilers add the numbers of a row one by one."""
    ones = jnp.ones(tiles.shape[-1], tiles.dtype)
    return jnp.matmul(tiles, ones, precision=lax.Precision.HIGHEST)


def _filled(total):
    # NaN is not 0, and stays.
    return jnp.where(total <= 0, 1, total)


def _extreme(f2, valid, scale_of_tile, scales, sign):
    """Return the largest (sign 1) or smallest (-1) F2 of each scale, a constant to autodiff.

    As the reference of the exponentials it keeps them in (0, 1]; results do not depend on it.
    """
    far = jnp.asarray(-jnp.inf, f2.dtype)
    tiles = jnp.max(jnp.where(valid, sign * f2, far), axis=-1)
    extreme = jnp.full(scales, far).at[scale_of_tile].max(tiles)
    return lax.stop_gradient(jnp.where(extreme > far, sign * extreme, 1))


def _by_scale(tiles, scale_of_tile, scales):
    """Return sums [..., scale] of tile sums [..., tile].

    A product, since scatters are slow; by groups of tiles, since one long float32 sum would
    lose the digits that ln(mean) / q needs at small q.
    """
    group = 64
    fill = -tiles.shape[-1] % group
    tiles = jnp.pad(tiles, [(0, 0)] * (tiles.ndim - 1) + [(0, fill)])
    tiles = tiles.reshape(*tiles.shape[:-1], -1, group)
    number = np.pad(scale_of_tile, (0, fill), constant_values=scales).reshape(-1, group, 1)
    member = (jnp.asarray(number) == jnp.arange(scales)[None, None]).astype(tiles.dtype)
    sums = jnp.einsum("...gt,gts->g...s", tiles, member, precision=lax.Precision.HIGHEST)
    return jnp.sum(sums, axis=0)
