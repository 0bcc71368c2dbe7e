"""The energy of a displacement field, and steps that lessen it from coarse to fine."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxml.optimizer import optimizer_step
from jaxml.registration._diffeomorphic import diffeomorphic_layer, layer_residual
from jaxml.registration._extent import Size, cut, extended, mean_within, within
from jaxml.registration._flat import Planes, components
from jaxml.registration._foldfree import unfolded
from jaxml.registration._pyramid import Level, between
from jaxml.registration._resolution import double
from jaxml.registration._sampling import mapped, sample

Measure = Callable[..., Array]
# Mean length of the derivatives, each weighted by itself, that the fields of the symmetric method
# have at least between brains of two people.
_USUAL_SLOPE = 0.22
# The largest factor that was tried, of hidden warps of one brain and two scans of one person.
_MOST_RESTRAINT = 4.0


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
    """
    losses = []
    for i, (here, there, count) in enumerate(zip(fixed, moving, counts, strict=True)):
        coarser = fixed[max(i - 1, 0)].image.size
        planes = double(planes, here.image.channels[0].shape, coarser)
        planes, loss = energy_level(
            here,
            there,
            affine,
            planes,
            smoothness,
            restraint,
            rate,
            poisson_weight,
            steps=count,
            measures=measures,
            projection=projection,
        )
        losses.append(loss)
    return planes, losses


@functools.partial(jax.jit, static_argnames=("steps", "measures", "projection"))
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
):
    """Return the planes after the steps of one resolution, and the losses before each."""
    matrix = between(fixed, moving, affine)
    dtype, size = affine.dtype, fixed.image.size
    sides = jnp.asarray(fixed.image.spacing, dtype)
    # k R(u) + (k - 1) k R(u - v) = k^2 R(u - (1 - 1 / k) v) + (k - 1) R(v).
    kept = tuple((1 - 1 / restraint) * v for v in start)
    offset = (restraint - 1) * roughness(start, sides, size)

    def likeness(planes):
        planes = mapped(planes, matrix)
        masks = fixed.image.mask, moved_mask(moving.image.mask, planes)
        weights = jax.lax.stop_gradient(weights_of(planes[0].shape, size, *masks))
        moved = [cut(sample(m, planes), size) for m in moving.image.channels]
        return mean_measure(measures, fixed.image.channels, moved, weights)

    def loss(planes):
        penalty = jnp.zeros((), dtype)
        if projection == "layer":
            reconstruction = diffeomorphic_layer(jnp.stack(planes, axis=-1))
            penalty = poisson_weight * layer_residual(reconstruction)
            planes = components(reconstruction.displacement)
        change = tuple(u - v for u, v in zip(planes, kept, strict=True))
        rough = restraint**2 * roughness(change, sides, size) + offset
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
        gradient = tuple(smoothed(g, binomial, size) for g in gradient)
        direction, moments = optimizer_step(adam.update, gradient, moments)
        share = (1 + jnp.cos(jnp.pi * i / steps)) / 2
        moved = zip(planes, direction, lengths, strict=True)
        planes = tuple(p - length * share * smoothed(d, binomial, size) for p, d, length in moved)
        return (planes, moments), value

    times = jnp.arange(steps, dtype=dtype)
    (planes, _), losses = jax.lax.scan(step, (start, adam.init(start)), times)
    if projection == "fold_free":
        planes = unfolded(planes, size)
    return planes, losses


@jax.jit
def restraint_of(planes: Planes, spacing, size: Size = None) -> Array:
    """Return the factor by which roughness costs more where the field is smooth already.

    The rougher a field has to be, the less smooth are those that are likely for this pair: the
    factor goes with the inverse of the size of the derivatives. That is their mean length, each
    weighted by itself, so that background at rest does not count.

    Args:
      planes: the field, one plane a component.
      spacing: sides of a voxel.
      size: of the volume, where it does not fill the planes.
    """
    squares = jnp.zeros_like(planes[0])
    for plane, side in zip(planes, spacing, strict=True):
        plane = extended(plane, size)
        for axis, other in enumerate(spacing):
            last = jax.lax.slice_in_dim(plane, plane.shape[axis] - 1, None, axis=axis)
            step = jnp.diff(plane, axis=axis, append=last) * jnp.asarray(side / other, plane.dtype)
            squares = squares + step**2
    squares = cut(squares, size)
    # The root has no derivative at 0.
    lengths = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    whole = jnp.sum(lengths)
    mean = jnp.sum(squares) / jnp.where(whole > 0, whole, 1) / len(planes)
    # Images that are alike need no field at all: what there is of one is rounding.
    return jnp.clip(_USUAL_SLOPE / jnp.maximum(mean, 1e-6), 1, _MOST_RESTRAINT)


def mean_measure(measures, fixed, moved, weights) -> Array:
    """Return the mean over channels of their measures."""
    values = [m(f, g, **weights) for m, f, g in zip(measures, fixed, moved, strict=True)]
    return functools.reduce(jnp.add, values) / len(values)


def weights_of(shape: tuple[int, ...], size: Size, *masks: Array | None) -> dict[str, Array]:
    """Return the arguments of a measure for the voxels that count.

    Those that every mask given lets count; where the volume does not fill its arrays of
    `shape`, those within it.
    """
    there = [mask for mask in masks if mask is not None]
    weights = {"mask": functools.reduce(jnp.multiply, there)} if there else {}
    if size is None:
        return weights
    inside = within(shape, size)
    # Beyond the volume lies background, which counts in the windows that reach there.
    weights = {name: cut(mask, size, beyond=1) for name, mask in weights.items()}
    return {**weights, "within": inside}


def moved_mask(mask: Array | None, planes: Planes) -> Array | None:
    """Return the weights of the voxels that a displacement takes from an image with a mask."""
    if mask is None:
        return None
    # Outside of the image lies background, which counts. Of a voxel that mixes what counts with
    # what does not the intensity is of use to nobody.
    left_out = sample(1 - mask, planes)
    return jnp.where(left_out > 1e-3, 0, 1 - left_out)


def smoothed(plane: Array, widths: tuple[tuple[int, ...], ...], size: Size = None) -> Array:
    """Return means over so many voxels along each axis, one after another, border repeated."""
    plane = extended(plane, size)
    for axis, sums in enumerate(widths):
        reach = sum(n - 1 for n in sums) // 2
        rim = [(reach, reach) if a == axis else (0, 0) for a in range(plane.ndim)]
        plane = jnp.pad(plane, rim, mode="edge")
        for n in sums:
            window = [n if a == axis else 1 for a in range(plane.ndim)]
            ones = (1,) * plane.ndim
            plane = jax.lax.reduce_window(plane, 0.0, jax.lax.add, window, ones, "VALID") / n
    return plane


def roughness(planes: Planes, sides: Array, size: Size = None) -> Array:
    """`grad_l2` of a field in planes: a stack of them would be one copy more in every step.

    Component and axis are those of lengths: a voxel has these sides.
    """
    ndim = len(planes)
    # One difference fewer than voxels along its axis.
    inner = [size and tuple(n - int(b == a) for b, n in enumerate(size)) for a in range(ndim)]
    squares = [
        (sides[k] / sides[a]) ** 2 * mean_within(jnp.diff(p, axis=a) ** 2, inner[a])
        for k, p in enumerate(planes)
        for a in range(ndim)
    ]
    return functools.reduce(jnp.add, squares) / ndim**2
