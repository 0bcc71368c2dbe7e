"""Registration of two images by optimisation of their displacement field, without training."""

import dataclasses
import functools
from collections.abc import Callable
from typing import get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.optimizer import optimizer_step
from jaxml.registration._diffeomorphic import diffeomorphic_layer, layer_residual
from jaxml.registration._field import count_folds
from jaxml.registration._flat import Planes, components
from jaxml.registration._foldfree import fold_free
from jaxml.registration._inputs import Projection, check_images
from jaxml.registration._resolution import double, halve
from jaxml.registration._sampling import sample
from jaxml.registration._similarity import ncc

Similarity = Callable[[Array, Array], Array]

# Where the caller sets no `levels`, the coarsest image keeps this many voxels along each axis.
_COARSEST = 16
# Steps a level by default, and the number of levels, coarse first, that take all of them: on
# real brains of 1 mm, 100 steps on the finest level folded 2.5% of the voxels, which cost the
# projection .04 of the overlap of labels; 10 steps reach the same overlap with a third of them.
_STEPS, _LONG_LEVELS = 100, 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Registration:
    """Result of `register`.

    Attributes:
      displacement: field in voxels: `moved` at p is the moving image at p + displacement(p).
      moved: the moving image after the field.
      loss: loss before each step, all levels one after another, coarse first.
      folds: number of voxels that are folds by the digital criterion of `count_folds`.
    """

    displacement: Float[Array, "*volume ndim"]
    moved: Float[Array, "*volume"]
    loss: Float[Array, "*batch step"]
    folds: Int[Array, "*batch"]


def register(
    fixed: Float[Array, "*volume"],
    moving: Float[Array, "*volume"],
    *,
    levels: int | None = None,
    steps: int | tuple[int, ...] | None = None,
    similarity: Similarity = ncc,
    smoothness: float = 0.5,
    learning_rate: float = 0.1,
    projection: Projection = None,
    poisson_weight: float = 0.1,
) -> Registration:
    """Return the displacement that moves one image onto another, optimized for this pair.

    Minimizes similarity(fixed, moved) + smoothness * grad_l2(u) from coarse to fine: images
    are halved by means of 2 voxels an axis, fields doubled by linear interpolation. Each level
    takes steps of Adam whose length falls to 0 along a cosine. The field is a sum of a
    variable smoothed by (1, 2, 1) / 4 along each axis, which keeps steps from being rough,
    and of the field of the coarser level.

    Compiled once for each shape and setting. Pass the same function as `similarity` each time: a
    new lambda each call is compiled each call.

    Args:
      fixed: image `[H, W]` or `[D, H, W]`, intensities of about 0 to 1.
      moving: image of the same shape, aligned by an affine map.
      levels: number of resolutions; as many as leave 16 voxels or more an axis by default.
      steps: steps a level, or one number for each level, coarse first. By default 100 on the
        three coarsest levels and 10 on finer ones: fields are rough and hard to unfold where
        voxels much smaller than the structures are fitted for long.
      similarity: any function of (fixed, moved) to a scalar to be minimized, such as `ncc`, `mse`
        or one of your own.
      smoothness: weight of the roughness of the field; smaller fits closer and folds more.
      learning_rate: length of the first steps of each level in voxels of that level.
      projection: None; "layer", which optimizes the input of `diffeomorphic_layer` with its
        residual, for fewer folds; or "fold_free", which projects the field of each level, for
        none: `folds` is 0 unless the projection did not end.
      poisson_weight: weight of `layer_residual`; of use with "layer" only.

    Returns:
      `Registration`.

    Raises:
      ValueError: the images are no pair of volumes, not finite or beyond 1e8 (1e60 in float64),
        `levels` are too many for their size, or another argument is out of its range.

    Source: Kingma and Ba, "Adam" (ICLR 2015); Balakrishnan et al., "VoxelMorph" (TMI 2019), for
    the loss.
    """
    check_images(shortest=4, fixed=fixed, moving=moving)
    checks.single_or_double(fixed=fixed, moving=moving)
    checks.finite(fixed=fixed, moving=moving)
    # Similarities multiply four intensities, summed over windows.
    largest = 1e8 if fixed.dtype == jnp.float32 else 1e60
    checks.values_within(-largest, largest, fixed=fixed, moving=moving)
    levels = _checked_levels(fixed.shape, levels)
    counts = _checked_steps(steps, levels)
    checks.choice(get_args(Projection), projection=projection)
    checks.at_least(0, smoothness=smoothness, poisson_weight=poisson_weight)
    checks.positive(learning_rate=learning_rate)

    pyramid = [(fixed, moving)]
    for _ in range(levels - 1):
        pyramid.append((halve(pyramid[-1][0]), halve(pyramid[-1][1])))
    planes: Planes = (jnp.zeros_like(pyramid[-1][0]),) * fixed.ndim
    losses = []
    for (fixed_here, moving_here), count in zip(reversed(pyramid), counts, strict=True):
        planes, loss = _level(
            fixed_here,
            moving_here,
            double(planes, fixed_here.shape),
            smoothness,
            learning_rate,
            poisson_weight,
            steps=count,
            similarity=similarity,
            projection=projection,
        )
        losses.append(loss)
    return _result(moving, planes, jnp.concatenate(losses), projection=projection)


