"""Moments of l = ln F2 over the segments of a scale, by log-sum-exp, for every q at once.

K(q) = ln mean_v exp(q l_v / 2) is q ln F_q. Its derivative A(q) = sum_v mu_v l_v / 2 with the
weights mu_v = exp(q l_v / 2) / sum exp(q l / 2) makes alpha = d tau / dq exact: it is the
canonical measure of Chhabra and Jensen 1989 (PRL 62:1327).
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

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
    order = jnp.asarray(q, f2.dtype)[:, None]
    step = _common_step(q)
    if step is None:
        sums = _exponential_sums(f2, valid, scale_of_tile, scales, order)
    else:
        sums = _geometric_sums(f2, valid, scale_of_tile, scales, q, step)
    reference, log_mean, tilt = sums
    a = (reference + tilt) / 2
    zero = jnp.abs(order) < 1e-9
    log_f = jnp.where(zero, a, reference / 2 + log_mean / jnp.where(zero, 1, order))
    usable = jnp.zeros(scales, bool).at[scale_of_tile].max(jnp.any(valid, axis=-1))
    return jnp.where(usable, log_f, 0), jnp.where(usable, a, 0)


def _common_step(q: Orders) -> float | None:
    """Return the step of which every static q is a small multiple, else None."""
    if not isinstance(q, tuple):
        return None
    step = min((abs(v) for v in q if v), default=1.0)
    multiples = np.asarray(q) / step
    even = np.allclose(multiples, np.round(multiples), atol=1e-9)
    return step if even and np.abs(multiples).max() <= 4 * len(q) else None


def _geometric_sums(f2, valid, scale_of_tile, scales, q, step):
    """Powers of exp(step l / 2): one exponential a segment serves all q of one sign."""
    multiples = np.round(np.asarray(q) / step).astype(int)
    parts = []
    for sign in (-1, 1):
        reference = _extreme(f2, valid, scale_of_tile, scales, sign)
        # The logarithm of a ratio is exact to rounding where a difference of logarithms is not.
        delta = jnp.where(valid, jnp.log(f2 / reference[scale_of_tile, None]), 0)
        ratio = jnp.where(valid, jnp.exp(sign * step / 2 * delta), 0)

        def raise_power(power, _, delta=delta, ratio=ratio):
            power = power * ratio
            return power, (jnp.sum(power, axis=-1), jnp.sum(power * delta, axis=-1))

        start = valid.astype(f2.dtype)
        first = (jnp.sum(start, axis=-1), jnp.sum(delta, axis=-1))
        top = max(0, int((sign * multiples).max()))
        _, sums = lax.scan(raise_power, start, None, length=top)
        total, weighted = (
            _by_scale(jnp.concatenate([f[None], s]), scale_of_tile, scales)
            for f, s in zip(first, sums, strict=True)
        )
        chosen = np.clip(sign * multiples, 0, top)
        spread = jnp.broadcast_to(jnp.log(reference), (len(q), scales))
        parts.append((spread, total[chosen], weighted[chosen]))
    reference, total, weighted = (
        jnp.where((multiples > 0)[:, None], up, down) for down, up in zip(*parts, strict=True)
    )
    count = _by_scale(jnp.sum(valid, axis=-1)[None].astype(f2.dtype), scale_of_tile, scales)
    filled = jnp.where(count > 0, total, 1)
    return reference, jnp.log(filled / jnp.maximum(count, 1)), weighted / filled


def _exponential_sums(f2, valid, scale_of_tile, scales, order):
    """One exponential a segment and q, for any q, traced ones included."""
    by_scale = lambda tiles: _by_scale(tiles[None], scale_of_tile, scales)[0]
    count = by_scale(jnp.sum(valid, axis=-1).astype(f2.dtype))
    safe = jnp.maximum(count, 1)
    log_f2 = jnp.log(f2)
    mean = lax.stop_gradient(by_scale(jnp.sum(jnp.where(valid, log_f2, 0), axis=-1)) / safe)
    low, high = (_extreme(f2, valid, scale_of_tile, scales, sign) for sign in (-1, 1))

    def one(q):
        # Near q = 0 the sum is of exp(.) - 1 about the mean: ln(mean)/q would lose all digits.
        small = jnp.abs(q) < 0.1
        reference = jnp.where(small, mean, jnp.where(q > 0, jnp.log(high), jnp.log(low)))
        delta = jnp.where(valid, log_f2 - reference[scale_of_tile, None], 0)
        exponent = q / 2 * delta
        power = jnp.where(valid, jnp.exp(exponent), 0)
        total = by_scale(jnp.sum(power, axis=-1))
        excess = by_scale(jnp.sum(jnp.where(valid & small, jnp.expm1(exponent), 0), axis=-1))
        weighted = by_scale(jnp.sum(power * delta, axis=-1))
        filled = jnp.where(count > 0, total, 1)
        log_mean = jnp.where(small, jnp.log1p(excess / safe), jnp.log(filled / safe))
        return reference, log_mean, weighted / filled

    return lax.map(one, order[:, 0])


def _extreme(f2, valid, scale_of_tile, scales, sign):
    """Return the largest (sign 1) or smallest (-1) F2 of each scale, a constant to autodiff.

    As the reference of the exponentials it keeps them in (0, 1]; results do not depend on it.
    """
    far = jnp.asarray(-jnp.inf, f2.dtype)
    tiles = jnp.max(jnp.where(valid, sign * f2, far), axis=-1)
    extreme = jnp.full(scales, far).at[scale_of_tile].max(tiles)
    return lax.stop_gradient(jnp.where(extreme > far, sign * extreme, 1))


def _by_scale(tiles, scale_of_tile, scales):
    """Return sums [q, scale] of tile sums [q, tile].

    A product, since scatters are slow; by groups of tiles, since one long float32 sum would
    lose the digits that ln(mean) / q needs at small q.
    """
    group = 64
    fill = -tiles.shape[-1] % group
    tiles = jnp.pad(tiles, ((0, 0), (0, fill))).reshape(tiles.shape[0], -1, group)
    number = np.pad(scale_of_tile, (0, fill), constant_values=scales).reshape(-1, group, 1)
    member = (jnp.asarray(number) == jnp.arange(scales)).astype(tiles.dtype)
    sums = jnp.einsum("qgt,gts->gqs", tiles, member, precision=lax.Precision.HIGHEST)
    return jnp.sum(sums, axis=0)
