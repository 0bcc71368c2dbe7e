"""Exponential of 3x3 and 2x2 matrices in closed ring form, without eigenvalues."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.registration._flat import total

# Terms of the Taylor series and largest norm at which they reach rounding error; the norm of
# the traceless part, which the series is of, may be 4/3 of it.
_SERIES = {"float32": (18, 3.0), "float64": (28, 3.0)}
# Squarings: norms up to 3.0 * 2**5 = 96 are scaled into the reach of the series.
_SQUARINGS = 5


def expm(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """Return the exponential of each 2x2 or 3x3 matrix.

    Of 3x3: by Cayley-Hamilton every power of the traceless part A of `a` is a combination of I,
    A and A^2, with A^3 = m A + d I. Series and squarings run on the three coefficients alone,
    which takes one matrix product in all, and is smooth where eigenvalues coincide. Norms up to
    96. Of 2x2: e^t (C(q) I + S(q) A), A traceless, A^2 = q I.
    float32 matrices are worked on in float64, whether or not JAX allows it elsewhere, and the
    result is rounded once; derivatives are float32 throughout.

    Args:
      a: matrices `[..., 2, 2]` or `[..., 3, 3]`; float32 or float64.

    Returns:
      Shape and dtype of `a`.

    Raises:
      ValueError: the last two axes are neither 2 x 2 nor 3 x 3, or `a` is neither float32
        nor float64.
    """
    if a.ndim < 2 or a.shape[-2:] not in ((2, 2), (3, 3)):
        raise checks.refused("a", a, "[..., 2, 2] or [..., 3, 3]")
    checks.single_or_double(a=a)
    return _rounded_once(a) if a.dtype == jnp.float32 else _exponential(a)


@jax.custom_jvp
def _rounded_once(a: Array) -> Array:
    # The eigenvalues come from m and d: rounded to float32, these alone cost 1e-7 times the norm.
    with jax.enable_x64(True):
        return _exponential(a.astype(jnp.float64)).astype(jnp.float32)


@_rounded_once.defjvp
def _rounded_once_jvp(primals, tangents):
    return _rounded_once(*primals), jax.jvp(_exponential, primals, tangents)[1]


def _exponential(a: Array) -> Array:
    n = a.shape[-1]
    return as_matrices(exp_planes([[a[..., i, j] for j in range(n)] for i in range(n)]))


def as_matrices(rows: list[list[Array]]) -> Float[Array, "*batch n n"]:
    """Return planes of the entries of a matrix, row by row, as one array of matrices."""
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


# A call outside of jit would compile the branches anew each time.
@jax.jit
def exp_planes(a: list[list[Array]]) -> list[list[Array]]:
    """Return the exponential of matrices as planes: `a[i][j]` holds all entries i, j.

    In float32 the relative error is below 5e-7 up to norm 4, then 1.5e-7 times the norm.
    """
    return _exp3(a) if len(a) == 3 else _exp2(a)


def _exp3(a: list[list[Array]]) -> list[list[Array]]:
    mean = (a[0][0] + a[1][1] + a[2][2]) / 3
    traceless = [[a[i][j] - mean if i == j else a[i][j] for j in range(3)] for i in range(3)]
    (p, q, r), (s, t, u), (v, w, x) = traceless
    # Traceless: A^3 = m A + d I with m = -(sum of the principal 2x2 minors), d = det A.
    m = q * s + r * v + u * w - p * t - p * x - t * x
    d = p * (t * x - u * w) - q * (s * x - u * v) + r * (s * w - t * v)
    growth = jnp.exp(mean)
    c0, c1, c2 = (growth * c for c in _ring(m, d, _needed_squarings(a)))
    square = [
        [total(traceless[i][k] * traceless[k][j] for k in range(3)) for j in range(3)]
        for i in range(3)
    ]
    return [
        [c1 * traceless[i][j] + c2 * square[i][j] + (c0 if i == j else 0) for j in range(3)]
        for i in range(3)
    ]


@jax.custom_jvp
def _ring(m: Array, d: Array, squarings: Array) -> tuple[Array, Array, Array]:
    """Coefficients of exp A = c0 I + c1 A + c2 A^2 where A^3 = m A + d I."""
    return apart(_coefficients, m, d, squarings)


@_ring.defjvp
def _ring_jvp(primals, tangents):
    m, d, squarings = primals
    # Two inputs, three outputs: slopes are cheaper forward, for the backward pass too. The
    # number of squarings changes rounding alone.
    by_m, by_d = apart(lambda *pair: pair, *tangents[:2])
    c, slopes_m, slopes_d = apart(_coefficients_and_slopes, m, d, squarings)
    return c, tuple(sm * by_m + sd * by_d for sm, sd in zip(slopes_m, slopes_d, strict=True))


def _coefficients_and_slopes(m: Array, d: Array, squarings: Array):
    one = jnp.ones_like(m)
    c, slopes_m = jax.jvp(lambda m: _coefficients(m, d, squarings), (m,), (one,))
    _, slopes_d = jax.jvp(lambda d: _coefficients(m, d, squarings), (d,), (one,))
    return c, slopes_m, slopes_d


def _coefficients(m: Array, d: Array, squarings: Array) -> tuple[Array, Array, Array]:
    scale = jnp.exp2(-squarings)
    m, d = m * scale**2, d * scale**3
    # A^n = h_(n-2) A^2 + h_(n-1) A + h_(n-3) d I, h_0 = 1 and none before.
    c = (1 + d * _series(m, d, 3), _series(m, d, 1), _series(m, d, 2))
    square = lambda c: _square(c, m, d, squarings)
    c0, c1, c2 = jax.lax.cond(jnp.any(squarings > 0), square, lambda c: c, c)
    return c0, scale * c1, scale**2 * c2


def _series(m: Array, d: Array, k: int) -> Array:
    """Sum of h_n / (n + k)! with h_n = m h_(n-2) + d h_(n-3), by Clenshaw's recurrence."""
    terms, _ = _SERIES[m.dtype.name]
    b = b1 = b2 = jnp.zeros_like(m)
    for n in range(terms - k, -1, -1):
        b, b1, b2 = 1 / math.factorial(n + k) + m * b1 + d * b2, b, b1
    return b


