"""Residual energies of every segment at scales b, 2b, 4b, ... in one pass over the series.

The state of a segment of L samples is what a least-squares fit of its profile leaves: the
coefficients c on the orthonormal polynomials of degree 0..m, the residual energy r, and the
sum S of its increments. Two neighbours merge by one constant orthogonal matrix [U1 U2]:

    z = [c_left ; c_right + S_left sqrt(L) e_0],   c = U1' z,   d = U2' z,
    r = r_left + r_right + |d|^2,                  S = S_left + S_right.

Only sums of squares occur, so float32 keeps its precision, and the profile is local to the
segment, so no cumulative sum over the series exists. The scales are those of ordinary
MFDFA at b 2^k, not an approximation of it.
"""

import functools
import operator
from collections.abc import Sequence
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def pyramid_products(
    blocks: Sequence[Float[Array, "channel _ _ _"]],
    order: int,
    pairs: Sequence[tuple[int, int]],
) -> list[Float[Array, "pair row _ _"]]:
    """Return sum(residual_i * residual_j) of every segment, one array an octave.

    Args:
      blocks: for each row (a base b and a direction of time) the increments, cut into base
        blocks by `base_blocks`: `[channel, 2**octaves, blocks, b]`.
      order: degree m of the polynomial trend of the profile.
      pairs: channels (i, j) whose residuals are multiplied; (i, i) is the energy.

    Returns:
      For k = 0..octaves the products at scales b 2**k, `[pair, row, 2**(octaves-k), blocks]`;
      the segments' places in time are `segment_index(octaves - k, blocks)`. Rows with fewer
      blocks than the longest one end in blocks of zeros.

    Source: fluctuation function of Kantelhardt et al. 2002 (Physica A 316:87), steps 1-3.
    """
    bases = [b.shape[-1] for b in blocks]
    octaves = blocks[0].shape[1].bit_length() - 1
    longest = max(b.shape[2] for b in blocks)
    states = [_base_state(_pad(b, longest, axis=2), order, pairs) for b in blocks]
    c, product, total = (jnp.stack(parts, axis=-3) for parts in zip(*states, strict=True))
    levels = [product]
    for k in range(octaves):
        lengths = [b * 2**k for b in bases]
        constants = np.stack([_merge_matrix(length, order) for length in lengths], axis=-1)
        merge = jnp.asarray(constants, product.dtype)[..., None, None]
        root = jnp.asarray(np.sqrt(lengths), product.dtype)[:, None, None]
        c, product, total = _merge(c, product, total, merge, root, order, pairs)
        levels.append(product)
    return levels


def base_blocks(
    series: Float[Array, "channel time"], base: int, octaves: int
) -> Float[Array, "channel order block base"]:
    """Return the series, padded with zeros, as blocks `[channel, 2**octaves, blocks, base]`.

    The blocks stand in bit-reversed order, so the two halves of every merge are contiguous
    reads; neighbours in time would be strided ones.
    """
    count = -(-series.shape[-1] // (base << octaves))
    padded = _pad(series, (count * base) << octaves, axis=1)
    in_time = padded.reshape(series.shape[0], count, 1 << octaves, base)
    return jnp.swapaxes(in_time, 1, 2)[:, segment_index(octaves, 1)[:, 0]]


def segment_index(octaves: int, blocks: int) -> np.ndarray:
    """Return the place in time `[2**octaves, blocks]` of each segment of a level."""
    reversed_bits = np.zeros(1, int)
    for _ in range(octaves):
        reversed_bits = np.concatenate([2 * reversed_bits, 2 * reversed_bits + 1])
    return reversed_bits[:, None] + (np.arange(blocks) << octaves)


def _pad(array, size, axis):
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, widths)


def _base_state(blocks, order, pairs):
    """Return c [m+1, channel, ...], products [pair, ...] and sums [channel, ...] of blocks."""
    basis = jnp.asarray(_base_matrix(blocks.shape[-1], order), blocks.dtype)
    # HIGHEST: the tensor cores' short mantissas would spoil the small residuals.
    fit = jnp.matmul(blocks, basis, precision=lax.Precision.HIGHEST)
    rest = fit[..., order + 1 :]
    product = jnp.stack([jnp.sum(rest[i] * rest[j], axis=-1) for i, j in pairs])
    return jnp.moveaxis(fit[..., : order + 1], -1, 0), product, jnp.sum(blocks, axis=-1)


def _merge(c, product, total, merge, root, order, pairs):
    half = product.shape[-2] // 2
    left, right = np.s_[..., :half, :], np.s_[..., half:, :]
    z = [c[i][left] for i in range(order + 1)] + [c[i][right] for i in range(order + 1)]
    z[order + 1] = z[order + 1] + root * total[left]
    mixed = [_total(merge[j, i] * z[j] for j in range(len(z))) for i in range(len(z))]
    detail = mixed[order + 1 :]
    gained = jnp.stack([_total(d[i] * d[j] for d in detail) for i, j in pairs])
    return (
        jnp.stack(mixed[: order + 1]),
        product[left] + product[right] + gained,
        total[left] + total[right],
    )


def _total(terms):
    return functools.reduce(operator.add, terms)


@lru_cache(maxsize=256)
def _base_matrix(length: int, order: int) -> np.ndarray:
    """Return M [b, b]: increments @ M = fit coefficients (m+1 columns), then residual ones."""
    times = (2 * np.arange(length) - length + 1) / length
    basis, r = np.linalg.qr(np.vander(times, order + 1, increasing=True), "complete")
    # The merge takes the polynomials with positive leading coefficients.
    basis[:, : order + 1] *= np.sign(np.diag(r))
    return np.tril(np.ones((length, length))).T @ basis


@lru_cache(maxsize=1024)
def _merge_matrix(length: int, order: int) -> np.ndarray:
    """Return [U1 U2]: U1 holds the polynomials on 2L samples in the bases of the halves.

    Multiplication by the centred sample index is tridiagonal in the orthonormal (Gram)
    polynomials of L samples, with off-diagonal b_n = (n/2) sqrt((L^2 - n^2)/(4 n^2 - 1));
    the three-term recurrence on 2L samples is run in that basis, shifted by -L/2 and +L/2.
    """
    n = np.arange(1, order + 2)
    off = lambda L: n / 2 * np.sqrt(np.maximum(L**2 - n**2, 0) / (4 * n**2 - 1)) / length
    jacobi = np.diag(off(length)[:-1], 1) + np.diag(off(length)[:-1], -1)
    parent = off(2 * length)
    halves = []
    for shift in (-0.5, 0.5):
        columns = [np.eye(order + 1)[0] / np.sqrt(2)]
        for j in range(order):
            column = jacobi @ columns[j] + shift * columns[j]
            column -= parent[j - 1] * columns[j - 1] if j else 0
            columns.append(column / parent[j])
        halves.append(np.stack(columns, axis=1))
    u1 = np.concatenate(halves)
    full, _ = np.linalg.qr(u1, "complete")
    return np.concatenate([u1, full[:, order + 1 :]], axis=1)
