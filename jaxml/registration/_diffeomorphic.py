"""The diffeomorphic layer: a field whose Jacobian is closest to a matrix exponential.

exp(J) of the Jacobian J of a displacement has a positive determinant, e^(tr J), everywhere.
The layer returns the displacement whose Laplacian is the divergence of exp(J). Its own
Jacobian equals exp(J) - I only as far as that is a gradient, so folds become fewer, not none.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml.registration import _tetrahedra as tetrahedra
from jaxml.registration._expm import apart, exp_planes
from jaxml.registration._field import check_field, components, jacobian
from jaxml.registration._poisson import Boundary, solve_within

# Voxels that the forward pass works on at a time.
_CHUNK = 1 << 16


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["displacement", "exponential"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Result of `diffeomorphic_layer`.

    Attributes:
      displacement: the field, in voxels.
      exponential: exp of the Jacobian of the displacement given: row = component.
    """

    displacement: Float[Array, "*volume ndim"]
    exponential: Float[Array, "*volume ndim ndim"]


def diffeomorphic_layer(
    u: Float[Array, "*volume ndim"], *, boundary: Boundary = "dirichlet"
) -> Reconstruction:
    """Return the field with Laplacian = div exp(J_u), J_u by forward differences.

    The backward pass computes the exponential again, so that none of it is kept.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      boundary: "dirichlet", 0 on all faces, the form of the paper; or "neumann", the least
        squares fit of the gradient to exp(J_u) - I with the mean of `u`.

    Raises:
      ValueError: `u` is no field or not finite, or `boundary` is unknown.

    Source: Pal, Tennant and Ray, "Towards positive Jacobian: learn to postprocess diffeomorphic
    image registration with matrix exponential" (arXiv 2202.00749).
    """
    check_field(u)
    grid = tetrahedra.layout(u.shape[:-1])
    sources, exponential = _sources(u, grid, boundary)
    solved = [solve_within(s, boundary=boundary, ghosts=1) for s in sources]
    if boundary == "neumann":
        solved = [s + jnp.mean(p) for s, p in zip(solved, components(u), strict=True)]
    return Reconstruction(jnp.stack(solved, axis=-1), as_matrices(exponential))


def poisson_loss(reconstruction: Reconstruction, *, released: bool = False) -> Float[Array, ""]:
    """Return the mean square of exp(J_u) - (I + J_u'), u' the field the layer returned.

    Args:
      reconstruction: result of `diffeomorphic_layer`.
      released: leave I out, as the code released with the paper does.
    """
    gradient = jacobian(reconstruction.displacement)
    if not released:
        gradient = gradient + jnp.eye(gradient.shape[-1], dtype=gradient.dtype)
    return jnp.mean((reconstruction.exponential - gradient) ** 2)


