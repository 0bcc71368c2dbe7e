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
    finer,
    mean_measure,
    moved_mask,
    roughness,
    seen_from,
    smoothed,
)
from jaxml.registration._extent import Size, cut, extended
from jaxml.registration._field import compose
from jaxml.registration._flat import Planes, components, total
from jaxml.registration._foldfree import unfolded
from jaxml.registration._halo import (
    Split,
    across,
    gathered,
    neighbors,
    on_slabs,
    seen,
    split_of,
    window_of,
)
from jaxml.registration._inputs import Projection
from jaxml.registration._inverse import inverse, inverse_of_slab
from jaxml.registration._pyramid import Level, between
from jaxml.registration._sampling import mapped, sample_inside

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
    split: Split | None = None,
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
      split: of the volume of the fixed image; levels with too few planes for it are not split.
    """
    # Displacements from the middle to the fixed image and, before the affine map, to the moving.
    halves, losses = (planes, planes), []
    for level, count in enumerate(counts):
        shape, coarser = fixed[level].image.channels[0].shape, fixed[max(level - 1, 0)].image.size
        slabs = split_of(shape, split)
        halves, loss = symmetric_level(
            fixed[level],
            moving[level],
            affine,
            tuple(finer(half, shape, coarser, split=slabs) for half in halves),
            smoothness,
            rate,
            steps=count,
            measures=measures,
            widths=_widths(
                fixed[level].image.spacing, level < min(_COARSE_LEVELS, len(counts) - 1)
            ),
            split=slabs,
        )
        losses.append(loss)
    whole = _whole(halves, fixed[-1].image.size, projection=projection, split=split)
    return whole, losses


@functools.partial(jax.jit, static_argnames=("steps", "measures", "widths", "split"))
def symmetric_level(
    fixed: Level,
    moving: Level,
    affine,
    halves,
    smoothness,
    rate,
    *,
    steps,
    measures,
    widths,
    split=None,
):
    """Return both halves after the steps of one resolution, and the losses before each."""

    def level(halves, whole):
        fixed, moving, affine, smoothness, rate = whole
        dtype, size, other = affine.dtype, fixed.image.size, moving.image.size
        window = window_of(halves[0][0].shape[0], 0, split)
        here = seen(size, window)
        to_middle = seen_from(_identity(halves[0]), window)
        matrix = seen_from(between(fixed, moving, affine), window)
        sides = jnp.asarray(fixed.image.spacing, dtype)
        # The roughness of a half is a quarter of that of the whole, and there are two of them.
        weight = 2 * smoothness
        adam = optax.scale_by_adam()
        lengths = rate * jnp.min(sides) / sides
        # Below this no value of the advected field is more than a mean of its neighbors.
        longest = 1 / len(halves[0])

        def step(state, i):
            (to_fixed, to_moving), moments = state
            spots = to_fixed if window is None else mapped(to_fixed, to_middle)
            places = mapped(to_moving, matrix)
            # With the border repeated: zeros outside would be edges, which pull where an image does
            # not end in its background.
            images = (
                tuple(cut(sample_inside(c, spots, size), here) for c in fixed.image.channels),
                tuple(cut(sample_inside(c, places, other), here) for c in moving.image.channels),
            )
            masks = moved_mask(fixed.image.mask, spots), moved_mask(moving.image.mask, places)
            likeness = lambda images: mean_measure(
                measures, images[0], images[1], masks, size, split
            )
            value, slopes = jax.value_and_grad(likeness)(images)
            rough = lambda halves: (
                weight * total(roughness(half, sides, size, split) for half in halves)
            )
            penalty, pull = jax.value_and_grad(rough)((to_fixed, to_moving))
            forces = [
                tuple(map(jnp.add, _force(moved, slope, size, split), rest))
                for moved, slope, rest in zip(images, slopes, pull, strict=True)
            ]
            gradient = tuple((m - f) / 2 for f, m in zip(*forces, strict=True))
            gradient = smoothed(gradient, widths, size, split)
            direction, moments = optimizer_step(adam.update, gradient, moments)
            share = (1 + jnp.cos(jnp.pi * i / steps)) / 2
            update = tuple(
                jnp.clip(-length * share * d, -longest, longest)
                for d, length in zip(smoothed(direction, widths, size, split), lengths, strict=True)
            )
            opposite = tuple(-e for e in update)
            halves = (
                advected(to_fixed, opposite, size, split),
                advected(to_moving, update, size, split),
            )
            return (halves, moments), across(value + penalty, split)

        times = jnp.arange(steps, dtype=dtype)
        (halves, _), losses = jax.lax.scan(step, (halves, adam.init(halves[0])), times)
        return halves, losses

    whole = fixed, moving, affine, smoothness, rate
    return on_slabs(level, split, halves, whole, (True, False))


@functools.partial(jax.jit, static_argnames=("projection", "split"))
def _whole(
    halves: tuple[Planes, Planes], size: Size, *, projection: Projection, split: Split | None
) -> Planes:
    """Return the displacement from the fixed image to the moving one, by way of the middle."""

    def joined(halves: tuple[Planes, Planes], size: Size) -> Planes:
        to_fixed, to_moving = halves
        if projection == "fold_free":
            # Only a map without folds has an inverse.
            to_fixed = unfolded(to_fixed, size, split)
        field = lambda planes: jnp.stack([extended(p, size) for p in planes], axis=-1)
        window = window_of(to_fixed[0].shape[0], 0, split)
        if window is None:
            planes = components(compose(field(to_moving), inverse(field(to_fixed))))
        else:
            whole = field(tuple(gathered(p, split) for p in to_fixed))
            back = components(inverse_of_slab(whole, window))
            spots = mapped(back, seen_from(_identity(back), window))
            onwards = [sample_inside(gathered(p, split), spots, size) for p in to_moving]
            planes = tuple(map(jnp.add, back, onwards))
        return unfolded(planes, size, split) if projection == "fold_free" else planes

    return on_slabs(joined, split, halves, size, True)


def _identity(planes: Planes) -> Array:
    return jnp.eye(len(planes), len(planes) + 1, dtype=planes[0].dtype)


def advected(
    planes: Planes, update: Planes, size: Size = None, split: Split | None = None
) -> Planes:
    """Return the displacement of the map p + u(p), taken at p + e(p).

    By first-order upwind differences, which for |e| below 1 / ndim are a mean of neighbors.

    Args:
      planes: u in voxels, one plane a component.
      update: e in voxels.
      size: of the volume, where it does not fill the planes.
      split: where the planes are slabs of it.
    """

    moved = []
    for u, own in zip(planes, update, strict=True):
        change = own
        for axis, e in enumerate(update):
            before, after = neighbors(u, axis, size, split)
            change = change + jnp.maximum(e, 0) * (after - u) + jnp.maximum(-e, 0) * (before - u)
        moved.append(u + change)
    return tuple(moved)


def _force(
    images: tuple[Array, ...], slopes: tuple[Array, ...], size: Size, split: Split | None
) -> Planes:
    """Return the derivative of the measure with respect to a move of the moved images."""

    by_axis = []
    for axis in range(images[0].ndim):
        sides = [neighbors(image, axis, size, split) for image in images]
        differences = [after - before for before, after in sides]
        by_axis.append(total(map(jnp.multiply, slopes, differences)) / 2)
    return tuple(by_axis)


def _widths(spacing: tuple[float, ...], is_coarse: bool) -> tuple[tuple[int, ...], ...]:
    """Return for each axis the voxels that the sums go over which smooth the steps.

    On the axis of the shortest voxels thrice 5, where large structures have to move as a whole,
    and twice 2 on fine levels; as long on the other axes.
    """
    shares = [min(spacing) / side for side in spacing]
    if is_coarse:
        return tuple((1 + 2 * round(2 * share),) * 3 for share in shares)
    return tuple((1 + round(share),) * 2 for share in shares)
