"""The diffeomorphic layer: a field whose Jacobian is closest to a matrix exponential.

exp(J) of the Jacobian J of a displacement has a positive determinant, e^(tr J), everywhere.
The layer returns the displacement whose Laplacian is the divergence of exp(J). Its own
Jacobian equals exp(J) - I only as far as that is a gradient, so folds become fewer, not none.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.registration._expm import apart, as_matrices, exp_planes
from jaxml.registration._field import jacobian, plus_identity
from jaxml.registration._flat import Layout, components, flat_layout, inner_edges, interior, total
from jaxml.registration._inputs import check_field
from jaxml.registration._poisson import Boundary, solve_within
from jaxml.registration._slabs import layer_in_slabs

# Voxels that the forward pass works on at a time.
_CHUNK = 1 << 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Result of `diffeomorphic_layer`.

    Attributes:
      displacement: the field, in voxels.
      exponential: exp of the Jacobian of the layer's input: row = component.
    """

    displacement: Float[Array, "*volume ndim"]
    exponential: Float[Array, "*volume ndim ndim"]


def diffeomorphic_layer(
    u: Float[Array, "*volume ndim"],
    *,
    boundary: Boundary = "dirichlet",
    mesh: Mesh | None = None,
    axis: str = "data",
) -> Reconstruction:
    """Return the field with Laplacian = div exp(J_u), J_u by forward differences.

    The backward pass computes the exponential again, so that none of it is kept.

    With a mesh each device works on its slab of the volume, and none holds more than its part of
    anything: neighbors send each other a plane for the differences, and for the Poisson equation
    the first axis of the volume is split or the second one, in turns, by an all-to-all.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`; with a mesh the first axis is or
        gets split.
      boundary: "dirichlet", 0 on all faces, the form of the paper; or "neumann", the least
        squares fit of the gradient to exp(J_u) - I with the mean of `u`.
      mesh: that has `axis`, such as `sharding.data_mesh()`; None for one device.
      axis: of the mesh.

    Returns:
      `Reconstruction`, with a mesh split along the first axis.

    Raises:
      ValueError: `u` is no field or not finite, `boundary` is unknown, or the planes of `u` do
        not divide over the devices.

    Source: Pal, Tennant and Ray, "Towards positive Jacobian: learn to postprocess diffeomorphic
    image registration with matrix exponential" (arXiv 2202.00749).
    """
    check_field(u=u)
    checks.single_or_double(u=u)
    checks.choice(get_args(Boundary), boundary=boundary)
    if mesh is not None:
        return Reconstruction(*layer_in_slabs(u, mesh, boundary, axis))
    layout = flat_layout(u.shape[:-1])
    sources, exponential = _sources(u, layout, boundary)
    solved = [solve_within(s, boundary=boundary, ghosts=1) for s in sources]
    if boundary == "neumann":
        solved = [s + jnp.mean(p) for s, p in zip(solved, components(u), strict=True)]
    return Reconstruction(jnp.stack(solved, axis=-1), as_matrices(exponential))


def layer_residual(reconstruction: Reconstruction, *, released: bool = False) -> Float[Array, ""]:
    """Return the mean square of exp(J_u) - (I + J_u'), u' the field the layer returned.

    The paper calls it the Poisson loss.

    Args:
      reconstruction: result of `diffeomorphic_layer`.
      released: leave I out, as the code released with the paper does.

    Returns:
      Scalar, 0 where exp(J_u) is a gradient.

    Source: as for `diffeomorphic_layer`.
    """
    gradient = jacobian(reconstruction.displacement)
    if not released:
        gradient = plus_identity(gradient)
    return jnp.mean((reconstruction.exponential - gradient) ** 2)