# A call outside of jit would compile the branches of the exponential anew each time.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _sources(
    u: Array, grid: tetrahedra.Layout, boundary: str
) -> tuple[list[Array], list[list[Array]]]:
    """Backward divergence of the rows of the exponential, with ghosts, and the exponential."""
    exponential: Any = _exponential(u, grid)
    whole = jax.tree.map(lambda plane: tetrahedra.interior(plane, grid), exponential)
    if boundary == "neumann":
        # No edge leaves the volume: the flux along an axis ends at its last plane.
        inner = tetrahedra.inner_edges(grid)
        exponential = [
            [
                jnp.where(edge, e - float(i == a), 0)
                for a, (e, edge) in enumerate(zip(row, inner, strict=True))
            ]
            for i, row in enumerate(exponential)
        ]
    return _divergence(exponential, grid), whole


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _exponential(u: Array, grid: tetrahedra.Layout) -> list[list[Array]]:
    """Exponential of the gradient as flat planes with slack of 1; none of the gradient is kept."""
    inner = tetrahedra.inner_edges(grid)
    size, span = inner[0].size, _CHUNK + max(grid.strides)
    if size <= _CHUNK:
        return _exponential_whole(u, grid)
    flat = [jnp.pad(jnp.pad(c, 1).reshape(-1), 2 * grid.slack) for c in components(u)]

    def chunk(k, rows):
        # The last chunk begins early and writes some voxels again.
        start = jnp.minimum(k * _CHUNK, size - _CHUNK)
        cut = jax.lax.dynamic_slice_in_dim
        near = [cut(plane, grid.slack + start, span) for plane in flat]
        edges = [cut(edge, start, _CHUNK) for edge in inner]
        gradient = [
            [
                jnp.where(edge, plane[stride : stride + _CHUNK] - plane[:_CHUNK], 0)
                for edge, stride in zip(edges, grid.strides, strict=True)
            ]
            for plane in near
        ]
        put = lambda plane, part: jax.lax.dynamic_update_slice_in_dim(plane, part, start, 0)
        return jax.tree.map(put, rows, exp_planes(gradient))

    empty = [[jnp.zeros(size, u.dtype) for _ in grid.strides] for _ in flat]
    return jax.lax.fori_loop(0, -(-size // _CHUNK), chunk, empty)


def _exponential_whole(u: Array, grid: tetrahedra.Layout) -> list[list[Array]]:
    return exp_planes(_gradient(u, grid))


def _exponential_transpose(grid, u, cotangent):
    return jax.vjp(lambda u: _exponential_whole(u, grid), u)[1](cotangent)


_exponential.defvjp(lambda u, grid: (_exponential(u, grid), u), _exponential_transpose)


# Automatic transposes of differences pad inside of long loops, which makes them slow; the
# transpose of a gradient is minus a divergence, and the other way round, without any pad.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gradient(u: Array, grid: tetrahedra.Layout) -> list[list[Array]]:
    """Forward differences of a field as flat planes with slack of 1; 0 across the faces."""
    inner = tetrahedra.inner_edges(grid)
    steps = _forward_steps([jnp.pad(plane, 1) for plane in components(u)], grid)
    return [[jnp.where(e, s, 0) for e, s in zip(inner, row, strict=True)] for row in steps]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _divergence(rows: list[list[Array]], grid: tetrahedra.Layout) -> list[Array]:
    """Sum of backward differences of flat planes with slack of 1, as `grid.padded` volumes."""
    return _backward_steps(rows, grid)


def _gradient_transpose(grid, _, cotangent):
    def transpose(rows):
        inner = tetrahedra.inner_edges(grid)
        rows = [[jnp.where(e, c, 0) for e, c in zip(inner, row, strict=True)] for row in rows]
        volume = tuple(slice(1, -1) for _ in grid.shape)
        return -jnp.stack([plane[volume] for plane in _backward_steps(rows, grid)], axis=-1)

    return (apart(transpose, cotangent),)


def _divergence_transpose(grid, _, cotangent):
    return (jax.tree.map(jnp.negative, _forward_steps(cotangent, grid)),)


_gradient.defvjp(lambda u, grid: (_gradient(u, grid), None), _gradient_transpose)
_divergence.defvjp(lambda rows, grid: (_backward_steps(rows, grid), None), _divergence_transpose)


def _forward_steps(padded: Sequence[Array], grid: tetrahedra.Layout) -> list[list[Array]]:
    """Forward differences of `grid.padded` volumes, along flat planes with slack of 1."""
    flat = [jnp.pad(plane.reshape(-1), 2 * grid.slack) for plane in padded]
    size, slack = flat[0].size - 2 * grid.slack, grid.slack
    shifted = lambda plane, s: jax.lax.slice_in_dim(plane, slack + s, slack + s + size)
    return [[shifted(plane, s) - shifted(plane, 0) for s in grid.strides] for plane in flat]


def _backward_steps(rows: list[list[Array]], grid: tetrahedra.Layout) -> list[Array]:
    size, slack = math.prod(grid.padded), grid.slack
    shifted = lambda plane, s: jax.lax.slice_in_dim(plane, slack - s, slack - s + size)
    backward = lambda plane, s: shifted(plane, 0) - shifted(plane, s)
    total = lambda row: tetrahedra.total(map(backward, row, grid.strides))
    return [total(row).reshape(grid.padded) for row in rows]


def as_matrices(rows: list[list[Array]]) -> Array:
    """Return planes of the entries of a matrix, row by row, as one array of matrices."""
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
