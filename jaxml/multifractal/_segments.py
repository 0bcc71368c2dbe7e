"""Residual products F2(v, s) of every segment at every scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxml.multifractal._pyramid import pyramid_products, segment_index

# Segments per tile: a tile holds segments of one scale, so sums over a scale vectorise.
TILE = 64


@dataclass(frozen=True)
class Segments:
    """F2 of all segments in tiles of one scale each.

    Attributes:
      product: F2, `[pair, tile, TILE]`.
      valid: whether a segment lies inside the series, `[tile, TILE]`.
      scale_of_tile: number of the scale of each tile, `[tile]`.
      count: segments inside the series at each scale, `[scale]`: 2 N_s, or N_s of `mfdma`.
    """

    product: Float[Array, "pair tile segment"]
    valid: Bool[Array, "tile segment"]
    scale_of_tile: np.ndarray
    count: Int[Array, "scale"]


def segment_products(
    series: Float[Array, "channel time"],
    length: Int[Array, ""],
    scales: tuple[int, ...],
    order: int,
    pairs: Sequence[tuple[int, int]],
) -> Segments:
    """Return F2 = sum(residual_i * residual_j) / s for the 2 N_s segments of each scale.

    Args:
      series: increments, zero from `length` on.
      length: number of valid samples, may be traced; N_s = length // s.
      scales: static segment lengths in samples, each at least `order + 2`.
      order: degree of the polynomial trend of the profile.
      pairs: channels (i, j) to multiply.

    Source: Kantelhardt et al. 2002, steps 2 and 3.
    """
    # Segments from the end are segments of the reversed profile. Its increments are those of
    # the series reversed, one later (signs and the first increment do not matter to a fit).
    at_end = jnp.roll(series, series.shape[-1] - length, axis=-1)
    backward = jnp.pad(at_end[:, :0:-1], ((0, 0), (1, 0)))
    directions = (series, backward)

    doublings, direct = _families(scales)
    tiles = [_direct_tiles(directions, length, s, order, pairs) for s in direct]
    row_scales = [[s] * len(directions) for s in direct]
    if doublings:
        octaves = max(max(ks) for ks in doublings.values())
        rows = [base for base in doublings for _ in directions]
        both = jnp.stack(directions)
        for k, level in enumerate(pyramid_products(both, [*doublings], octaves, order, pairs)):
            asked = [k in doublings[base] for base in rows]
            sizes = [base << k for base in rows]
            if any(asked):
                sizes = np.asarray(sizes)[asked]
                level = level if all(asked) else level[:, np.flatnonzero(asked)]
                f2 = level / jnp.asarray(sizes, level.dtype)[None, :, None, None]
                index = segment_index(octaves - k, level.shape[-1])
                tiles.append(_tiles(f2, index, length // jnp.asarray(sizes, length.dtype)))
                row_scales.append(sizes.tolist())
    count = 2 * (length // jnp.asarray(scales, length.dtype))
    return _collect(tiles, [[scales.index(s) for s in sizes] for sizes in row_scales], count)


def moving_average_residuals(
    x: Float[Array, " time"], length: Int[Array, ""], scales: tuple[int, ...], theta: float
) -> Segments:
    """Return F2 of the profile less its moving average over s samples, segments from the start.

    The window of s samples ends floor((s - 1) theta) samples after the one it is taken from:
    backward at theta = 0, centred at 0.5, forward at 1. N_s = (length - s + 1) // s.

    Source: Gu and Zhou 2010 (PRE 82:011136), equations 2 to 6.
    """
    tiles = []
    for s in scales:
        count = (x.shape[0] - s + 1) // s
        blocks = jnp.pad(x, (0, max(0, (count + 1) * s - x.shape[0])))[: (count + 1) * s]
        blocks = blocks.reshape(count + 1, s)
        # The profile from the start of each segment: large numbers would cost float32 digits.
        profile = jnp.cumsum(jnp.concatenate([blocks[:-1], blocks[1:]], axis=1), axis=1)
        integral = jnp.pad(jnp.cumsum(profile, axis=1), ((0, 0), (1, 0)))
        average = (integral[:, s : 2 * s] - integral[:, :s]) / s
        place = s - 1 - math.floor((s - 1) * theta)
        residual = profile[:, place : place + s] - average
        f2 = jnp.mean(residual**2, axis=1)
        tiles.append(_tiles(f2[None, None], np.arange(count), (length - s + 1)[None] // s))
    sizes = jnp.asarray(scales, length.dtype)
    count = jnp.maximum((length - sizes + 1) // sizes, 0)
    return _collect(tiles, [[i] for i in range(len(scales))], count)


def _families(scales):
    """Split scales into {base: octaves} of the pyramid and those that no small base reaches."""
    lowest = min(16, *scales)
    doublings, direct = {}, []
    for s in scales:
        base, octaves = s, 0
        while base % 2 == 0 and base // 2 >= lowest:
            base, octaves = base // 2, octaves + 1
        if base < 2 * lowest:
            doublings.setdefault(base, []).append(octaves)
        else:
            direct.append(s)
    return doublings, direct


def _direct_tiles(directions, length, s, order, pairs):
    """Fit every segment of one scale explicitly."""
    count = directions[0].shape[-1] // s
    blocks = jnp.stack([d[:, : count * s].reshape(-1, count, s) for d in directions], axis=1)
    profile = jnp.cumsum(blocks, axis=-1)
    basis, _ = np.linalg.qr(np.vander((2 * np.arange(s) - s + 1) / s, order + 1))
    basis = jnp.asarray(basis, profile.dtype)
    # y - Q (Q' y): the residual itself, since |y|^2 - |Q' y|^2 would cancel.
    fit = jnp.matmul(profile, basis, precision=lax.Precision.HIGHEST)
    residual = profile - jnp.matmul(fit, basis.T, precision=lax.Precision.HIGHEST)
    product = jnp.stack([jnp.sum(residual[i] * residual[j], axis=-1) for i, j in pairs])
    return _tiles(product / s, np.arange(count), jnp.broadcast_to(length // s, len(directions)))


def _tiles(f2, index, count):
    """Return F2 `[pair, row, tile, TILE]` and validity from F2 `[pair, row, ...]`.

    A row holds the segments of one scale and direction; those of them are valid whose place
    in time, `index` of the shape `...`, is below `count[row]`.
    """
    fill = -index.size % TILE
    f2 = jnp.pad(f2.reshape(*f2.shape[:2], -1), ((0, 0), (0, 0), (0, fill)))
    f2 = f2.reshape(*f2.shape[:2], -1, TILE)
    index = np.pad(index.ravel(), (0, fill), constant_values=2**30).reshape(-1, TILE)
    return f2, jnp.asarray(index, count.dtype)[None] < count[:, None, None]


def _collect(pieces, row_scales, count):
    """Join pieces of tiles, row r of piece i being of scale number `row_scales[i][r]`."""
    join = lambda parts: jnp.concatenate(
        [p.reshape(*p.shape[:-3], -1, TILE) for p in parts], axis=-2
    )
    f2, valid = (join(parts) for parts in zip(*pieces, strict=True))
    numbers = [
        np.repeat(np.asarray(numbers), valid.shape[1])
        for numbers, (_, valid) in zip(row_scales, pieces, strict=True)
    ]
    return Segments(f2, valid, np.concatenate(numbers), count)
