"""Registration of two images by optimisation of their displacement field, without training."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxml.registration._diffeomorphic import diffeomorphic_layer, poisson_loss
from jaxml.registration._field import components, count_folds, is_finite
from jaxml.registration._foldfree import fold_free
from jaxml.registration._resolution import double, halve
from jaxml.registration._sampling import Planes, sample
from jaxml.registration._similarity import ncc

Similarity = Callable[[Array, Array], Array]
Projection = Literal["layer", "fold_free"]

# The coarsest image keeps this many voxels along its shortest axis, unless `levels` is given.
_COARSEST = 16
# Steps a level by default, and the number of levels, coarse first, that take all of them: on
# real brains of 1 mm, 100 steps on the finest level folded 2.5% of the voxels, which cost the
# projection .04 of the overlap of labels; 10 steps reach the same overlap with a third of them.
_STEPS, _LONG_LEVELS = 100, 3


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["displacement", "moved", "loss", "folds"],
    meta_fields=[],
)
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
    regularity: float = 0.5,
    learning_rate: float = 0.1,
    projection: Projection | None = None,
    poisson_weight: float = 0.1,
) -> Registration:
    """Return the displacement that moves one image onto another, optimised for this pair.

    Minimises similarity(fixed, moved) + regularity * grad_l2(u) from coarse to fine: images
    are halved by means of 2 voxels an axis, fields doubled by linear interpolation. Each level
    takes steps of Adam whose length falls to 0 along a cosine. The field is a sum of a
    variable smoothed by (1, 2, 1) / 4 along each axis, which keeps steps from being rough,
    and of the field of the coarser level. Kingma and Ba, "Adam" (ICLR 2015); Balakrishnan et
    al., "VoxelMorph" (TMI 2019), for the loss.

    Compiled once for each shape and setting. Give `similarity` as a function that is kept: a
    new lambda each call is compiled each call.

    Args:
      fixed: image `[H, W]` or `[D, H, W]`, intensities of about 0 to 1.
      moving: image of the same shape, aligned by an affine map.
      levels: number of resolutions; as many as leave 16 voxels or more an axis by default.
      steps: steps a level, or one number for each level, coarse first. By default 100 on the
        three coarsest levels and 10 on finer ones: fields are rough and hard to unfold where
        voxels much smaller than the structures are fitted for long.
      similarity: loss of (fixed, moved) to be minimised.
      regularity: weight of the roughness of the field; smaller fits closer and folds more.
      learning_rate: length of the first steps of each level in voxels of that level.
      projection: None; "layer", which optimises the input of `diffeomorphic_layer` with its
        loss, for fewer folds; or "fold_free", which projects the field of each level, for
        none: `folds` is 0 unless the projection did not end.
      poisson_weight: weight of the loss of the layer; of use with "layer" only.

    Raises:
      ValueError: the images are no pair of volumes or not finite, `levels` are too many for
        their size, or another argument is out of its range.
    """
    _check_images(fixed, moving)
    levels = _check_levels(fixed.shape, levels)
    counts = _check_steps(steps, levels)
    if projection not in (None, *get_args(Projection)):
        accepted = ", ".join(get_args(Projection))
        raise ValueError(f"projection={projection!r}: accepted are None, {accepted}")
    for name, value in (("regularity", regularity), ("poisson_weight", poisson_weight)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value}: accepted is 0 or more, and finite")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate={learning_rate}: accepted are positive numbers")

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
            regularity,
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
    fixed, moving, start, regularity, rate, poisson_weight, *, steps, similarity, projection
):
    """Return the planes after the steps of one resolution, and the losses before each."""

    def loss_of(planes):
        penalty = jnp.zeros((), fixed.dtype)
        if projection == "layer":
            reconstruction = diffeomorphic_layer(jnp.stack(planes, axis=-1))
            penalty = poisson_weight * poisson_loss(reconstruction)
            planes = components(reconstruction.displacement)
        return similarity(fixed, sample(moving, planes)) + regularity * _roughness(planes) + penalty

    adam = optax.scale_by_adam()

    def step(state, i):
        planes, moments = state
        loss, gradient = jax.value_and_grad(loss_of)(planes)
        # The variable is the field before a smoothing. That is self-adjoint: it takes the
        # gradient to the variable, and the step of the variable back to the field.
        gradient = jax.tree.map(_smooth, gradient)
        # optax is not written for strict promotion, which the caller may have switched on.
        with jax.numpy_dtype_promotion("standard"):
            direction, moments = adam.update(gradient, moments)
        length = rate * (1 + jnp.cos(jnp.pi * i / steps)) / 2
        planes = jax.tree.map(lambda p, d: p - length * _smooth(d), planes, direction)
        return (planes, moments), loss

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
    """`grad_l2` of a field given as planes."""
    ndim = len(planes)
    squares = [jnp.mean(jnp.diff(p, axis=a) ** 2) for p in planes for a in range(ndim)]
    return functools.reduce(jnp.add, squares) / ndim**2


def _check_images(fixed: Array, moving: Array) -> None:
    if fixed.ndim not in (2, 3) or min(fixed.shape) < 4:
        raise ValueError(
            f"fixed: shape {fixed.shape}; accepted are [H, W] and [D, H, W] of 4 voxels or more"
        )
    if moving.shape != fixed.shape:
        raise ValueError(f"moving: shape {moving.shape}; fixed has {fixed.shape}")
    for name, image in (("fixed", fixed), ("moving", moving)):
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(f"{name}: dtype {image.dtype}; accepted are floating-point numbers")
        if not is_finite(image):
            raise ValueError(f"{name}: holds NaN or infinity; accepted are finite numbers")
    if moving.dtype != fixed.dtype:
        raise ValueError(f"moving: dtype {moving.dtype}; fixed has {fixed.dtype}")


def _check_levels(shape: tuple[int, ...], levels: int | None) -> int:
    """Number of levels, the coarsest of which has 4 voxels or more an axis."""
    most = lambda least: max(1, (min(shape) // least).bit_length())
    if levels is None:
        return most(_COARSEST)
    if not 1 <= levels <= most(4):
        raise ValueError(f"levels={levels}: accepted is 1 to {most(4)} for shape {shape}")
    return levels


def _check_steps(steps: int | tuple[int, ...] | None, levels: int) -> tuple[int, ...]:
    """Number of steps of each level, coarse first."""
    if steps is None:
        return tuple(_STEPS if level < _LONG_LEVELS else _STEPS // 10 for level in range(levels))
    counts = (steps,) * levels if isinstance(steps, int) else tuple(steps)
    if len(counts) != levels or min(counts) < 1:
        raise ValueError(f"steps={steps}: accepted are numbers from 1, for {levels} levels")
    return counts
