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
    series: Float[Array, "direction channel time"],
    bases: Sequence[int],
    octaves: int,
    order: int,
    pairs: Sequence[tuple[int, int]],
) -> list[Float[Array, "pair row _ _"]]:
    """Return sum(residual_i * residual_j) of every segment, one array an octave.

    Args:
      series: `[direction, channel, time]`; the directions of time are analysed apart.
      bases: b of each family of scales b 2**k, k = 0..octaves.
      octaves: number of doublings.
      order: degree m of the polynomial trend of the profile.
      pairs: channels (i, j) whose residuals are multiplied; (i, i) is the energy.

    Returns:
      For k = 0..octaves the products at scales b 2**k, `[pair, row, 2**(octaves-k), blocks]`,
      a row for every direction of the first base, then of the next; the segments' places in
      time are `segment_index(octaves - k, blocks)`. Segments that are not whole, beyond the
      end of a series, hold anything.

    Source: fluctuation function of Kantelhardt et al. 2002 (Physica A 316:87), steps 1-3.
    """
    longest = max(-(-(series.shape[-1] // base) // (1 << octaves)) for base in bases)
    states = [_base_state(series, base, longest << octaves, order, pairs) for base in bases]
    # Blocks stand in bit-reversed order, so that the two halves of every merge are contiguous
    # reads; neighbours in time would be strided ones.
    index = segment_index(octaves, longest)
    c, product, total = (
        jnp.concatenate(parts, axis=-2)[..., index] for parts in zip(*states, strict=True)
    )
    levels = [product]
    rows = np.repeat(bases, len(series))
    for k in range(octaves):
        lengths = [int(base) << k for base in rows]
        constants = np.stack([_merge_matrix(length, order) for length in lengths], axis=-1)
        merge = jnp.asarray(constants, product.dtype)[:, :, None, :, None, None]
        root = jnp.asarray(np.sqrt(lengths), product.dtype)[None, :, None, None]
        merged = _merge(c, product, total, merge, root, order, pairs)
        # Else compilers work out a level anew for each of its uses.
        c, product, total = lax.optimization_barrier(merged)
        levels.append(product)
    return levels


def segment_index(octaves: int, blocks: int) -> np.ndarray:
    """Return the place in time `[2**octaves, blocks]` of each segment of a level."""
    reversed_bits = np.zeros(1, int)
    for _ in range(octaves):
        reversed_bits = np.concatenate([2 * reversed_bits, 2 * reversed_bits + 1])
    return reversed_bits[:, None] + (np.arange(blocks) << octaves)


def _base_state(series, base, count, order, pairs):
    """Return c [m+1, channel, direction, count], products [pair, direction, count] and sums
    [channel, direction, count] of the blocks of `base` samples.
    """
    whole = series.shape[-1] // base
    blocks = series[..., : whole * base].reshape(*series.shape[:-1], whole, base)
    matrix = _base_matrix(base, order)
    # HIGHEST: the tensor cores' short mantissas would spoil the small residuals.
    multiply = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    # Two products: what is kept as it is, and what is squared and summed at once.
    kept = [*range(order + 1), -1]
    fit = multiply(blocks, jnp.asarray(matrix[:, kept], series.dtype))
    residual = multiply(blocks, jnp.asarray(matrix[:, order + 1 : -1], series.dtype))
    product = jnp.stack([jnp.sum(residual[:, i] * residual[:, j], axis=-1) for i, j in pairs])
    fit = jnp.transpose(fit, (3, 1, 0, 2))
    pad = lambda a: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, count - whole)])
    return pad(fit[: order + 1]), pad(product), pad(fit[-1])


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
    """Return M [b, b + 1]: increments @ M = fit coefficients (m+1), residual ones, their sum."""
    times = (2 * np.arange(length) - length + 1) / length
    basis, r = np.linalg.qr(np.vander(times, order + 1, increasing=True), "complete")
    # The merge takes the polynomials with positive leading coefficients.
    basis[:, : order + 1] *= np.sign(np.diag(r))
    fit = np.tril(np.ones((length, length))).T @ basis
    return np.concatenate([fit, np.ones((length, 1))], axis=1)


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