# A call outside of jit would compile the branches of the exponential anew each time.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _sources(u: Array, layout: Layout, boundary: str) -> tuple[list[Array], list[list[Array]]]:
    """Backward divergence of the rows of the exponential, with ghosts, and the exponential."""
    exponential: Any = _exponential(u, layout)
    whole = jax.tree.map(lambda plane: interior(plane, layout), exponential)
    if boundary == "neumann":
        # No edge leaves the volume: the flux along an axis ends at its last plane.
        inner = inner_edges(layout)
        exponential = [
            [
                jnp.where(edge, e - float(i == a), 0)
                for a, (e, edge) in enumerate(zip(row, inner, strict=True))
            ]
            for i, row in enumerate(exponential)
        ]
    return _divergence(exponential, layout), whole


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _exponential(u: Array, layout: Layout) -> list[list[Array]]:
    """Exponential of the gradient as flat planes with slack of 1; none of the gradient is kept."""
    inner = inner_edges(layout)
    size, span = inner[0].size, _CHUNK + max(layout.strides)
    if size <= _CHUNK:
        return _exponential_whole(u, layout)
    flat = [jnp.pad(jnp.pad(c, 1).reshape(-1), 2 * layout.slack) for c in components(u)]

    def chunk(k, rows):
        # The last chunk begins early and writes some voxels again.
        start = jnp.minimum(k * _CHUNK, size - _CHUNK)
        cut = jax.lax.dynamic_slice_in_dim
        near = [cut(plane, layout.slack + start, span) for plane in flat]
        edges = [cut(edge, start, _CHUNK) for edge in inner]
        gradient = [
            [
                jnp.where(edge, plane[stride : stride + _CHUNK] - plane[:_CHUNK], 0)
                for edge, stride in zip(edges, layout.strides, strict=True)
            ]
            for plane in near
        ]
        put = lambda plane, part: jax.lax.dynamic_update_slice_in_dim(plane, part, start, 0)
        return jax.tree.map(put, rows, exp_planes(gradient))

    empty = [[jnp.zeros(size, u.dtype) for _ in layout.strides] for _ in flat]
    return jax.lax.fori_loop(0, -(-size // _CHUNK), chunk, empty)


def _exponential_whole(u: Array, layout: Layout) -> list[list[Array]]:
    return exp_planes(_gradient(u, layout))


def _exponential_transpose(layout, u, cotangent):
    return jax.vjp(lambda u: _exponential_whole(u, layout), u)[1](cotangent)


_exponential.defvjp(lambda u, layout: (_exponential(u, layout), u), _exponential_transpose)


# Automatic transposes of differences pad inside of long loops, which makes them slow; the
# transpose of a gradient is minus a divergence, and the other way round, without any pad.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gradient(u: Array, layout: Layout) -> list[list[Array]]:
    """Forward differences of a field as flat planes with slack of 1; 0 across the faces."""
    inner = inner_edges(layout)
    steps = _forward_steps([jnp.pad(plane, 1) for plane in components(u)], layout)
    return [[jnp.where(e, s, 0) for e, s in zip(inner, row, strict=True)] for row in steps]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _divergence(rows: list[list[Array]], layout: Layout) -> list[Array]:
    """Sum of backward differences of flat planes with slack of 1, as `layout.padded` volumes."""
    return _backward_steps(rows, layout)


def _gradient_transpose(layout, _, cotangent):
    def transpose(rows):
        inner = inner_edges(layout)
        rows = [[jnp.where(e, c, 0) for e, c in zip(inner, row, strict=True)] for row in rows]
        volume = tuple(slice(1, -1) for _ in layout.shape)
        return -jnp.stack([plane[volume] for plane in _backward_steps(rows, layout)], axis=-1)

    return (apart(transpose, cotangent),)


def _divergence_transpose(layout, _, cotangent):
    return (jax.tree.map(jnp.negative, _forward_steps(cotangent, layout)),)


_gradient.defvjp(lambda u, layout: (_gradient(u, layout), None), _gradient_transpose)
_divergence.defvjp(
    lambda rows, layout: (_backward_steps(rows, layout), None), _divergence_transpose
)


def _forward_steps(padded: Sequence[Array], layout: Layout) -> list[list[Array]]:
    """Forward differences of `layout.padded` volumes, along flat planes with slack of 1."""
    flat = [jnp.pad(plane.reshape(-1), 2 * layout.slack) for plane in padded]
    size, slack = flat[0].size - 2 * layout.slack, layout.slack
    shifted = lambda plane, s: jax.lax.slice_in_dim(plane, slack + s, slack + s + size)
    return [[shifted(plane, s) - shifted(plane, 0) for s in layout.strides] for plane in flat]


def _backward_steps(rows: list[list[Array]], layout: Layout) -> list[Array]:
    size, slack = math.prod(layout.padded), layout.slack
    shifted = lambda plane, s: jax.lax.slice_in_dim(plane, slack - s, slack - s + size)
    backward = lambda plane, s: shifted(plane, 0) - shifted(plane, s)
    return [total(map(backward, row, layout.strides)).reshape(layout.padded) for row in rows]
