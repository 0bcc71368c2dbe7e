"""Both images moved to a middle by steps that are composed, from coarse to fine.

A step is an update of the map, not of the displacement: smooth steps that are composed make
large deformations that stay smooth, where a sum of displacements would fold. Each step moves
one image by e and the other one by -e, so that no image is favored and both cannot drift
together, which would move structures out of windows.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxml.optimizer import optimizer_step
from jaxml.registration._energy import (
    mean_measure,
    moved_mask,
    roughness,
    smoothed,
    weights_of,
)
from jaxml.registration._extent import Size, along, cut, extended
from jaxml.registration._field import compose
from jaxml.registration._flat import Planes, components, total
from jaxml.registration._foldfree import unfolded
from jaxml.registration._inputs import Projection
from jaxml.registration._inverse import inverse
from jaxml.registration._pyramid import Level, between
from jaxml.registration._resolution import double
from jaxml.registration._sampling import mapped, sample

# Levels, coarse first, whose steps are smoothed widely, the finest one never.
_COARSE_LEVELS = 2


def symmetric(
    fixed: Sequence[Level],
    moving: Sequence[Level],
    affine: Float[Array, "ndim row"],
    planes: Planes,
    counts: Sequence[int],
    smoothness,
    rate,
    *,
    measures,
    projection: Projection,
) -> tuple[Planes, list[Array]]:
    """Return the planes of a field by way of the middle, and the losses of each level.

    Args:
      fixed: levels of the fixed image, coarse first.
      moving: levels of the moving image.
      affine: `[ndim, ndim + 1]`, between the voxels of the whole images.
      planes: of zeros, on the coarsest level.
      counts: steps of each level.
      smoothness: weight of the roughness of the whole displacement.
      rate: length of the first steps of a level, in voxels.
      measures: of each channel.
      projection: as for `register`; here only "fold_free" makes a difference.
    """
    # Displacements from the middle to the fixed image and, before the affine map, to the moving.
    halves, losses = (planes, planes), []
    for level, count in enumerate(counts):
        shape, coarser = fixed[level].image.channels[0].shape, fixed[max(level - 1, 0)].image.size
        halves, loss = symmetric_level(
            fixed[level],
            moving[level],
            affine,
            tuple(double(half, shape, coarser) for half in halves),
            smoothness,
            rate,
            steps=count,
            measures=measures,
            widths=_widths(
                fixed[level].image.spacing, level < min(_COARSE_LEVELS, len(counts) - 1)
            ),
        )
        losses.append(loss)
    return _whole(halves, fixed[-1].image.size, projection=projection), losses


@functools.partial(jax.jit, static_argnames=("steps", "measures", "widths"))
def symmetric_level(
    fixed: Level, moving: Level, affine, halves, smoothness, rate, *, steps, measures, widths
):
    """Return both halves after the steps of one resolution, and the losses before each."""
    matrix = between(fixed, moving, affine)
    dtype, size, other = affine.dtype, fixed.image.size, moving.image.size
    sides = jnp.asarray(fixed.image.spacing, dtype)
    # The roughness of a half is a quarter of that of the whole, and there are two of them.
    weight = 2 * smoothness
    adam = optax.scale_by_adam()
    lengths = rate * jnp.min(sides) / sides
    # Below this no value of the advected field is more than a mean of its neighbors.
    longest = 1 / len(halves[0])

    def step(state, i):
        (to_fixed, to_moving), moments = state
        places = mapped(to_moving, matrix)
        images = (
            tuple(cut(_at(c, to_fixed, size), size) for c in fixed.image.channels),
            tuple(cut(_at(c, places, other), size) for c in moving.image.channels),
        )
        masks = moved_mask(fixed.image.mask, to_fixed), moved_mask(moving.image.mask, places)
        weights = weights_of(places[0].shape, size, *masks)
        likeness = lambda images: mean_measure(measures, images[0], images[1], weights)
        value, slopes = jax.value_and_grad(likeness)(images)
        rough = lambda halves: weight * total(roughness(half, sides, size) for half in halves)
        penalty, pull = jax.value_and_grad(rough)((to_fixed, to_moving))
        forces = [
            tuple(map(jnp.add, _force(moved, slope, size), rest))
            for moved, slope, rest in zip(images, slopes, pull, strict=True)
        ]
        gradient = tuple(smoothed((m - f) / 2, widths, size) for f, m in zip(*forces, strict=True))
        direction, moments = optimizer_step(adam.update, gradient, moments)
        share = (1 + jnp.cos(jnp.pi * i / steps)) / 2
        update = tuple(
            jnp.clip(-length * share * smoothed(d, widths, size), -longest, longest)
            for d, length in zip(direction, lengths, strict=True)
        )
        opposite = tuple(-e for e in update)
        halves = advected(to_fixed, opposite, size), advected(to_moving, update, size)
        return (halves, moments), value + penalty

    times = jnp.arange(steps, dtype=dtype)
    (halves, _), losses = jax.lax.scan(step, (halves, adam.init(halves[0])), times)
    return halves, losses


@functools.partial(jax.jit, static_argnames="projection")
def _whole(halves: tuple[Planes, Planes], size: Size, *, projection: Projection) -> Planes:
    """Return the displacement from the fixed image to the moving one, by way of the middle."""
    to_fixed, to_moving = halves
    if projection == "fold_free":
        # Only a map without folds has an inverse.
        to_fixed = unfolded(to_fixed, size)
    field = lambda planes: jnp.stack([extended(p, size) for p in planes], axis=-1)
    planes = components(compose(field(to_moving), inverse(field(to_fixed))))
    return unfolded(planes, size) if projection == "fold_free" else planes


def advected(planes: Planes, update: Planes, size: Size = None) -> Planes:
    """Return the displacement of the map p + u(p), taken at p + e(p).

    By first-order upwind differences, which for |e| below 1 / ndim are a mean of neighbors.

    Args:
      planes: u in voxels, one plane a component.
      update: e in voxels.
      size: of the volume, where it does not fill the planes.
    """
    moved = []
    for u, own in zip(planes, update, strict=True):
        change = own
        for axis, e in enumerate(update):
            before, after = _neighbors(u, axis, size)
            change = change + jnp.maximum(e, 0) * (after - u) + jnp.maximum(-e, 0) * (before - u)
        moved.append(u + change)
    return tuple(moved)


def _at(image: Array, planes: Planes, size: Size) -> Array:
    """Return an image at p + u(p), with its border repeated outside.

    Zeros there would be edges that pull where an image does not end in its background.
    """
    places = []
    for axis, (u, n) in enumerate(zip(planes, size or image.shape, strict=True)):
        voxel = jax.lax.broadcasted_iota(u.dtype, u.shape, axis)
        places.append(jnp.clip(voxel + u, 0, jnp.asarray(n - 1, u.dtype)) - voxel)
    return sample(image, tuple(places))


def _force(images: tuple[Array, ...], slopes: tuple[Array, ...], size: Size) -> Planes:
    """Return the derivative of the measure with respect to a move of the moved images."""
    by_axis = []
    for axis in range(images[0].ndim):
        neighbors = [_neighbors(image, axis, size) for image in images]
        differences = [after - before for before, after in neighbors]
        by_axis.append(total(map(jnp.multiply, slopes, differences)) / 2)
    return tuple(by_axis)


def _neighbors(plane: Array, axis: int, size: Size) -> tuple[Array, Array]:
    """Return the value before each voxel and the one after it; the border repeats itself."""
    rim = [(1, 1) if a == axis else (0, 0) for a in range(plane.ndim)]
    padded, n = jnp.pad(plane, rim, mode="edge"), plane.shape[axis]
    shifted = functools.partial(jax.lax.slice_in_dim, padded, axis=axis)
    before, after = shifted(0, n), shifted(2, n + 2)
    if size is not None:
        last = jnp.asarray(size[axis], jnp.int32) - 1
        after = jnp.where(along(axis, plane.shape) == last, plane, after)
    return before, after


def _widths(spacing: tuple[float, ...], is_coarse: bool) -> tuple[tuple[int, ...], ...]:
    """Return for each axis the voxels that the sums go over which smooth the steps.

    On the axis of the shortest voxels thrice 5, where large structures have to move as a whole,
    and twice 2 on fine levels; as long on the other axes.
    """
    shares = [min(spacing) / side for side in spacing]
    if is_coarse:
        return tuple((1 + 2 * round(2 * share),) * 3 for share in shares)
    return tuple((1 + round(share),) * 2 for share in shares)
