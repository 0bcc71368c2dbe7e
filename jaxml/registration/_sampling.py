"""Linear sampling of an image at displaced voxels, with the derivative beside the value.

Equal to `warp` in value and gradient. Registration takes the gradient with respect to the
displacement at each step, and automatic differentiation reads the corners of each cell again
for every component of it: here they are read once.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml.registration._extent import Size
from jaxml.registration._flat import Planes, total


def mapped(displacement: Planes, affine: Float[Array, "ndim row"]) -> Planes:
    """Return the displacement of affine (p + u(p)).

    Args:
      displacement: u in voxels, one plane an axis.
      affine: linear part and, as the last column, offset, both in voxels.
    """
    shape = displacement[0].shape
    voxels = [jax.lax.broadcasted_iota(affine.dtype, shape, a) for a in range(len(shape))]
    # Small numbers are multiplied: of coordinates of hundreds rounding would cost more.
    shift = affine[:, :-1] - jnp.eye(len(shape), dtype=affine.dtype)
    places = [v + u for v, u in zip(voxels, displacement, strict=True)]
    return tuple(
        u + offset + total(a * x for a, x in zip(row, places, strict=True))
        for u, row, offset in zip(displacement, shift, affine[:, -1], strict=True)
    )


@jax.custom_vjp
def sample(image: Float[Array, "*image"], displacement: Planes) -> Float[Array, "*volume"]:
    """Return the image at p + u(p), linear between voxels and 0 outside of it.

    Args:
      image: `[H, W]` or `[D, H, W]`.
      displacement: u in voxels of the image, one plane an axis, all `[*volume]`.
    """
    return _interpolate(image, displacement)[0]


def _sample_forward(image, displacement):
    value, slopes = _interpolate(image, displacement)
    return value, (image, displacement, slopes)


def _sample_backward(residuals, cotangent):
    image, displacement, slopes = residuals
    pull = jax.vjp(lambda image: _interpolate(image, displacement)[0], image)[1]
    return *pull(cotangent), tuple(cotangent * slope for slope in slopes)


sample.defvjp(_sample_forward, _sample_backward)


def sample_inside(
    image: Float[Array, "*image"], displacement: Planes, size: Size = None
) -> Float[Array, "*volume"]:
    """Return the image at p + u(p), linear between voxels, with its border repeated outside.

    Args:
      image: `[H, W]` or `[D, H, W]`.
      displacement: u in voxels of the image, one plane an axis, all `[*volume]`.
      size: of the volume, where it does not fill the image.
    """
    places = []
    for axis, (u, n) in enumerate(zip(displacement, size or image.shape, strict=True)):
        voxel = jax.lax.broadcasted_iota(u.dtype, u.shape, axis)
        places.append(jnp.clip(voxel + u, 0, jnp.asarray(n - 1, u.dtype)))
    return _between_voxels(image, tuple(places))[0]


def _interpolate(image: Array, displacement: Planes) -> tuple[Array, Planes]:
    """Value, and derivative along each axis, of the multilinear interpolation."""
    # Points far outside are moved to the rim of two zeros: value and derivative are 0 there.
    places = []
    for axis, (n, u) in enumerate(zip(image.shape, displacement, strict=True)):
        voxel = jax.lax.broadcasted_iota(u.dtype, u.shape, axis)
        places.append(jnp.clip(voxel + 2 + u, 0, n + 3))
    return _between_voxels(jnp.pad(image, 2), tuple(places))


def _between_voxels(image: Array, places: Planes) -> tuple[Array, Planes]:
    """Value and derivatives at places within the array."""
    strides = [math.prod(image.shape[axis + 1 :]) for axis in range(image.ndim)]
    cell, fractions = jnp.zeros(places[0].shape, jnp.int32), []
    for n, stride, place in zip(image.shape, strides, places, strict=True):
        low = jnp.minimum(jnp.floor(place), n - 2)
        fractions.append(place - low)
        cell = cell + low.astype(jnp.int32) * stride
    corners = _read_corners(image.reshape(-1), cell, strides)

    def interpolate(axis: int, corner: tuple[int, ...]) -> tuple[Array, Planes]:
        if axis == image.ndim:
            return corners[corner], ()
        low, low_slopes = interpolate(axis + 1, (*corner, 0))
        high, high_slopes = interpolate(axis + 1, (*corner, 1))
        between = lambda a, b: a + fractions[axis] * (b - a)
        return between(low, high), (high - low, *map(between, low_slopes, high_slopes))

    return interpolate(0, ())


def _read_corners(flat: Array, cell: Array, strides: list[int]) -> dict[tuple[int, ...], Array]:
    """Image at each corner of the cells, whose first corner has the flat index `cell`."""
    read = lambda flat, index: flat.at[index].get(mode="promise_in_bounds")
    # A branch is compiled apart. Without it the compiler reads the corners anew for the value
    # and for each of its derivatives, and takes three times as long.
    anywhere = cell.reshape(-1)[0] >= 0
    zero = lambda flat, index: jnp.zeros(index.shape, flat.dtype)
    corners = {}
    for corner in itertools.product((0, 1), repeat=len(strides)):
        shift = sum(c * s for c, s in zip(corner, strides, strict=True))
        corners[corner] = jax.lax.cond(anywhere, read, zero, flat, cell + shift)
    return corners
