"""Volumes as flat planes, one a component of a field.

A flat plane is a 1-D array: a volume with one ghost voxel around it, and slack at both ends. A
neighbor is then a constant shift, which compilers turn into vector code.
"""

import functools
import math
import operator
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxml.registration._extent import Size, along, extended, within

Plane = jax.Array
Planes = tuple[Plane, ...]
Offset = tuple[int, ...]


class Layout(NamedTuple):
    """How voxel `p` of the volume lies in a flat plane: at `p + 1` of `padded`, after `slack`."""

    shape: tuple[int, ...]
    padded: tuple[int, ...]
    strides: tuple[int, ...]
    slack: int

    def shift(self, offset: Offset) -> int:
        """Flat distance to the voxel at `offset`."""
        return sum(o * s for o, s in zip(offset, self.strides, strict=True))


def flat_layout(shape: tuple[int, ...]) -> Layout:
    """Return the flat layout of a volume of `shape`; its slack reaches every corner neighbor."""
    padded = tuple(n + 2 for n in shape)
    strides = tuple(math.prod(padded[axis + 1 :]) for axis in range(len(shape)))
    return Layout(tuple(shape), padded, strides, sum(strides))


def components(u: Float[Array, "*volume ndim"]) -> tuple[Float[Array, "*volume"], ...]:
    """Return the components of a field as separate planes."""
    return tuple(u[..., k] for k in range(u.shape[-1]))


def flatten(planes: Planes, layout: Layout, size: Size = None) -> Planes:
    """Return planes `[D, H, W]` as flat planes: ghosts repeat the border, slack of 2.

    Args:
      planes: one a component.
      layout: of the planes.
      size: of the volume, where it does not fill them.
    """
    planes = tuple(extended(p, size) for p in planes)
    return tuple(jnp.pad(jnp.pad(p, 1, mode="edge").reshape(-1), 2 * layout.slack) for p in planes)


def interior(plane: Plane, layout: Layout) -> Float[Array, "*volume"]:
    """Return a flat plane with slack of 1 as `[D, H, W]`."""
    full = plane[layout.slack : -layout.slack].reshape(layout.padded)
    return full[tuple(slice(1, -1) for _ in layout.shape)]


def inside(layout: Layout, size: Size = None) -> Bool[Array, " flat"]:
    """Return the flat mask, with slack of 1, of the voxels of the volume."""
    return jnp.pad(jnp.pad(within(layout.shape, size), 1).reshape(-1), layout.slack)


def inner_edges(layout: Layout) -> list[Bool[Array, " flat"]]:
    """Return, for each axis, the mask of the voxels whose next one lies in the volume too."""
    mask = inside(layout)
    return [mask & jnp.roll(mask, -stride) for stride in layout.strides]


def add_ghosts(padded: Float[Array, "*padded"], size: Size = None) -> Float[Array, "*volume"]:
    """Return the volume with its ghosts added to the border: the transpose of repeating it."""
    for axis, n in enumerate(size or ()):
        # The ghost after the last voxel, which is one of the array.
        n, place = jnp.asarray(n, jnp.int32), along(axis, padded.shape)
        ghost = jax.lax.dynamic_slice_in_dim(padded, n + 1, 1, axis)
        padded = jnp.where(place == n, padded + ghost, jnp.where(place == n + 1, 0, padded))
    for axis, n in enumerate(padded.shape):
        cuts = ((0, 1), (1, 2), (2, n - 2), (n - 2, n - 1), (n - 1, n))
        ghost, first, middle, last, end = (
            jax.lax.slice_in_dim(padded, start, stop, axis=axis) for start, stop in cuts
        )
        padded = jnp.concatenate([ghost + first, middle, last + end], axis)
    return padded


def neighbor_mean(flat: Planes, layout: Layout) -> Planes:
    """Return the mean over each voxel and its neighbors along the axes, planes `[D, H, W]`."""
    size, slack = math.prod(layout.padded) + 2 * layout.slack, layout.slack
    shifts = [0, *layout.strides, *(-s for s in layout.strides)]
    return tuple(
        interior(total(plane[slack + s :][:size] for s in shifts) / len(shifts), layout)
        for plane in flat
    )


def total(planes: Iterable[Plane]) -> Plane:
    """Return the sum of planes."""
    return functools.reduce(operator.add, planes)