def _square(c: tuple[Array, Array, Array], m: Array, d: Array, squarings: Array):
    for k in range(_SQUARINGS):
        c0, c1, c2 = c
        cubic, quartic = 2 * c1 * c2, c2 * c2
        squared = (
            c0 * c0 + cubic * d,
            2 * c0 * c1 + cubic * m + quartic * d,
            2 * c0 * c2 + c1 * c1 + quartic * m,
        )
        c = jax.tree.map(functools.partial(jnp.where, k < squarings), squared, c)
    return c


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
    # An infinite cosh of a rotation would make the gradient NaN, used or not.
    grows = jnp.where(q > 0, root, 1)
    far_even = jnp.where(q > 0, jnp.cosh(grows), jnp.cos(root))
    far_odd = jnp.where(q > 0, jnp.sinh(grows), jnp.sin(root)) / root
    growth = jnp.exp(mean)
    c, s = growth * jnp.where(small, even, far_even), growth * jnp.where(small, odd, far_odd)
    return [[c + s * half, s * a[0][1]], [s * a[1][0], c - s * half]]


def apart(f: Callable, *args: Any) -> Any:
    """Return f(*args), compiled apart from what `args` come from and what it is used for.

    Else compilers compute it anew at each of its uses, which takes many times as long. A
    branch is compiled for itself; the barrier hides that its condition always holds.
    """
    zeros = lambda *args: jax.tree.map(jnp.zeros_like, jax.eval_shape(f, *args))
    return jax.lax.cond(jax.lax.optimization_barrier(jnp.bool_(True)), f, zeros, *args)


def _needed_squarings(a: list[list[Array]]) -> Array:
    """Halvings that bring the largest row sum into the reach of the series, a float count."""
    _, reach = _SERIES[a[0][0].dtype.name]
    norm = functools.reduce(jnp.maximum, [total(map(jnp.abs, row)) for row in a])
    count = total((norm > reach * 2.0**k).astype(norm.dtype) for k in range(_SQUARINGS))
    return jax.lax.stop_gradient(count)
