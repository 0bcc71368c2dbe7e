"""Images at several resolutions, and the affine map between those of one of them."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml.registration._extent import Size, cut, halved_size
from jaxml.registration._images import Image
from jaxml.registration._resolution import halve

# An axis is halved where that makes its voxels no longer than this much of what is wanted.
_LONGEST = math.sqrt(2)


class Level(NamedTuple):
    """An image at one resolution.

    Attributes:
      image: its channels, mask and sides of a voxel there.
      factors: how many voxels of the whole image one of its voxels is along each axis.
    """

    image: Image
    factors: tuple[float, ...]


def pyramid(image: Image, side: float, levels: int) -> list[Level]:
    """Return an image with voxels of a side, twice that, and so on, as near as halves come.

    Args:
      image: the whole image.
      side: of a voxel, wanted on the first level.
      levels: number of levels.
    """
    stack, factors = [], (1.0,) * len(image.shape)
    for level in range(levels):
        while axes := halved_axes(image.shape, image.spacing, side * 2**level):
            channels, mask = _halved(image.channels, image.mask, image.size, axes=axes)
            times = [2 if a in axes else 1 for a in range(len(factors))]
            spacing, factors = (
                tuple(x * t for x, t in zip(xs, times, strict=True))
                for xs in (image.spacing, factors)
            )
            image = Image(channels, mask, spacing, halved_size(image.size, axes))
        stack.append(Level(image, factors))
    return stack


def most_levels(fixed: Image, least: int) -> int:
    """Return how many levels leave `least` voxels or more along every axis that is halved."""
    shape, spacing, side, levels = list(fixed.shape), list(fixed.spacing), min(fixed.spacing), 0
    while True:
        levels += 1
        axes = halved_axes(tuple(shape), tuple(spacing), side * 2**levels)
        if not axes or any(shape[a] // 2 < least for a in axes):
            return levels
        for a in axes:
            shape[a], spacing[a] = -(-shape[a] // 2), 2 * spacing[a]


def halved_axes(shape: tuple[int, ...], spacing: tuple[float, ...], side: float) -> tuple[int, ...]:
    """Return the axes whose voxels come nearer to a side, or stay below it, when halved."""
    pairs = enumerate(zip(shape, spacing, strict=True))
    return tuple(a for a, (n, s) in pairs if n > 1 and 2 * s <= _LONGEST * side)


def between(
    fixed: Level, moving: Level, affine: Float[Array, "ndim row"]
) -> Float[Array, "ndim row"]:
    """Return an affine map between voxels of two images as one between those of their levels."""
    ours, theirs = (jnp.asarray(level.factors, affine.dtype) for level in (fixed, moving))
    linear, offset = affine[:, :-1], affine[:, -1]
    # Voxel i of a level is the mean of voxels whose middle is f i + (f - 1) / 2.
    middle = jnp.matmul(linear, (ours - 1) / 2, precision="highest")
    offset = (middle + offset - (theirs - 1) / 2) / theirs
    return jnp.concatenate([linear * ours[None] / theirs[:, None], offset[:, None]], axis=1)


@functools.partial(jax.jit, static_argnames="axes")
def _halved(channels: tuple[Array, ...], mask: Array | None, size: Size, *, axes: tuple[int, ...]):
    """Return channels and mask of half the resolution: means of the voxels that count."""
    means, half = (lambda x: halve(x, axes, size)), halved_size(size, axes)
    if mask is None:
        return tuple(cut(means(c), half) for c in channels), None
    share = means(mask)
    safe = jnp.where(share > 0, share, 1)
    channels = tuple(cut(means(c * mask) / safe, half) for c in channels)
    return channels, cut(share, half, beyond=1)
