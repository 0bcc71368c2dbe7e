"""Poisson equation on a regular grid, by sine or cosine transforms."""

import functools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxml import checks

Boundary = Literal["dirichlet", "neumann"]


def poisson_solve(
    rhs: Float[Array, "*volume"], *, boundary: Boundary = "dirichlet"
) -> Float[Array, "*volume"]:
    """Return f with Laplacian(f) = rhs, where the Laplacian sums second differences of axes.

    "dirichlet": f is 0 on the first and last plane of each axis, where rhs is not used; DST-I.
    "neumann": f repeats its border outside, and both f and the rhs used have mean 0; DCT-II.

    The transforms are products with dense matrices, in which no axis is cut or padded: up to
    some hundred voxels an axis they beat the FFT. Linear and self-adjoint: its VJP is itself.

    Args:
      rhs: `[D, H, W]` or of any other number of axes of 3 voxels or more.
      boundary: condition on all faces.

    Returns:
      f, shape and dtype of `rhs`.

    Raises:
      ValueError: an axis is shorter than 3, or `boundary` is unknown.
    """
    if rhs.ndim < 1 or min(rhs.shape) < 3:
        raise checks.refused("rhs", rhs, "axes of 3 voxels or more")
    checks.floating(rhs=rhs)
    checks.choice(get_args(Boundary), boundary=boundary)
    return solve_within(rhs, boundary=boundary, ghosts=0)


def solve_within(
    rhs: Float[Array, "*padded"], *, boundary: Boundary, ghosts: int
) -> Float[Array, "*volume"]:
    """Return the solution on the volume within `ghosts` planes of rhs at each face, not used."""
    matrices = [transform_matrix(n - 2 * ghosts, boundary) for n in rhs.shape]
    spectrum = rhs
    for axis in reversed(range(rhs.ndim)):
        spectrum = transform(spectrum, axis, np.pad(matrices[axis], ((0, 0), (ghosts, ghosts))))
    values = [eigenvalues(n, boundary) for n in spectrum.shape]
    spectrum = spectrum * inverse_eigenvalues(values, boundary).astype(rhs.dtype)
    for axis in range(rhs.ndim):
        spectrum = transform(spectrum, axis, matrices[axis].T)
    return spectrum


def transform(x: Array, axis: int, matrix: np.ndarray) -> Array:
    """Multiply an axis by a matrix where it lies: turning axes costs more than the product."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    lead, trail = math.prod(before), math.prod(after)
    factor = jnp.asarray(matrix, x.dtype)
    multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    if trail == 1:
        y = multiply(x.reshape(lead, -1), factor.T)
    else:
        factors = jnp.broadcast_to(factor, (lead, *factor.shape))
        y = multiply(factors, x.reshape(lead, -1, trail))
    return y.reshape(*before, -1, *after)


def transform_matrix(n: int, boundary: Boundary) -> np.ndarray:
    """Return the orthonormal transform of an axis: row = frequency, column = voxel.

    The sine matrix keeps the border voxels and two empty frequencies: all of these entries
    are 0, so that nothing needs to be cut off (which made the solver several times slower).
    """
    voxel = np.arange(n)
    frequency = voxel[:, None]
    if boundary == "dirichlet":
        inner = (voxel > 0) & (voxel < n - 1)
        sine = np.sqrt(2 / (n - 1)) * np.sin(np.pi * (frequency * voxel % (2 * n - 2)) / (n - 1))
        return sine * inner * inner[:, None]
    cosine = np.sqrt(2 / n) * np.cos(np.pi * (frequency * (2 * voxel + 1) % (4 * n)) / (2 * n))
    return np.where(frequency == 0, np.sqrt(1 / n), cosine)


def eigenvalues(n: int, boundary: Boundary) -> np.ndarray:
    """Return those of the second difference of an axis, one a frequency."""
    return 2 * np.cos(np.pi * np.arange(n) / (n - 1 if boundary == "dirichlet" else n)) - 2


def inverse_eigenvalues(axes: Sequence[Array | np.ndarray], boundary: Boundary) -> Array:
    """Return 1 / eigenvalue of the Laplacian for each frequency, 0 where there is no solution.

    Args:
      axes: `eigenvalues` of each axis.
      boundary: condition on all faces.
    """
    grid = functools.partial(jnp.meshgrid, indexing="ij", sparse=True)
    total = functools.reduce(jnp.add, grid(*map(jnp.asarray, axes)))
    solvable = functools.reduce(
        jnp.logical_and if boundary == "dirichlet" else jnp.logical_or,
        grid(*(jnp.asarray(a < -1e-12) for a in axes)),
    )
    return jnp.where(solvable, 1 / jnp.where(solvable, total, -1), 0)
