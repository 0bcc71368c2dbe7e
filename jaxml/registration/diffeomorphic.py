"""The diffeomorphic layer: a field whose Jacobian is closest to a matrix exponential.

exp(J) of the Jacobian J of a displacement has a positive determinant, e^(tr J), everywhere.
The layer returns the displacement whose Laplacian is the divergence of exp(J). Its own
Jacobian equals exp(J) - I only as far as that is a gradient, so folds become fewer, not none.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml.registration import tetrahedra
from jaxml.registration.expm import exp_planes
from jaxml.registration.field import check_field, components, jacobian
from jaxml.registration.poisson import Boundary, poisson_solve

# Voxels whose exponential is computed at a time: their planes fit the cache of a core.
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
    """
    check_field(u)
    grid = tetrahedra.layout(u.shape[:-1])
    planes = components(u)
    sources = jax.checkpoint(lambda planes: _sources(planes, grid, boundary))(planes)
    solved = [poisson_solve(s, boundary=boundary) for s in sources]
    if boundary == "neumann":
        solved = [s + jnp.mean(p) for s, p in zip(solved, planes, strict=True)]
    exponential = _stack(exp_planes(_unstack(jacobian(u))))
    return Reconstruction(jnp.stack(solved, axis=-1), exponential)


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


def _sources(planes: tetrahedra.Vector, grid: tetrahedra.Layout, boundary: str) -> list[Array]:
    """Backward divergence of the rows of the exponential."""
    flat = tetrahedra.flatten(planes, grid)
    size, slack = flat[0].size - 2 * grid.slack, grid.slack
    shifted = lambda plane, s: jax.lax.slice_in_dim(plane, slack + s, slack + s + size)
    gradient = [[shifted(c, s) - shifted(c, 0) for s in grid.strides] for c in flat]
    exponential = _exp_in_chunks(gradient)
    if boundary == "neumann":
        # No edge leaves the volume: the flux along an axis ends at its last plane.
        inside = tetrahedra.inside(grid)
        ends = [inside & jnp.roll(inside, -s) for s in grid.strides]
        exponential = [
            [
                jnp.where(end, e - float(i == a), 0)
                for a, (e, end) in enumerate(zip(row, ends, strict=True))
            ]
            for i, row in enumerate(exponential)
        ]
    backward = lambda plane, s: plane - jnp.pad(plane, (s, 0))[:size]
    return [
        tetrahedra.interior(
            sum(backward(e, s) for e, s in zip(row, grid.strides, strict=True)), grid
        )
        for row in exponential
    ]


def _exp_in_chunks(a: list[list[Array]]) -> list[list[Array]]:
    """Exponential of flat planes, a chunk at a time.

    A loop is compiled apart. Without it the compiler computes the exponential anew at each of
    its uses in the divergence, and takes twenty times as long; nor are all of its
    intermediate planes, which the backward pass needs, alive at once.
    """
    (size,) = a[0][0].shape
    chunks = -(-size // _CHUNK)
    split = lambda plane: jnp.pad(plane, (0, chunks * _CHUNK - size)).reshape(chunks, _CHUNK)
    exponential = jax.lax.map(jax.checkpoint(exp_planes), jax.tree.map(split, a))
    return jax.tree.map(lambda plane: plane.reshape(-1)[:size], exponential)


def _unstack(a: Array) -> list[list[Array]]:
    return [[a[..., i, j] for j in range(a.shape[-1])] for i in range(a.shape[-1])]


def _stack(rows: list[list[Array]]) -> Array:
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
