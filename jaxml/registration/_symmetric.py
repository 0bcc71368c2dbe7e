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
    mask_argument,
    mean_measure,
    moved_mask,
    roughness,
    smoothed,
)
from jaxml.registration._field import compose
from jaxml.registration._flat import Planes, components, total
from jaxml.registration._foldfree import fold_free
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
        halves, loss = symmetric_level(
            fixed[level],
            moving[level],
            affine,
            tuple(double(half, fixed[level].image.shape) for half in halves),
            smoothness,
            rate,
            steps=count,
            measures=measures,
            widths=_widths(
                fixed[level].image.spacing, level < min(_COARSE_LEVELS, len(counts) - 1)
            ),
        )
        losses.append(loss)
    return _whole(halves, projection=projection), losses


@functools.partial(jax.jit, static_argnames=("steps", "measures", "widths"))
def symmetric_level(
    fixed: Level, moving: Level, affine, halves, smoothness, rate, *, steps, measures, widths
):
    """Return both halves after the steps of one resolution, and the losses before each."""
    matrix = between(fixed, moving, affine)
    dtype = affine.dtype
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
            tuple(_extended(channel, to_fixed) for channel in fixed.image.channels),
            tuple(_extended(channel, places) for channel in moving.image.channels),
        )
        weights = mask_argument(
            moved_mask(fixed.image.mask, to_fixed), moved_mask(moving.image.mask, places)
        )
        likeness = lambda images: mean_measure(measures, images[0], images[1], weights)
        value, slopes = jax.value_and_grad(likeness)(images)
        rough = lambda halves: weight * total(roughness(half, sides) for half in halves)
        penalty, pull = jax.value_and_grad(rough)((to_fixed, to_moving))
        forces = [
            tuple(map(jnp.add, _force(moved, slope), rest))
            for moved, slope, rest in zip(images, slopes, pull, strict=True)
        ]
        gradient = tuple(smoothed((m - f) / 2, widths) for f, m in zip(*forces, strict=True))
        direction, moments = optimizer_step(adam.update, gradient, moments)
        share = (1 + jnp.cos(jnp.pi * i / steps)) / 2
        update = tuple(
            jnp.clip(-length * share * smoothed(d, widths), -longest, longest)
            for d, length in zip(direction, lengths, strict=True)
        )
        halves = advected(to_fixed, tuple(-e for e in update)), advected(to_moving, update)
        return (halves, moments), value + penalty

    times = jnp.arange(steps, dtype=dtype)
    (halves, _), losses = jax.lax.scan(step, (halves, adam.init(halves[0])), times)
    return halves, losses


@functools.partial(jax.jit, static_argnames="projection")
def _whole(halves: tuple[Planes, Planes], *, projection: Projection) -> Planes:
    """Return the displacement from the fixed image to the moving one, by way of the middle."""
    to_fixed, to_moving = (jnp.stack(half, axis=-1) for half in halves)
    if projection == "fold_free":
        # Only a map without folds has an inverse.
        to_fixed = fold_free(to_fixed).displacement
    u = compose(to_moving, inverse(to_fixed))
    if projection == "fold_free":
        u = fold_free(u).displacement
    return components(u)


def advected(planes: Planes, update: Planes) -> Planes:
    """Return the displacement of the map p + u(p), taken at p + e(p).

    By first-order upwind differences, which for |e| below 1 / ndim are a mean of neighbors.

    Args:
      planes: u in voxels, one plane a component.
      update: e in voxels.
    """
    moved = []
    for u, own in zip(planes, update, strict=True):
        change = own
        for axis, e in enumerate(update):
            before, after = _neighbors(u, axis)
            change = change + jnp.maximum(e, 0) * (after - u) + jnp.maximum(-e, 0) * (before - u)
        moved.append(u + change)
    return tuple(moved)


def _extended(image: Array, planes: Planes) -> Array:
    """Return an image at p + u(p), with its border repeated outside.

    Zeros there would be edges that pull where an image does not end in its background.
    """
    places = []
    for axis, (u, n) in enumerate(zip(planes, image.shape, strict=True)):
        voxel = jax.lax.broadcasted_iota(u.dtype, u.shape, axis)
        places.append(jnp.clip(voxel + u, 0, n - 1) - voxel)
    return sample(image, tuple(places))


def _force(images: tuple[Array, ...], slopes: tuple[Array, ...]) -> Planes:
    """Return the derivative of the measure with respect to a move of the moved images."""
    by_axis = []
    for axis in range(images[0].ndim):
        differences = [after - before for before, after in (_neighbors(i, axis) for i in images)]
        by_axis.append(total(map(jnp.multiply, slopes, differences)) / 2)
    return tuple(by_axis)


def _neighbors(plane: Array, axis: int) -> tuple[Array, Array]:
    """Return the value before each voxel and the one after it; the border repeats itself."""
    rim = [(1, 1) if a == axis else (0, 0) for a in range(plane.ndim)]
    padded, n = jnp.pad(plane, rim, mode="edge"), plane.shape[axis]
    cut = functools.partial(jax.lax.slice_in_dim, padded, axis=axis)
    return cut(0, n), cut(2, n + 2)


def _widths(spacing: tuple[float, ...], is_coarse: bool) -> tuple[tuple[int, ...], ...]:
    """Return for each axis the voxels that the sums go over which smooth the steps.

    On the axis of the shortest voxels thrice 5, where large structures have to move as a whole,
    and twice 2 on fine levels; as long on the other axes.
    """
    shares = [min(spacing) / side for side in spacing]
    if is_coarse:
        return tuple((1 + 2 * round(2 * share),) * 3 for share in shares)
    return tuple((1 + round(share),) * 2 for share in shares)
