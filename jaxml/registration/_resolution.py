"""Half the resolution, and twice."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml.registration._extent import Size, extended
from jaxml.registration._flat import Planes
from jaxml.registration._halo import Split, seen, windows


def halve(
    image: Float[Array, "*volume"], axes: tuple[int, ...] | None = None, size: Size = None
) -> Float[Array, "*half"]:
    """Return means over 2 voxels along each axis; an odd axis repeats its last plane.

    Args:
      image: `[*volume]`.
      axes: the axes to halve; None for all.
      size: of the volume, where it does not fill the array: its border is repeated.
    """
    image = extended(image, size)
    axes = tuple(range(image.ndim)) if axes is None else axes
    odd = [(0, n % 2 if a in axes else 0) for a, n in enumerate(image.shape)]
    image = jnp.pad(image, odd, mode="edge")
    pairs = [k for a, n in enumerate(image.shape) for k in ((n // 2, 2) if a in axes else (n, 1))]
    return jnp.mean(image.reshape(pairs), axis=tuple(range(1, 2 * image.ndim, 2)))


def double(
    planes: Planes, shape: tuple[int, ...], size: Size = None, split: Split | None = None
) -> Planes:
    """Return displacements on a grid of `shape` from those on its half along some or all axes.

    Args:
      planes: components in voxels of their own grid.
      shape: of the finer grid, of its slabs if it is split; an axis of the length it has is not
        doubled.
      size: of the volume on the coarse grid, where it does not fill it.
      split: of both volumes.
    """
    coarse = planes[0].shape
    if coarse == shape:
        return planes
    factors = [1 if n == m else 2 for n, m in zip(coarse, shape, strict=True)]
    planes, window = windows(planes, 1, split)
    whole = tuple(f * n for f, n in zip(factors, planes[0].shape, strict=True))
    first = [jnp.int32(0)] * len(shape)
    if window is not None:
        first[0] = factors[0] * window.offset
    planes = tuple(extended(p, seen(size, window)) for p in planes)
    # A voxel is larger there: displacements in voxels grow as it becomes smaller.
    return tuple(
        factor * jax.lax.dynamic_slice(jax.image.resize(p, whole, "linear"), first, shape)
        for p, factor in zip(planes, factors, strict=True)
    )
