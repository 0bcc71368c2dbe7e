"""Half the resolution, and twice."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml.registration._flat import Planes


def halve(image: Float[Array, "*volume"]) -> Float[Array, "*half"]:
    """Return means of cubes of 2 voxels an axis; an odd axis repeats its last plane.

    Args:
      image: `[*volume]`.
    """
    image = jnp.pad(image, [(0, n % 2) for n in image.shape], mode="edge")
    halves = [k for n in image.shape for k in (n // 2, 2)]
    return jnp.mean(image.reshape(halves), axis=tuple(range(1, 2 * image.ndim, 2)))


def double(planes: Planes, shape: tuple[int, ...]) -> Planes:
    """Return displacements on a grid of `shape` from those on its half, or on itself unchanged.

    Args:
      planes: components in voxels of their own grid.
      shape: of the finer grid.
    """
    if planes[0].shape == shape:
        return planes
    twice = tuple(2 * n for n in planes[0].shape)
    cut = tuple(slice(n) for n in shape)
    # A voxel is twice as large there: displacements in voxels double too.
    return tuple(2 * jax.image.resize(p, twice, "linear")[cut] for p in planes)
