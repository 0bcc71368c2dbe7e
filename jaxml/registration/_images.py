"""The images of a registration: channels, masks, the sides of a voxel, intensities of 0 to 1."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.registration._extent import Size, cut, placed, roomy_shapes, within
from jaxml.registration._inputs import check_images
from jaxml.registration._masks import Mask, inside, mask_weights
from jaxml.tracing import is_concrete, known

# One image, or one for each channel.
Images = Float[Array, "..."] | tuple[Float[Array, "..."], ...]
# Sides of a voxel of the fixed image, and of the moving one.
Spacing = tuple[tuple[float, ...], tuple[float, ...]]

# Intensities above this percentile of those above the least count as 1, so that a few bright
# voxels do not make the rest alike; it is taken of no more than so many voxels.
_HIGH, _LOOKED_AT = 99.9, 1 << 17


class Image(NamedTuple):
    """One side of a registration.

    Attributes:
      channels: `[*volume]` each, of one shape, without NaN; 0 beyond the volume.
      mask: weights `[*volume]`, 0 where a voxel does not count; None where all of them do. 1
        beyond the volume, as background has it.
      spacing: sides of a voxel.
      size: voxels of the volume in its arrays; None where it fills them.
    """

    channels: tuple[Array, ...]
    mask: Array | None
    spacing: tuple[float, ...]
    size: Size = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """Number of voxels along each axis: integers, traced inside a program."""
        return self.size or self.channels[0].shape


def checked_pair(
    fixed: Images,
    moving: Images,
    fixed_mask: Mask,
    moving_mask: Mask,
    spacing: Spacing | None,
    *,
    shortest: int,
) -> tuple[Image, Image]:
    """Return both sides of a registration.

    A voxel that is NaN in a channel does not count, as if a mask left it out. Where values are
    traced that is unknown: NaN stays there, unless a mask leaves it out.

    Raises:
      ValueError: the images are no volumes with as many axes and channels each, not float32 or
        float64, infinite, beyond 1e8 (1e60 in float64), or without voxels that count; or the
        spacing is not a positive number an axis.
    """
    ours, theirs = _channels(fixed), _channels(moving)
    _check_channels("fixed", ours, shortest)
    _check_channels("moving", theirs, shortest)
    ndim = ours[0].ndim
    if theirs[0].ndim != ndim:
        raise checks.refused("moving", theirs[0], f"an image of {ndim} axes, as fixed")
    if theirs[0].dtype != ours[0].dtype:
        raise checks.refused("moving", theirs[0], f"{ours[0].dtype}, the type of fixed")
    if len(theirs) != len(ours):
        accepted = f"{len(ours)} channels, as many as fixed"
        raise checks.refused("moving", f"{len(theirs)} channels", accepted)
    sides = spacing or ((1.0,) * ndim, (1.0,) * ndim)
    if not all(len(s) == ndim and all(0 < x < float("inf") for x in s) for s in sides):
        raise checks.refused("spacing", spacing, f"{ndim} positive numbers twice")
    sides = [tuple(map(float, side)) for side in sides]
    return (
        _without_nan("fixed", ours, fixed_mask, sides[0]),
        _without_nan("moving", theirs, moving_mask, sides[1]),
    )


def with_room(fixed: Image, moving: Image, *, planes: int = 1) -> tuple[Image, Image]:
    """Return both images in arrays of shapes that many pairs have in common.

    Args:
      fixed: image.
      moving: image.
      planes: the planes of both arrays are a multiple of this number.
    """

    def place(image: Image, shape: tuple[int, ...]) -> Image:
        channels = tuple(placed(channel, shape) for channel in image.channels)
        mask = None if image.mask is None else placed(image.mask, shape, beyond=1)
        return Image(channels, mask, image.spacing, image.shape)

    ours, theirs = (
        (-(-shape[0] // planes) * planes, *shape[1:])
        for shape in roomy_shapes(fixed.shape, moving.shape)
    )
    return place(fixed, ours), place(moving, theirs)


def scaled(image: Image) -> Image:
    """Return an image with intensities from 0, the least, to 1, their 99.9th percentile.

    Raises:
      ValueError: a channel has the same value in all voxels that count.
    """
    units = []
    for channel in image.channels:
        unit, contrast = _unit(channel, image.mask, image.size)
        if not known(contrast, lambda contrast: ~(contrast <= 0)):
            volume = channel[tuple(map(slice, image.shape))]
            raise checks.refused(
                "image", volume, "images with contrast", holds="the same value everywhere"
            )
        units.append(unit)
    return image._replace(channels=tuple(units))


@jax.jit
def _unit(channel: Array, mask: Array | None, size: Size) -> tuple[Array, Array]:
    """Return a channel with intensities of 0 to 1, and the range that it had."""
    counts = within(channel.shape, size)
    counts = counts if mask is None else counts & (mask > 0)
    low = jnp.min(channel, where=counts, initial=jnp.inf)
    some = _evenly(channel.shape, size)
    values = channel.reshape(-1).at[some].get(mode="fill", fill_value=jnp.nan)
    there = counts.reshape(-1).at[some].get(mode="fill", fill_value=False)
    above = jnp.where(there & (values > low), values, jnp.nan)
    # Of a few bright voxels the subset may hold none.
    high = jnp.nanpercentile(above, _HIGH)
    high = jnp.where(jnp.isnan(high), jnp.max(channel, where=counts, initial=-jnp.inf), high)
    # 0 times the intensity: no infinite one is taken for a bright one.
    unit = 0 * channel + jnp.clip(
        (channel - low) / jnp.maximum(high - low, jnp.finfo(channel.dtype).tiny), 0, 1
    )
    unit = unit if mask is None else jnp.where(mask > 0, unit, 0)
    return cut(unit, size), high - low


def _evenly(shape: tuple[int, ...], size: Size) -> Array:
    """Return flat indices, in arrays of `shape`, of every so many voxels of the volume.

    There are as many as in the largest volume; the rest is out of range.
    """
    sides = [jnp.asarray(n, jnp.int32) for n in size or shape]
    number = functools.reduce(jnp.multiply, sides)
    voxel = jnp.arange(min(math.prod(shape), _LOOKED_AT), dtype=jnp.int32)
    voxel = voxel * ((number - 1) // _LOOKED_AT + 1)
    rest, index, stride = voxel, jnp.zeros_like(voxel), 1
    for side, length in zip(reversed(sides), reversed(shape), strict=True):
        index = index + rest % side * stride
        rest, stride = rest // side, stride * length
    return jnp.where(voxel < number, index, math.prod(shape))


def _channels(images: Images) -> tuple[Array, ...]:
    return tuple(images) if isinstance(images, tuple | list) else (images,)


def _check_channels(name: str, channels: tuple[Array, ...], shortest: int) -> None:
    if not channels:
        raise checks.refused(name, channels, "an image, or one for each channel")
    labels = [name if len(channels) == 1 else f"{name}[{i}]" for i in range(len(channels))]
    images: dict[str, Any] = dict(zip(labels, channels, strict=True))
    check_images(shortest=shortest, **images)
    checks.single_or_double(**images)
    # Similarities multiply four intensities, summed over windows.
    largest = 1e8 if channels[0].dtype == jnp.float32 else 1e60
    for label, channel in images.items():
        if not known(channel, lambda x: ~jnp.any(jnp.abs(x) > largest)):
            accepted = f"{-largest:g} to {largest:g}, or NaN outside of the image"
            raise checks.refused(label, channel, accepted)


def _without_nan(name: str, channels: tuple[Array, ...], mask: Mask, size) -> Image:
    weights = None
    if mask is not None:
        checks.same_shape(**{name: channels[0], f"{name}_mask": mask})
        weights = mask_weights(mask, channels[0])
    for channel in channels:
        if is_concrete(channel) and not known(channel, lambda x: ~jnp.any(jnp.isnan(x))):
            seen = ~jnp.isnan(channel)
            weights = mask_weights(seen if weights is None else inside(weights, seen), channel)
    if weights is None:
        return Image(channels, None, size)
    return Image(tuple(inside(channel, weights) for channel in channels), weights, size)
