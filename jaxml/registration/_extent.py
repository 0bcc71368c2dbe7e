"""Volumes in the first corner of larger arrays, so that many shapes share one program.

The size of a volume is a tuple of the voxels along each axis, whose values a program takes like
any others; None says that the volume fills its array. What lies beyond the volume never counts.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Size = tuple[int | Int[Array, ""], ...] | None

# Sides of arrays are multiples of 4 up to 16 voxels, of 8 up to 64, and of 16 beyond: a third
# more voxels in volumes of 75 voxels a side.
_MULTIPLES = ((16, 4), (64, 8), (float("inf"), 16))
# Two arrays have one shape where that makes neither larger by more than this factor.
_LARGEST_RATIO = 1.5


def roomy_shapes(*shapes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shapes of arrays for volumes of these shapes, one for all where they are near."""
    own = [tuple(map(_rounded_up, shape)) for shape in shapes]
    joint = tuple(map(max, *own))
    is_near = math.prod(joint) <= _LARGEST_RATIO * min(map(math.prod, own))
    return [joint] * len(own) if is_near else own


def _rounded_up(side: int) -> int:
    multiple = next(multiple for longest, multiple in _MULTIPLES if side <= longest)
    return -(-side // multiple) * multiple


def placed(volume: Array, shape: tuple[int, ...], beyond: float = 0) -> Array:
    """Return an array of `shape` with a volume in its first corner."""
    rest = [(0, m - n) for n, m in zip(volume.shape, shape, strict=True)]
    return jnp.pad(volume, rest, constant_values=beyond)


def within(shape: tuple[int, ...], size: Size) -> Bool[Array, "*volume"]:
    """Return which elements of an array of `shape` are voxels of the volume."""
    inside = jnp.ones(shape, bool)
    for axis, n in enumerate(size or ()):
        inside &= along(axis, shape) < jnp.asarray(n, jnp.int32)
    return inside


def along(axis: int, shape: tuple[int, ...]) -> Int[Array, "*volume"]:
    """Return the place of each element of an array of `shape` along an axis."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def cut(array: Float[Array, "*volume"], size: Size, beyond: float = 0) -> Float[Array, "*volume"]:
    """Return an array with 0, or another number, beyond the volume."""
    return array if size is None else jnp.where(within(array.shape, size), array, beyond)


def extended(array: Float[Array, "*volume"], size: Size) -> Float[Array, "*volume"]:
    """Return an array with the border of the volume repeated beyond it."""
    for axis, n in enumerate(size or ()):
        n = jnp.asarray(n, jnp.int32)
        last = jax.lax.dynamic_slice_in_dim(array, n - 1, 1, axis)
        array = jnp.where(along(axis, array.shape) < n, array, last)
    return array


def halved_size(size: Size, axes: Sequence[int]) -> Size:
    """Return the size of a volume that is halved along some axes."""
    return size and tuple((n + 1) // 2 if a in axes else n for a, n in enumerate(size))
