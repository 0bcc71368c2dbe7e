"""The diffeomorphic layer on a volume that is split in slabs, one on each device."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.registration._expm import as_matrices, exp_planes
from jaxml.registration._flat import components
from jaxml.registration._poisson import (
    Boundary,
    eigenvalues,
    inverse_eigenvalues,
    transform,
    transform_matrix,
)


def layer_in_slabs(
    u: Float[Array, "*volume ndim"], mesh: Mesh, boundary: Boundary, axis: str
) -> tuple[Float[Array, "*volume ndim"], Float[Array, "*volume ndim ndim"]]:
    """Return displacement and exponential of `diffeomorphic_layer`, both split into slabs.

    Raises:
      ValueError: the planes of `u` do not divide over the devices.
    """
    devices = mesh.shape[axis]
    if u.shape[0] % devices:
        accepted = f"a multiple of {devices} planes on the first axis, as many on each device"
        raise checks.refused("u", u, accepted)
    return _in_slabs(u, mesh, boundary, axis)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _in_slabs(u: Array, mesh: Mesh, boundary: Boundary, axis: str) -> tuple[Array, Array]:
    slab = functools.partial(_slab, boundary=boundary, axis=axis, devices=mesh.shape[axis])
    # Unchecked, since branches of the exponential hold constants, the same on every device.
    return jax.shard_map(slab, mesh=mesh, in_specs=P(axis), out_specs=P(axis), check_vma=False)(u)


def _slab(u: Array, *, boundary: Boundary, axis: str, devices: int) -> tuple[Array, Array]:
    is_last = jax.lax.axis_index(axis) == devices - 1

    def neighbor(plane, step):
        """Plane of the device `step` before this one; 0 where there is none."""
        pairs = [(i, i + step) for i in range(devices) if 0 <= i + step < devices]
        return jax.lax.ppermute(plane, axis, pairs)

    def forward(plane, a):
        last = jax.lax.slice_in_dim(plane, -1, None, axis=a)
        after = jnp.where(is_last, last, neighbor(plane[:1], -1)) if a == 0 else last
        return jnp.diff(plane, axis=a, append=after)

    def backward(flux, a):
        # No edge leaves the volume: the flux along an axis ends at its last plane.
        inside = jax.lax.slice_in_dim(flux, 0, -1, axis=a)
        last = jax.lax.slice_in_dim(flux, -1, None, axis=a)
        last = jnp.where(is_last, 0, last) if a == 0 else jnp.zeros_like(last)
        before = neighbor(last, 1) if a == 0 else jnp.zeros_like(last)
        return jnp.diff(jnp.concatenate([inside, last], axis=a), axis=a, prepend=before)

    parts = components(u)
    axes = range(len(parts))
    exponential = exp_planes([[forward(part, a) for a in axes] for part in parts])
    solved = []
    for i, (part, row) in enumerate(zip(parts, exponential, strict=True)):
        steps = [backward(e - float(i == a), a) for a, e in enumerate(row)]
        solution = _solve(functools.reduce(jnp.add, steps), boundary, axis, devices)
        if boundary == "neumann":
            solution = solution + jax.lax.pmean(jnp.mean(part), axis)
        solved.append(solution)
    return jnp.stack(solved, axis=-1), as_matrices(exponential)


def _solve(rhs: Array, boundary: Boundary, axis: str, devices: int) -> Array:
    """Return the slab of the solution of the Poisson equation; see `poisson_solve`."""
    shape = (rhs.shape[0] * devices, *rhs.shape[1:])
    matrices = [transform_matrix(n, boundary) for n in shape]
    for a in reversed(range(1, rhs.ndim)):
        rhs = transform(rhs, a, matrices[a])
    # Frequencies of the second axis that fill the last device are 0.
    spare = -shape[1] % devices
    rhs = jnp.pad(rhs, [(0, 0), (0, spare), *[(0, 0)] * (rhs.ndim - 2)])
    turned = jax.lax.all_to_all(rhs, axis, split_axis=1, concat_axis=0, tiled=True)
    values: list[Any] = [eigenvalues(n, boundary) for n in shape]
    values[1] = jax.lax.dynamic_slice_in_dim(
        jnp.pad(jnp.asarray(values[1]), (0, spare), constant_values=-4),
        jax.lax.axis_index(axis) * turned.shape[1],
        turned.shape[1],
    )
    turned = transform(turned, 0, matrices[0])
    turned = turned * inverse_eigenvalues(values, boundary).astype(rhs.dtype)
    turned = transform(turned, 0, matrices[0].T)
    back = jax.lax.all_to_all(turned, axis, split_axis=0, concat_axis=1, tiled=True)
    back = back[:, : shape[1]]
    for a in range(1, rhs.ndim):
        back = transform(back, a, matrices[a].T)
    return back
