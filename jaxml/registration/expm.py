"""Exponential of 3x3 and 2x2 matrices in closed ring form, without eigenvalues."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

# Terms of the Taylor series and largest norm at which they reach rounding error.
_SERIES = {"float32": (18, 4.0), "float64": (28, 4.0)}
# Squarings: norms up to 4.0 * 2**5 = 128 are scaled into the reach of the series.
_SQUARINGS = 5


def expm3(a: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3 3"]:
    """Return the exponential of each 3x3 matrix.

    By Cayley-Hamilton every power of the traceless part A of `a` is a combination of I, A and
    A^2, with A^3 = m A + d I. Series and squarings run on the three coefficients alone, which
    takes one matrix product in all, and is smooth where eigenvalues coincide. Norms up to 128.

    Args:
      a: matrices; float32 or float64, the result has the same type.

    Raises:
      ValueError: the last two axes are not 3 x 3, or `a` is not floating-point.
    """
    _check(a, 3)
    rows = exp_planes([[a[..., i, j] for j in range(3)] for i in range(3)])
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def expm2(a: Float[Array, "*batch 2 2"]) -> Float[Array, "*batch 2 2"]:
    """Return the exponential of each 2x2 matrix, e^t (C(q) I + S(q) A), A traceless, A^2 = q I.

    Args:
      a: matrices; float32 or float64, the result has the same type.

    Raises:
      ValueError: the last two axes are not 2 x 2, or `a` is not floating-point.
    """
    _check(a, 2)
    rows = exp_planes([[a[..., i, j] for j in range(2)] for i in range(2)])
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def exp_planes(a: list[list[Array]]) -> list[list[Array]]:
    """Return the exponential of matrices given as planes: `a[i][j]` holds all entries i, j."""
    return _exp3(a) if len(a) == 3 else _exp2(a)


def _exp3(a: list[list[Array]]) -> list[list[Array]]:
    mean = (a[0][0] + a[1][1] + a[2][2]) / 3
    terms, reach = _SERIES[mean.dtype.name]
    squarings = _needed_squarings(a, reach)
    scale = jnp.exp2(-squarings)
    traceless = [
        [(a[i][j] - mean if i == j else a[i][j]) * scale for j in range(3)] for i in range(3)
    ]
    (p, q, r), (s, t, u), (v, w, x) = traceless
    # Traceless: A^3 = m A + d I with m = -(sum of the principal 2x2 minors), d = det A.
    m = q * s + r * v + u * w - p * t - p * x - t * x
    d = p * (t * x - u * w) - q * (s * x - u * v) + r * (s * w - t * v)
    # Horner's scheme of the series: X <- I + A X / k with X = c0 I + c1 A + c2 A^2.
    c0, c1, c2 = jnp.ones_like(m), jnp.full_like(m, 1 / terms), jnp.zeros_like(m)
    for k in range(terms - 1, 0, -1):
        c0, c1, c2 = 1 + c2 * d / k, (c0 + c2 * m) / k, c1 / k
    for k in range(_SQUARINGS):
        cubic, quartic = 2 * c1 * c2, c2 * c2
        squared = (
            c0 * c0 + cubic * d,
            2 * c0 * c1 + cubic * m + quartic * d,
            2 * c0 * c2 + c1 * c1 + quartic * m,
        )
        more = k < squarings
        c0, c1, c2 = (
            jnp.where(more, new, old) for new, old in zip(squared, (c0, c1, c2), strict=True)
        )
    growth = jnp.exp(mean)
    square = [
        [sum(traceless[i][k] * traceless[k][j] for k in range(3)) for j in range(3)]
        for i in range(3)
    ]
    return [
        [
            growth * (c1 * traceless[i][j] + c2 * square[i][j] + (c0 if i == j else 0))
            for j in range(3)
        ]
        for i in range(3)
    ]


def _exp2(a: list[list[Array]]) -> list[list[Array]]:
    mean = (a[0][0] + a[1][1]) / 2
    half = (a[0][0] - a[1][1]) / 2
    # A^2 = q I: cosh and sinh of sqrt(q), cos and sin of sqrt(-q), the series where q is small.
    q = half * half + a[0][1] * a[1][0]
    small = jnp.abs(q) < 0.25
    root = jnp.sqrt(jnp.where(small, 1, jnp.abs(q)))
    near = jnp.where(small, q, 0)
    even, odd = jnp.ones_like(q), jnp.ones_like(q)
    for k in range(9, 0, -1):
        even, odd = 1 + near * even / (2 * k * (2 * k - 1)), 1 + near * odd / (2 * k * (2 * k + 1))
    far_even = jnp.where(q > 0, jnp.cosh(root), jnp.cos(root))
    far_odd = jnp.where(q > 0, jnp.sinh(root), jnp.sin(root)) / root
    growth = jnp.exp(mean)
    c, s = growth * jnp.where(small, even, far_even), growth * jnp.where(small, odd, far_odd)
    return [[c + s * half, s * a[0][1]], [s * a[1][0], c - s * half]]


def _needed_squarings(a: list[list[Array]], reach: float) -> Array:
    """Halvings that bring the largest row sum below `reach`, as a floating-point count.

    Sums of moduli hold no product that could be fused into them. A norm of squares may be
    rounded in two ways where a compiler computes it twice, and scaling and squarings disagree.
    """
    norm = functools.reduce(jnp.maximum, [sum(jnp.abs(entry) for entry in row) for row in a])
    return sum((norm > reach * 2.0**k).astype(norm.dtype) for k in range(_SQUARINGS))


def _check(a: Array, n: int) -> None:
    if a.ndim < 2 or a.shape[-2:] != (n, n):
        raise ValueError(f"a: shape {a.shape}; accepted is [..., {n}, {n}]")
    if a.dtype.name not in _SERIES:
        raise ValueError(f"a: dtype {a.dtype}; accepted are float32 and float64")
