"""Volumes in the first corner of larger arrays, so that many shapes share one program.

The size of a volume is a tuple of the voxels along each axis, whose values a program takes like
any others; None says that the volume fills its array. What lies beyond the volume never counts.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Size = tuple[int | Int[Array, ""], ...] | None

# Arrays have a multiple of this along each axis: 16 shapes in 1, for a third more voxels in
# volumes of 75 voxels a side.
_MULTIPLE = 16


def common_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of arrays that have room for volumes of all these shapes."""
    return tuple(-(-max(sides) // _MULTIPLE) * _MULTIPLE for sides in zip(*shapes, strict=True))


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


def cut(array: Float[Array, "*volume"], size: Size) -> Float[Array, "*volume"]:
    """Return an array with 0 beyond the volume."""
    return array if size is None else jnp.where(within(array.shape, size), array, 0)


def extended(array: Float[Array, "*volume"], size: Size) -> Float[Array, "*volume"]:
    """Return an array with the border of the volume repeated beyond it."""
    for axis, n in enumerate(size or ()):
        n = jnp.asarray(n, jnp.int32)
        last = jax.lax.dynamic_slice_in_dim(array, n - 1, 1, axis)
        array = jnp.where(along(axis, array.shape) < n, array, last)
    return array


def mean_within(array: Float[Array, "*volume"], size: Size) -> Float[Array, ""]:
    """Return the mean over the voxels of the volume."""
    if size is None:
        return jnp.mean(array)
    number = jnp.prod(jnp.asarray(size, array.dtype))
    return jnp.sum(cut(array, size)) / number


def halved_size(size: Size, axes: Sequence[int]) -> Size:
    """Return the size of a volume that is halved along some axes."""
    return size and tuple((n + 1) // 2 if a in axes else n for a, n in enumerate(size))