@functools.partial(jax.jit, static_argnames=("steps", "similarity", "projection"))
def _level(
    fixed, moving, start, smoothness, rate, poisson_weight, *, steps, similarity, projection
):
    """Return the planes after the steps of one resolution, and the losses before each."""

    def loss(planes):
        penalty = jnp.zeros((), fixed.dtype)
        if projection == "layer":
            reconstruction = diffeomorphic_layer(jnp.stack(planes, axis=-1))
            penalty = poisson_weight * layer_residual(reconstruction)
            planes = components(reconstruction.displacement)
        return similarity(fixed, sample(moving, planes)) + smoothness * _roughness(planes) + penalty

    adam = optax.scale_by_adam()

    def step(state, i):
        planes, moments = state
        value, gradient = jax.value_and_grad(loss)(planes)
        # The variable is the field before a smoothing. That is self-adjoint: it takes the
        # gradient to the variable, and the step of the variable back to the field.
        gradient = jax.tree.map(_smooth, gradient)
        direction, moments = optimizer_step(adam.update, gradient, moments)
        length = rate * (1 + jnp.cos(jnp.pi * i / steps)) / 2
        planes = jax.tree.map(lambda p, d: p - length * _smooth(d), planes, direction)
        return (planes, moments), value

    times = jnp.arange(steps, dtype=fixed.dtype)
    (planes, _), losses = jax.lax.scan(step, (start, adam.init(start)), times)
    if projection == "fold_free":
        planes = components(fold_free(jnp.stack(planes, axis=-1)).displacement)
    return planes, losses


@functools.partial(jax.jit, static_argnames="projection")
def _result(moving, planes, loss, *, projection):
    u = jnp.stack(planes, axis=-1)
    if projection == "layer":
        u = diffeomorphic_layer(u).displacement
    return Registration(u, sample(moving, components(u)), loss, count_folds(u, scheme="digital"))


def _smooth(plane: Array) -> Array:
    """Weights (1, 2, 1) / 4 along each axis, the border repeated: self-adjoint."""
    for axis in range(plane.ndim):
        rim = [(1, 1) if a == axis else (0, 0) for a in range(plane.ndim)]
        pair = [2 if a == axis else 1 for a in range(plane.ndim)]
        plane = jnp.pad(plane, rim, mode="edge")
        # Sums of two, twice: (1, 1) on (1, 1) is (1, 2, 1).
        for _ in range(2):
            plane = jax.lax.reduce_window(plane, 0.0, jax.lax.add, pair, (1,) * plane.ndim, "VALID")
    return plane / 4**plane.ndim


def _roughness(planes: Planes) -> Array:
    """`grad_l2` of a field in planes: a stack of them would be one copy more in every step."""
    ndim = len(planes)
    squares = [jnp.mean(jnp.diff(p, axis=a) ** 2) for p in planes for a in range(ndim)]
    return functools.reduce(jnp.add, squares) / ndim**2


def _checked_levels(shape: tuple[int, ...], levels: int | None) -> int:
    """Return the number of levels, the coarsest of which has 4 voxels or more an axis."""
    if levels is None:
        return _most_levels(shape, _COARSEST)
    checks.counts(levels=levels)
    checks.within(1, _most_levels(shape, 4), levels=levels)
    return levels


def _most_levels(shape: tuple[int, ...], least: int) -> int:
    """Return how many levels leave `least` voxels or more an axis."""
    return max(1, (min(shape) // least).bit_length())


def _checked_steps(steps: int | tuple[int, ...] | None, levels: int) -> tuple[int, ...]:
    """Return the number of steps of each level, coarse first."""
    if steps is None:
        return tuple(_STEPS if level < _LONG_LEVELS else _STEPS // 10 for level in range(levels))
    counts = (steps,) * levels if isinstance(steps, int) else tuple(steps)
    if len(counts) != levels or min(counts) < 1:
        accepted = f"a whole number, 1 or more, or one for each of {levels} levels"
        raise checks.refused("steps", steps, accepted)
    return counts
