"""Linear parts of affine maps: which a kind allows, exponentials, rotations all around."""

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Kind = Literal["rigid", "similarity", "affine"]

# How many rotations go all around: in 3-D about 25 degrees lie between neighbors.
_ROTATIONS = {2: 24, 3: 600}


def of_kind(linear: Float[Array, "n n"], kind: Kind) -> Float[Array, "n n"]:
    """Return the closest rotation, times a scale for a similarity; an affine part as it is."""
    if kind == "affine":
        return linear
    left, _, right = jnp.linalg.svd(linear)
    rotation = left @ right
    size = jnp.linalg.det(linear) ** (1 / len(linear))
    return rotation if kind == "rigid" else size * rotation


def generators(kind: Kind, ndim: int) -> Float[np.ndarray, "number n n"]:
    """Return matrices whose sums have the linear parts as exponentials, `[number, n, n]`.

    Skew ones for rotations, the identity for a scale, the rest of the symmetric ones.
    """
    unit = np.eye(ndim * ndim).reshape(ndim, ndim, ndim, ndim)
    pairs = [(i, j) for i in range(ndim) for j in range(i)]
    basis = [unit[i, j] - unit[j, i] for i, j in pairs]
    if kind != "rigid":
        basis += [np.eye(ndim)]
    if kind == "affine":
        basis += [unit[i, j] + unit[j, i] for i, j in pairs]
        basis += [unit[i, i] - unit[i - 1, i - 1] for i in range(1, ndim)]
    return np.stack(basis)


def exponential(a: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return the exponential of a small matrix: squarings of a series of norms below 1.

    `expm` of this package is made for many matrices: its program takes longer to compile than
    all the rest here.
    """
    squarings, one = 4, jnp.eye(len(a), dtype=a.dtype)
    a = a / 2**squarings
    series = one
    for k in range(8, 0, -1):
        series = one + a @ series / k
    for _ in range(squarings):
        series = series @ series
    return series


def rotations(ndim: int) -> Float[np.ndarray, "rotation n n"]:
    """Return rotations spread evenly, `[rotation, ndim, ndim]`.

    Source: Alexa, "Super-Fibonacci spirals: fast, low-discrepancy sampling of SO(3)" (CVPR 2022).
    """
    n = _ROTATIONS[ndim]
    if ndim == 2:
        angle = 2 * np.pi * np.arange(n) / n
        return np.moveaxis(
            np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), -1, 0
        )
    s = np.arange(n) + 0.5
    a, b = 2 * np.pi * s / math.sqrt(2), 2 * np.pi * s / 1.533751168755204288118041
    r, q = np.sqrt(s / n), np.sqrt(1 - s / n)
    x, y, z, w = r * np.sin(a), r * np.cos(a), q * np.sin(b), q * np.cos(b)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
