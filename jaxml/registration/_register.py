"""Registration of two images by optimisation of their displacement field, without training."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.optimizer import optimizer_step
from jaxml.registration._affine import Kind, aligned, checked_initial
from jaxml.registration._diffeomorphic import diffeomorphic_layer, layer_residual
from jaxml.registration._field import count_folds
from jaxml.registration._flat import Planes, components
from jaxml.registration._foldfree import fold_free
from jaxml.registration._images import Image, Images, Spacing, checked_pair, scaled
from jaxml.registration._inputs import Projection
from jaxml.registration._masks import Mask
from jaxml.registration._mutual_information import mutual_information
from jaxml.registration._pyramid import Level, between, most_levels, pyramid
from jaxml.registration._resolution import double
from jaxml.registration._sampling import mapped, sample
from jaxml.registration._similarity import mse, ncc

Measure = Callable[..., Array]
Similarity = Literal["ncc", "mi", "mse"] | Measure

# Measure of a name, and the weight of the roughness that suits its size where none is given.
_MEASURES: dict[str, tuple[Measure, float]] = {
    "ncc": (ncc, 1.0),
    "mi": (mutual_information, 1.0),
    "mse": (mse, 0.02),
}
# Where the caller sets no `levels`, the coarsest image keeps this many voxels along each axis.
_COARSEST = 16
# Steps a level by default, and the number of levels, coarse first, that take all of them: on
# real brains of 1 mm, 100 steps on the finest level folded 2.5% of the voxels, which cost the
# projection .04 of the overlap of labels; 10 steps reach the same overlap with a third of them.
_STEPS, _LONG_LEVELS = 100, 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Registration:
    """Result of `register`: `moved` at p is the moving image at affine (p + displacement(p)).

    Attributes:
      displacement: field in voxels of the fixed image.
      affine: `[ndim, ndim + 1]`, voxels of the fixed image to voxels of the moving one.
      moved: the moving image, or each channel of it, after both, by one interpolation.
      loss: loss before each step, all levels one after another, coarse first.
      folds: number of voxels that are folds by the digital criterion of `count_folds`.
    """

    displacement: Float[Array, "*volume ndim"]
    affine: Float[Array, "*batch ndim row"]
    moved: Images
    loss: Float[Array, "*batch step"]
    folds: Int[Array, "*batch"]


def register(
    fixed: Images,
    moving: Images,
    *,
    affine: Kind | None = "affine",
    initial: Float[Array, "ndim row"] | None = None,
    spacing: Spacing | None = None,
    similarity: Similarity | tuple[Similarity, ...] = "ncc",
    fixed_mask: Mask = None,
    moving_mask: Mask = None,
    levels: int | None = None,
    steps: int | tuple[int, ...] | None = None,
    smoothness: float | None = None,
    learning_rate: float = 0.1,
    projection: Projection = "fold_free",
    poisson_weight: float = 0.1,
) -> Registration:
    """Return the maps that move one image onto another, optimized for this pair.

    First the affine map of `registration.affine`, then the displacement u that minimizes
    similarity(fixed, moved) + smoothness * grad_l2(u) from coarse to fine: images are halved by
    means of 2 voxels along the axes of their shortest sides, fields doubled by linear
    interpolation. Each level takes steps of Adam whose length falls to 0 along a cosine. The
    field is a sum of a variable smoothed by (1, 2, 1) / 4 along each axis, which keeps steps
    from being rough, and of the field of the coarser level.

    Compiled once for each shape and setting. Pass the same function as `similarity` each time: a
    new lambda each call is compiled each call.

    Args:
      fixed: image `[H, W]` or `[D, H, W]` of any range of intensities, or a tuple of such
        channels. NaN counts as outside of the image; where values are traced, only in a mask.
      moving: image of as many axes and channels, of any shape.
      affine: "affine", "similarity" or "rigid"; None to start at the initial map.
      initial: the map of voxels to start with, as for `registration.affine`.
      spacing: sides of a voxel of the fixed image and of the moving one; 1 by default. Levels,
        steps and roughness are those of the lengths that they make of voxels.
      similarity: "ncc" for images of about the same contrast, "mi" (`mutual_information`) for
        any contrast, "mse" for the same one, each of intensities scaled to 0 to 1; or a function
        of (fixed, moved), as they are, to a scalar to be minimized, which with masks also gets
        the weights `mask`. For channels one each, or one for all; the mean counts.
      fixed_mask: weights 0 to 1 of the fixed image's voxels: where 0, the similarity sees none.
      moving_mask: the same of the moving image, moved along with it.
      levels: number of resolutions; as many as leave 16 voxels or more an axis by default.
      steps: steps a level, or one number for each level, coarse first. By default 100 on the
        three coarsest levels and 10 on finer ones: fields are rough and hard to unfold where
        voxels much smaller than the structures are fitted for long.
      smoothness: weight of the roughness of the field; smaller fits closer and folds more. By
        default 1, and 0.02 for "mse".
      learning_rate: length of the first steps of each level in voxels of that level.
      projection: "fold_free", which projects the field of each level: `folds` is 0 unless the
        projection did not end; "layer", which optimizes the input of `diffeomorphic_layer` with
        its residual, for fewer folds; or None.
      poisson_weight: weight of `layer_residual`; of use with "layer" only.

    Returns:
      `Registration`.

    Raises:
      ValueError: the images are no pair of volumes, infinite, beyond 1e8 (1e60 in float64) or
        the same everywhere, `levels` are too many for their size, or another argument is out of
        its range.

    Source: Kingma and Ba, "Adam" (ICLR 2015); Balakrishnan et al., "VoxelMorph" (TMI 2019), for
    the loss.
    """
    first, second = checked_pair(fixed, moving, fixed_mask, moving_mask, spacing, shortest=4)
    checks.choice((*get_args(Kind), None), affine=affine)
    measures, named, weight = _checked_similarity(similarity, len(first.channels))
    levels = _checked_levels(first, levels)
    counts = _checked_steps(steps, levels)
    checks.choice(get_args(Projection), projection=projection)
    smoothness = weight if smoothness is None else smoothness
    checks.at_least(0, smoothness=smoothness, poisson_weight=poisson_weight)
    checks.positive(learning_rate=learning_rate)
    start = checked_initial(initial, first, second)

    units = scaled(first), scaled(second)
    if affine is not None:
        start = aligned(*units, affine, start).matrix
    compared = [
        side._replace(channels=tuple(map(_choose, named, unit.channels, side.channels)))
        for unit, side in zip(units, (first, second), strict=True)
    ]
    side = min(first.spacing)
    pyramids = [pyramid(image, side, levels) for image in compared]
    planes: Planes = (jnp.zeros(pyramids[0][-1].image.shape, start.dtype),) * start.shape[0]
    losses = []
    for here, there, count in zip(*map(reversed, pyramids), counts, strict=True):
        planes, loss = _level(
            here,
            there,
            start,
            double(planes, here.image.shape),
            smoothness,
            learning_rate,
            poisson_weight,
            steps=count,
            measures=measures,
            projection=projection,
        )
        losses.append(loss)
    return _result(
        moving, second.channels, start, planes, jnp.concatenate(losses), projection=projection
    )


@functools.partial(jax.jit, static_argnames=("steps", "measures", "projection"))
def _level(
    fixed: Level,
    moving: Level,
    affine,
    start,
    smoothness,
    rate,
    poisson_weight,
    *,
    steps,
    measures,
    projection,
):
    """Return the planes after the steps of one resolution, and the losses before each."""
    matrix = between(fixed, moving, affine)
    dtype = affine.dtype
    sides = jnp.asarray(fixed.image.spacing, dtype)

    def likeness(planes):
        planes = mapped(planes, matrix)
        weights = {}
        if fixed.image.mask is not None or moving.image.mask is not None:
            weights = {"mask": jax.lax.stop_gradient(_weight(fixed, moving, planes))}
        pairs = zip(measures, fixed.image.channels, moving.image.channels, strict=True)
        values = [measure(f, sample(m, planes), **weights) for measure, f, m in pairs]
        return functools.reduce(jnp.add, values) / len(values)

    def loss(planes):
        penalty = jnp.zeros((), dtype)
        if projection == "layer":
            reconstruction = diffeomorphic_layer(jnp.stack(planes, axis=-1))
            penalty = poisson_weight * layer_residual(reconstruction)
            planes = components(reconstruction.displacement)
        return likeness(planes) + smoothness * _roughness(planes, sides) + penalty

    adam = optax.scale_by_adam()
    # As long in mm along each axis; in voxels of the shortest side as long as said.
    lengths = rate * jnp.min(sides) / sides

    def step(state, i):
        planes, moments = state
        value, gradient = jax.value_and_grad(loss)(planes)
        # The variable is the field before a smoothing. That is self-adjoint: it takes the
        # gradient to the variable, and the step of the variable back to the field.
        gradient = jax.tree.map(_smooth, gradient)
        direction, moments = optimizer_step(adam.update, gradient, moments)
        share = (1 + jnp.cos(jnp.pi * i / steps)) / 2
        moved = zip(planes, direction, lengths, strict=True)
        planes = tuple(p - length * share * _smooth(d) for p, d, length in moved)
        return (planes, moments), value

    times = jnp.arange(steps, dtype=dtype)
    (planes, _), losses = jax.lax.scan(step, (start, adam.init(start)), times)
    if projection == "fold_free":
        planes = components(fold_free(jnp.stack(planes, axis=-1)).displacement)
    return planes, losses


@functools.partial(jax.jit, static_argnames="projection")
def _result(moving, channels, affine, planes, loss, *, projection):
    u = jnp.stack(planes, axis=-1)
    if projection == "layer":
        u = diffeomorphic_layer(u).displacement
    moved = tuple(sample(channel, mapped(components(u), affine)) for channel in channels)
    if not isinstance(moving, tuple | list):
        (moved,) = moved
    return Registration(u, affine, moved, loss, count_folds(u, scheme="digital"))


def _weight(fixed: Level, moving: Level, planes: Planes) -> Array:
    """Weight of each voxel of the fixed image: 0 where either mask leaves it out."""
    weight = jnp.ones(fixed.image.shape, planes[0].dtype)
    if fixed.image.mask is not None:
        weight = fixed.image.mask
    if moving.image.mask is not None:
        # Outside of the moving image lies background, which counts. Of a voxel that mixes what
        # counts with what does not the intensity is of use to nobody.
        left_out = sample(1 - moving.image.mask, planes)
        weight = weight * jnp.where(left_out > 1e-3, 0, 1 - left_out)
    return weight


def _choose(named: bool, unit: Array, plain: Array) -> Array:
    return unit if named else plain


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


def _roughness(planes: Planes, sides: Array) -> Array:
    """`grad_l2` of a field in planes: a stack of them would be one copy more in every step.

    Component and axis are those of lengths: a voxel has these sides.
    """
    ndim = len(planes)
    squares = [
        (sides[k] / sides[a]) ** 2 * jnp.mean(jnp.diff(p, axis=a) ** 2)
        for k, p in enumerate(planes)
        for a in range(ndim)
    ]
    return functools.reduce(jnp.add, squares) / ndim**2


def _checked_similarity(
    similarity: Similarity | tuple[Similarity, ...], channels: int
) -> tuple[tuple[Measure, ...], tuple[bool, ...], float]:
    """Return each channel's measure, whether it goes by a name, and the weight that suits."""
    each = tuple(similarity) if isinstance(similarity, tuple | list) else (similarity,) * channels
    if len(each) != channels:
        raise checks.refused(
            "similarity", similarity, f"one, or one for each of {channels} channels"
        )
    for one in each:
        if not callable(one) and one not in _MEASURES:
            accepted = ", ".join(map(repr, _MEASURES)) + " or a function of (fixed, moved)"
            raise checks.refused("similarity", one, accepted)
    measures = tuple(one if callable(one) else _MEASURES[one][0] for one in each)
    named = tuple(not callable(one) for one in each)
    weights = [1.0 if callable(one) else _MEASURES[one][1] for one in each]
    return measures, named, sum(weights) / len(weights)


def _checked_levels(fixed: Image, levels: int | None) -> int:
    """Return the number of levels, the coarsest of which has 4 voxels or more an axis."""
    if levels is None:
        return most_levels(fixed, _COARSEST)
    checks.counts(levels=levels)
    checks.within(1, most_levels(fixed, 4), levels=levels)
    return levels


def _checked_steps(steps: int | tuple[int, ...] | None, levels: int) -> tuple[int, ...]:
    """Return the number of steps of each level, coarse first."""
    if steps is None:
        return tuple(_STEPS if level < _LONG_LEVELS else _STEPS // 10 for level in range(levels))
    counts = (steps,) * levels if isinstance(steps, int) else tuple(steps)
    if len(counts) != levels or min(counts) < 1:
        accepted = f"a whole number, 1 or more, or one for each of {levels} levels"
        raise checks.refused("steps", steps, accepted)
    return counts
