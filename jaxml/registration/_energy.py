"""The energy of a displacement field, and steps that lessen it from coarse to fine."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxml.optimizer import optimizer_step
from jaxml.registration._diffeomorphic import diffeomorphic_layer, layer_residual
from jaxml.registration._extent import Size, cut, extended, within
from jaxml.registration._flat import Planes, components
from jaxml.registration._foldfree import unfolded
from jaxml.registration._halo import (
    Split,
    Window,
    across,
    is_own,
    neighbors,
    on_slabs,
    seen,
    split_of,
    squared_differences,
    stencil,
    window_of,
    windows,
)
from jaxml.registration._pyramid import Level, between
from jaxml.registration._resolution import double
from jaxml.registration._sampling import mapped, sample

Measure = Callable[..., Array]
# Mean length of the derivatives, each weighted by itself, that the fields of the symmetric method
# have at least between brains of two people.
_USUAL_SLOPE = 0.22
# The largest factor that was tried, of hidden warps of one brain and two scans of one person.
_MOST_RESTRAINT = 4.0
# Measures of slabs read so many planes beside them: half of the window of `ncc`.
_REACH = 4


def energy(
    fixed: Sequence[Level],
    moving: Sequence[Level],
    affine,
    planes: Planes,
    counts: Sequence[int],
    smoothness,
    restraint,
    rate,
    poisson_weight,
    *,
    measures,
    projection,
    split: Split | None = None,
) -> tuple[Planes, list[Array]]:
    """Return the planes of a field of least energy, and the losses of each level before each step.

    Args:
      fixed: levels of the fixed image, coarse first.
      moving: levels of the moving image.
      affine: `[ndim, ndim + 1]`, between the voxels of the whole images.
      planes: the field to start with, one plane a component, of the first level.
      counts: steps of each level.
      smoothness: weight of `roughness`.
      restraint: factor k of that weight; the roughness of what a level changes of its start
        counts by another (k - 1) k. Of `restraint_of`, or 1.
      rate: length of the first steps of a level, in voxels.
      poisson_weight: of `layer_residual`, where the projection is "layer".
      measures: of each channel.
      projection: as for `register`.
      split: of the volume of the fixed image; levels with too few planes for it are not split.
    """
    losses = []
    for i, (here, there, count) in enumerate(zip(fixed, moving, counts, strict=True)):
        shape, coarser = here.image.channels[0].shape, fixed[max(i - 1, 0)].image.size
        slabs = split_of(shape, split)
        planes, loss = energy_level(
            here,
            there,
            affine,
            finer(planes, shape, coarser, split=slabs),
            smoothness,
            restraint,
            rate,
            poisson_weight,
            steps=count,
            measures=measures,
            projection=projection,
            split=slabs,
        )
        losses.append(loss)
    return planes, losses


@functools.partial(jax.jit, static_argnames=("steps", "measures", "projection", "split"))
def energy_level(
    fixed: Level,
    moving: Level,
    affine,
    start,
    smoothness,
    restraint,
    rate,
    poisson_weight,
    *,
    steps,
    measures,
    projection,
    split=None,
):
    """Return the planes after the steps of one resolution, and the losses before each."""

    def level(slabs, whole):
        image, start = slabs
        moving, factors, affine, smoothness, restraint, rate, poisson_weight = whole
        dtype, size = affine.dtype, image.size
        window = window_of(start[0].shape[0], 0, split)
        matrix = seen_from(between(Level(image, factors), moving, affine), window)
        sides = jnp.asarray(image.spacing, dtype)
        # k R(u) + (k - 1) k R(u - v) = k^2 R(u - (1 - 1 / k) v) + (k - 1) R(v).
        kept = tuple((1 - 1 / restraint) * v for v in start)
        offset = (restraint - 1) * roughness(start, sides, size, split)

        def likeness(planes):
            planes = mapped(planes, matrix)
            masks = image.mask, moved_mask(moving.image.mask, planes)
            moved = [cut(sample(m, planes), seen(size, window)) for m in moving.image.channels]
            return mean_measure(measures, image.channels, moved, masks, size, split)

        def loss(planes):
            penalty = jnp.zeros((), dtype)
            if projection == "layer":
                reconstruction = diffeomorphic_layer(jnp.stack(planes, axis=-1))
                penalty = poisson_weight * layer_residual(reconstruction)
                planes = components(reconstruction.displacement)
            change = tuple(u - v for u, v in zip(planes, kept, strict=True))
            rough = restraint**2 * roughness(change, sides, size, split) + offset
            return likeness(planes) + smoothness * rough + penalty

        adam = optax.scale_by_adam()
        # As long in mm along each axis; in voxels of the shortest side as long as said.
        lengths = rate * jnp.min(sides) / sides
        # Means of two, twice: (1, 1) on (1, 1) is (1, 2, 1), which is self-adjoint.
        binomial = ((2, 2),) * len(start)

        def step(state, i):
            planes, moments = state
            value, gradient = jax.value_and_grad(loss)(planes)
            # The variable is the field before a smoothing. That is self-adjoint: it takes the
            # gradient to the variable, and the step of the variable back to the field.
            gradient = smoothed(gradient, binomial, size, split)
            direction, moments = optimizer_step(adam.update, gradient, moments)
            share = (1 + jnp.cos(jnp.pi * i / steps)) / 2
            moved = zip(planes, smoothed(direction, binomial, size, split), lengths, strict=True)
            planes = tuple(p - length * share * d for p, d, length in moved)
            return (planes, moments), across(value, split)

        times = jnp.arange(steps, dtype=dtype)
        (planes, _), losses = jax.lax.scan(step, (start, adam.init(start)), times)
        if projection == "fold_free":
            planes = unfolded(planes, size, split)
        return planes, losses

    whole = moving, fixed.factors, affine, smoothness, restraint, rate, poisson_weight
    return on_slabs(level, split, (fixed.image, start), whole, (True, False))


@functools.partial(jax.jit, static_argnames=("shape", "split"))
def finer(planes: Planes, shape: tuple[int, ...], size: Size, *, split: Split | None) -> Planes:
    """Return the planes of a finer level, of arrays of `shape`, from those of a coarser one.

    Args:
      planes: of the coarser level.
      shape: of the arrays there.
      size: of the volume on the coarser level.
      split: of the volume of the finer level.
    """
    devices = 1 if split is None else split.devices
    own = (shape[0] // devices, *shape[1:])
    return on_slabs(lambda p, n: double(p, own, n, split), split, planes, size, True)


@functools.partial(jax.jit, static_argnames="split")
def restraint_of(
    planes: Planes, spacing, size: Size = None, *, split: Split | None = None
) -> Array:
    """Return the factor by which roughness costs more where the field is smooth already.

    The rougher a field has to be, the less smooth are those that are likely for this pair: the
    factor goes with the inverse of the size of the derivatives. That is their mean length, each
    weighted by itself, so that background at rest does not count.

    Args:
      planes: the field, one plane a component.
      spacing: sides of a voxel.
      size: of the volume, where it does not fill the planes.
      split: of the volume.
    """

    def sums(planes: Planes, whole) -> tuple[Array, Array]:
        size, spacing = whole
        squares = jnp.zeros_like(planes[0])
        for plane, side in zip(planes, spacing, strict=True):
            for axis, other in enumerate(spacing):
                _, after = neighbors(plane, axis, size, split)
                squares += ((after - plane) * jnp.asarray(side / other, plane.dtype)) ** 2
        squares = cut(squares, seen(size, window_of(squares.shape[0], 0, split)))
        # The root has no derivative at 0.
        lengths = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
        return across(jnp.sum(squares), split), across(jnp.sum(lengths), split)

    squares, lengths = on_slabs(sums, split, planes, (size, spacing), False)
    mean = squares / jnp.where(lengths > 0, lengths, 1) / len(planes)
    # Images that are alike need no field at all: what there is of one is rounding.
    return jnp.clip(_USUAL_SLOPE / jnp.maximum(mean, 1e-6), 1, _MOST_RESTRAINT)


def seen_from(affine: Float[Array, "ndim row"], window: Window | None) -> Array:
    """Return an affine map of voxels as one of voxels counted from the first plane of a window."""
    if window is None:
        return affine
    first = window.first.astype(affine.dtype)
    return affine.at[:, -1].add(first * affine[:, 0])


def mean_measure(measures, fixed, moved, masks, size: Size, split: Split | None = None) -> Array:
    """Return the mean over channels of their measures; the sum over slabs is that of the volume.

    Args:
      measures: one a channel.
      fixed: channels.
      moved: channels.
      masks: of both, or None.
      size: of the volume, where it does not fill its arrays.
      split: where the arrays are slabs of it; only means over voxels are sums over slabs.
    """
    counted = [mask for mask in masks if mask is not None]
    near, window = windows((*fixed, *moved, *counted), _REACH, split)
    count = len(measures)
    fixed, moved, counted = near[:count], near[count : 2 * count], near[2 * count :]
    mask = functools.reduce(jnp.multiply, counted) if counted else None
    weights, share = _weights_of(near[0], mask, size, window, split)
    values = [m(f, g, **weights) for m, f, g in zip(measures, fixed, moved, strict=True)]
    return share * functools.reduce(jnp.add, values) / len(values)


def _weights_of(image: Array, mask: Array | None, size: Size, window, split):
    """Return the arguments of a measure for the voxels that count, and their share of all."""
    weights = {} if mask is None else {"mask": jax.lax.stop_gradient(mask)}
    if size is None:
        return weights, 1
    size = seen(size, window)
    # Beyond the volume lies background, which counts in the windows that reach there.
    weights = {name: cut(mask, size, beyond=1) for name, mask in weights.items()}
    counts = within(image.shape, size) & is_own(image.shape, window)
    if window is None:
        return {**weights, "within": counts}, 1
    part = jnp.sum(jnp.where(counts, weights.get("mask", jnp.ones_like(image)), 0))
    # A measure of nothing is NaN, 0 times which is no share.
    weights = {name: jnp.where(part > 0, mask, 1) for name, mask in weights.items()}
    return {**weights, "within": counts | (part == 0)}, part / across(part, split)


def moved_mask(mask: Array | None, planes: Planes) -> Array | None:
    """Return the weights of the voxels that a displacement takes from an image with a mask."""
    if mask is None:
        return None
    # Outside of the image lies background, which counts. Of a voxel that mixes what counts with
    # what does not the intensity is of use to nobody.
    left_out = sample(1 - mask, planes)
    return jnp.where(left_out > 1e-3, 0, 1 - left_out)


def smoothed(
    planes: Planes,
    widths: tuple[tuple[int, ...], ...],
    size: Size = None,
    split: Split | None = None,
) -> Planes:
    """Return means over so many voxels along each axis, one after another, border repeated."""
    return tuple(_smoothed(plane, widths, size, split) for plane in planes)


def _smoothed(plane: Array, widths, size: Size, split: Split | None) -> Array:
    for axis, sums in enumerate(widths):
        if sums == (2, 2) and split is not None:
            # The same with fewer arrays at a time.
            before, after = neighbors(plane, axis, size, split)
            plane = (before + 2 * plane + after) / 4
        elif max(sums) > 1:
            reach = sum(n - 1 for n in sums) // 2
            means = functools.partial(_means, axis, sums, reach)
            plane = stencil(means, (plane,), 0 if axis else reach, size, split)
    return plane


def _means(axis: int, sums: tuple[int, ...], reach: int, planes: Planes, size: Size) -> Array:
    plane = extended(planes[0], size)
    rim = [(reach, reach) if a == axis else (0, 0) for a in range(plane.ndim)]
    plane = jnp.pad(plane, rim, mode="edge")
    for n in sums:
        window = [n if a == axis else 1 for a in range(plane.ndim)]
        ones = (1,) * plane.ndim
        plane = jax.lax.reduce_window(plane, 0.0, jax.lax.add, window, ones, "VALID") / n
    return plane


def roughness(planes: Planes, sides: Array, size: Size = None, split: Split | None = None) -> Array:
    """`grad_l2` of a field in planes: a stack of them would be one copy more in every step.

    Component and axis are those of lengths: a voxel has these sides. The sum over slabs is that of
    the volume.
    """
    ndim, squares = len(planes), []
    lengths = [jnp.asarray(n, planes[0].dtype) for n in size or planes[0].shape]
    for k, a in itertools.product(range(ndim), repeat=2):
        # One difference fewer than voxels along its axis.
        number = functools.reduce(jnp.multiply, [n - float(b == a) for b, n in enumerate(lengths)])
        square = jnp.sum(squared_differences(planes[k], a, size, split))
        squares.append((sides[k] / sides[a]) ** 2 * square / number)
    return functools.reduce(jnp.add, squares) / ndim**2
