"""Alignment of two images by a rigid map, a similarity or an affine map, from anywhere."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.optimizer import optimizer_step
from jaxml.registration._extent import Size, extended, halved_size
from jaxml.registration._images import (
    Image,
    Images,
    Spacing,
    checked_pair,
    scaled,
    with_room,
)
from jaxml.registration._linear import Kind, exponential, generators, of_kind, rotations
from jaxml.registration._masks import Mask
from jaxml.registration._mutual_information import cubic_b_spline, information
from jaxml.registration._resolution import halve
from jaxml.tracing import known, nan_unless


class _Stage(NamedTuple):
    """One resolution: how many voxels the longest side has, and what is done there."""

    voxels: int
    points: int
    steps: int
    starts: int


_STAGES = (_Stage(24, 4096, 50, 12), _Stage(48, 8192, 50, 4), _Stage(96, 32768, 60, 1))
# Points for the first look at every rotation.
_FEW_POINTS = 2048
_BINS = 32
# Images are padded to multiples of this, and compared at no more than twice their voxels.
_MULTIPLE = 16
# A map from another rotation must be better than the one from the initial map by this factor,
# and any map better than the initial one by so many nats: images of which one tells nothing of
# the other, as T1 and T2 of a neck, have wrong maps that are better by less.
_GAIN, _EVIDENCE = 1.05, 0.06
# Nats that it costs to stretch, times the mean square of the logarithms of the stretches, and to
# turn, times 1 - the cosine of the angle: images of which one tells little of the other fit best
# where a part of one is enlarged, or lies across.
_STRETCH, _TURN = 0.5, 0.1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Alignment:
    """Result of `affine`.

    Attributes:
      matrix: `[ndim, ndim + 1]`; voxel p of the fixed image lies at matrix[:, :-1] @ p +
        matrix[:, -1] of the moving one, in voxels of that.
      mutual_information: of both images after the map, in nats, at points of the fixed one.
      mutual_information_before: the same at the initial map.
    """

    matrix: Float[Array, "*batch ndim row"]
    mutual_information: Float[Array, "*batch"]
    mutual_information_before: Float[Array, "*batch"]


def affine(
    fixed: Images,
    moving: Images,
    *,
    kind: Kind = "affine",
    initial: Float[Array, "ndim row"] | None = None,
    spacing: Spacing | None = None,
    fixed_mask: Mask = None,
    moving_mask: Mask = None,
) -> Alignment:
    """Return the map of the fixed image's voxels onto the moving image that aligns both.

    Maximizes the mutual information of the intensities, whatever the contrast of either image,
    at points spread over the fixed image; outside of the moving image its border goes on.
    Rotations all around, each with the centers of mass on each other, are looked at on images
    of 24 voxels a side; the best of them, and the initial map, are optimized by Adam, the best
    of those again at twice and at four times that resolution. A map from another rotation is
    taken only where it is better than the one from the initial map by 5%, and the initial map
    stays unless the information grows by .06 nats. Stretches and turns away from the initial map
    cost: half a turn .2 nats.

    Linear parts are matrix exponentials of the steps times the initial one, so that maps never
    turn inside out. The result has a gradient in the images, that of the steps, but for the kinks
    of linear interpolation.

    Args:
      fixed: image `[H, W]` or `[D, H, W]` of any contrast and range of intensities, or a tuple
        of such channels. NaN counts as outside of the image.
      moving: image of as many axes and channels, of any shape.
      kind: "rigid", "similarity" (rigid and one scale) or "affine".
      initial: the map to start with, `[ndim, ndim + 1]` as `Alignment.matrix`, such as that of
        two headers, inv(moving affine) @ fixed affine; without it, the middle of the fixed image
        lies on that of the moving one.
      spacing: sides of a voxel of the fixed image and of the moving one; 1 by default.
      fixed_mask: weights 0 to 1 `[*volume]` of the fixed image: where 0, nothing counts.
      moving_mask: the same of the moving image.

    Returns:
      `Alignment`.

    Raises:
      ValueError: the images are no pair, infinite, or the same everywhere; `initial` is no map
        that keeps the orientation; or another argument is out of its range.

    Source: Mattes et al., "PET-CT image registration in the chest using free-form deformations"
    (TMI 2003), for the measure.
    """
    checks.choice(get_args(Kind), kind=kind)
    first, second = checked_pair(fixed, moving, fixed_mask, moving_mask, spacing, shortest=4)
    initial = checked_initial(initial, first, second)
    first, second = with_room(first, second)
    return aligned(scaled(first), scaled(second), kind, initial)


def checked_initial(initial: Array | None, fixed: Image, moving: Image) -> Array:
    """Return the initial map in voxels, by default the one of middle to middle.

    Raises:
      ValueError: it is no map of this number of axes that keeps the orientation.
    """
    ndim, dtype = len(fixed.shape), fixed.channels[0].dtype
    if initial is None:
        ratio = np.array(fixed.spacing) / np.array(moving.spacing)
        middles = [(np.array(image.shape) - 1) / 2 for image in (fixed, moving)]
        offset = middles[1] - ratio * middles[0]
        return jnp.asarray(np.column_stack([np.diag(ratio), offset]), dtype)
    initial = jnp.asarray(initial, dtype)
    accepted = f"a map [{ndim}, {ndim + 1}] of voxels that keeps the orientation"
    if initial.shape != (ndim, ndim + 1):
        raise checks.refused("initial", initial, accepted)
    if not known(initial, lambda m: jnp.isfinite(m).all() & (jnp.linalg.det(m[:, :-1]) > 0)):
        raise checks.refused("initial", initial, accepted)
    return initial


class _Map(NamedTuple):
    """x to linear @ (x - center of the fixed image) + offset, in mm from the middle of each."""

    linear: Array
    offset: Array


class _Scene(NamedTuple):
    """Both images, fixed first, at one resolution, padded: many shapes share a program."""

    channels: tuple[tuple[Array, ...], ...]
    masks: tuple[Array | None, ...]
    # Of each image: voxels that became one along each axis, voxels along it, sides of a voxel.
    factors: tuple[Array, ...]
    shapes: tuple[Array, ...]
    sides: tuple[Array, ...]
    # Center of mass of each, in mm from the middle.
    centers: tuple[Array, ...]


def aligned(fixed: Image, moving: Image, kind: Kind, initial: Array) -> Alignment:
    """Return the result of `affine` for images with intensities of 0 to 1."""
    # Coordinates of hundreds and sums of thousands: GPUs multiply matrices in half of float32.
    with jax.default_matmul_precision("highest"):
        scenes = []
        for stage in _STAGES:
            pooling = _pooling(stage.voxels, fixed, moving)
            shapes = _shapes_there(pooling, fixed, moving)
            scenes.append(_scene(fixed, moving, pooling=pooling, shapes_there=shapes))
        before, start = _start(scenes[0], initial, kind=kind)
        maps, favor = _first_look(scenes[0], start)
        # Few parameters first: rotations are far off, scales are not.
        kinds: tuple[Kind, ...] = ("rigid", "rigid" if kind == "rigid" else "similarity", kind)
        for scene, stage, kind_here in zip(scenes, _STAGES, kinds, strict=True):
            maps, favor = _improved(scene, start, maps, favor, stage=stage, kind=kind_here)
        return _result(scenes[-1], before, start, maps)


@functools.partial(jax.jit, static_argnames=("pooling", "shapes_there"))
def _scene(fixed: Image, moving: Image, *, pooling, shapes_there) -> _Scene:
    images = fixed, moving
    dtype = fixed.channels[0].dtype

    def padded(array, factors, size, shape):
        array = _pooled(array, factors, size)[tuple(map(slice, shape))]
        rest = [(0, m - n) for n, m in zip(array.shape, shape, strict=True)]
        return jnp.pad(array, rest, mode="edge")

    def pad_all(tree):
        rows = zip(tree, pooling, images, shapes_there, strict=True)
        return tuple(
            jax.tree.map(lambda x, f=f, i=i, s=s: padded(x, f, i.size, s), t) for t, f, i, s in rows
        )

    arrays = lambda rows: tuple(jnp.asarray(row, dtype) for row in rows)
    sides = arrays(image.spacing for image in images)
    shapes = arrays(image.shape for image in images)
    centers = tuple(
        side * (_center_of_mass(image) - (shape - 1) / 2)
        for image, side, shape in zip(images, sides, shapes, strict=True)
    )
    channels = pad_all(image.channels for image in images)
    return _Scene(
        channels, pad_all(i.mask for i in images), arrays(pooling), shapes, sides, centers
    )


@functools.partial(jax.jit, static_argnames="kind")
def _start(scene: _Scene, initial: Array, *, kind: Kind) -> tuple[_Map, _Map]:
    """Return the initial map, and the closest one of the kind."""
    (ours, theirs), (shape, other) = scene.sides, scene.shapes
    linear = theirs[:, None] * initial[:, :-1] / ours[None]
    voxel = scene.centers[0] / ours + (shape - 1) / 2
    offset = (initial[:, :-1] @ voxel + initial[:, -1] - (other - 1) / 2) * theirs
    return _Map(linear, offset), _Map(of_kind(linear, kind), offset)


@jax.jit
def _first_look(scene: _Scene, start: _Map) -> tuple[_Map, Array]:
    """Return the maps to go on with, and what each map's score is favored by."""
    ndim, dtype = len(start.offset), start.offset.dtype
    turns = jnp.asarray(rotations(ndim), dtype)
    centered = start._replace(offset=scene.centers[1])
    turned = _Map(turns @ start.linear, jnp.broadcast_to(centered.offset, (len(turns), ndim)))
    values = jax.lax.map(_score(scene, _FEW_POINTS), turned, batch_size=25)
    best = jax.lax.top_k(values, _STAGES[0].starts - 2)[1]
    join = lambda a, b, c: jnp.concatenate([a[None], b[None], c[best]])
    maps = jax.tree.map(join, start, centered, turned)
    return maps, jnp.ones(_STAGES[0].starts, dtype).at[:2].set(_GAIN)


@functools.partial(jax.jit, static_argnames=("stage", "kind"))
def _improved(
    scene: _Scene, start: _Map, maps: _Map, favor: Array, *, stage: _Stage, kind: Kind
) -> tuple[_Map, Array]:
    """Return the best of the maps after the steps of one resolution, and their favors."""
    information, initial = _score(scene, stage.points), jnp.linalg.inv(start.linear)
    score = lambda at: information(at) - _cost(at.linear @ initial)
    kept = jax.lax.top_k(favor * jax.lax.map(score, maps), stage.starts)[1]
    maps, favor = jax.tree.map(lambda x: x[kept], (maps, favor))
    basis = jnp.asarray(generators(kind, maps.offset.shape[-1]), favor.dtype)
    extent = jnp.max(scene.shapes[0] * scene.sides[0])
    adam = optax.scale_by_adam()

    def improve(first: _Map) -> _Map:
        def moved(parameters) -> _Map:
            exponent, shift = parameters
            # One unit moves points by about 1 mm, in the linear part as in the shift.
            turn = exponential(jnp.tensordot(exponent * 4 / extent, basis, 1))
            return _Map(turn @ first.linear, first.offset + shift)

        slope = jax.grad(lambda parameters: score(moved(parameters)))

        def step(state, i):
            parameters, moments = state
            direction, moments = optimizer_step(adam.update, slope(parameters), moments)
            length = extent / stage.voxels / 4 * (1 + jnp.cos(jnp.pi * i / stage.steps))
            return (jax.tree.map(lambda p, d: p + length * d, parameters, direction), moments), None

        zero = jnp.zeros(len(basis), favor.dtype), jnp.zeros_like(first.offset)
        times = jnp.arange(stage.steps, dtype=favor.dtype)
        # For the derivative of the result: what a step computes is not kept, but run again.
        step = jax.checkpoint(step)
        return moved(jax.lax.scan(step, (zero, adam.init(zero)), times)[0][0])

    return jax.vmap(improve)(maps), favor


@jax.jit
def _result(scene: _Scene, before: _Map, start: _Map, maps: _Map) -> Alignment:
    """Return the first of the maps in voxels, or the start if that is about as good."""
    (ours, theirs), (shape, other) = scene.sides, scene.shapes
    score = _score(scene, _STAGES[-1].points)
    only = jax.tree.map(lambda x: x[0], maps)
    cost = _cost(only.linear @ jnp.linalg.inv(start.linear))
    is_better = score(only) - cost > score(start) + _EVIDENCE
    only = jax.tree.map(functools.partial(jnp.where, is_better), only, start)
    after = score(only)
    linear = only.linear * ours[None] / theirs[:, None]
    voxel = scene.centers[0] / ours + (shape - 1) / 2
    offset = only.offset / theirs + (other - 1) / 2 - linear @ voxel
    matrix = jnp.concatenate([linear, offset[:, None]], axis=1)
    return nan_unless(jnp.isfinite(after), Alignment(matrix, after, score(before)))


def _score(scene: _Scene, points: int) -> Callable[[_Map], Array]:
    """Return the function of a map to the mutual information at points of the fixed image."""
    (ours, theirs), (our_mask, their_mask) = scene.channels, scene.masks
    dtype, ndim = ours[0].dtype, ours[0].ndim
    size = scene.shapes[0] - 1
    points = min(points, 2 * ours[0].size)
    voxels = jnp.asarray(_spread(points, ndim), dtype) * size[None]
    place = (voxels - size[None] / 2) * scene.sides[0][None] - scene.centers[0][None]
    here = functools.partial(_read, voxels=voxels, factor=scene.factors[0])
    windows = [_windows(here(channel)) for channel in ours]
    weights = jnp.ones(points, dtype) if our_mask is None else here(our_mask)
    middle = (scene.shapes[1] - 1) / 2

    def score(at: _Map) -> Array:
        voxels = (place @ at.linear.T + at.offset[None]) / scene.sides[1][None] + middle[None]
        there = functools.partial(_read, voxels=voxels, factor=scene.factors[1])
        share = weights
        if their_mask is not None:
            share = weights * jax.lax.stop_gradient(there(their_mask))
        pairs = zip(windows, theirs, strict=True)
        return functools.reduce(
            jnp.add, [_information(a, _windows(there(channel)), share) for a, channel in pairs]
        )

    return score


def _cost(linear: Array) -> Array:
    """What a linear part beside the initial one costs, in nats; 0 where it is the identity."""
    square, n = linear.T @ linear, len(linear)
    # For stretches near 1 this is the mean square of their logarithms.
    stretch = (jnp.trace(square) + jnp.trace(jnp.linalg.inv(square)) - 2 * n) / (4 * n)
    size = jnp.sqrt(jnp.trace(square) / n)
    # The trace of a rotation is n - 2 + 2 cos.
    turn = (n - jnp.trace(linear) / size) / 2
    return _STRETCH * stretch + _TURN * turn


def _information(a: Array, b: Array, share: Array) -> Array:
    """Mutual information of the intensities with windows `[point, bin]`, points weighted."""
    joint = (a * share[:, None]).T @ b
    # No point may be left in the masks: then there is no information either. Least: so little
    # adds nothing, and the square of 1 / least, in second derivatives, is finite.
    return information(joint / jnp.maximum(jnp.sum(share), 1), least=1e-14)


def _windows(intensities: Array) -> Array:
    """Cubic B-splines around each of the bins, `[point, bin]`; 0 to 1 lies well within."""
    place = 1.0 + intensities * (_BINS - 3)
    return cubic_b_spline(place[:, None] - jnp.arange(_BINS, dtype=intensities.dtype)[None])


def _read(image: Array, voxels: Array, factor: Array) -> Array:
    """The pooled image at points in voxels of the unpooled one; its border goes on outside."""
    return map_coordinates(image, list(((voxels + 0.5) / factor[None] - 0.5).T), 1, "nearest")


def _center_of_mass(image: Image) -> Array:
    """Mean position, in voxels, of the intensities of all channels."""
    mass = functools.reduce(jnp.add, image.channels)
    mass = mass if image.mask is None else mass * image.mask
    axes = range(mass.ndim)
    sums = [jnp.sum(mass, axis=tuple(b for b in axes if b != a)) for a in axes]
    places = [jnp.arange(len(s), dtype=s.dtype) for s in sums]
    return jnp.stack([jnp.vdot(p, s) for p, s in zip(places, sums, strict=True)]) / jnp.sum(mass)


def _pooling(voxels: int, fixed: Image, moving: Image) -> tuple[tuple[int, ...], ...]:
    """Voxels that become one along each axis of each image, powers of 2."""
    target = max(n * s for n, s in zip(fixed.shape, fixed.spacing, strict=True)) / voxels

    def factor(n: int, side: float) -> int:
        # At most 4 voxels are kept; the nearest power of 2.
        return 2 ** max(0, min(round(math.log2(target / side)), int(math.log2(n / 4))))

    return tuple(
        tuple(factor(n, s) for n, s in zip(image.shape, image.spacing, strict=True))
        for image in (fixed, moving)
    )


def _shapes_there(pooling, fixed: Image, moving: Image) -> tuple[tuple[int, ...], ...]:
    """Shapes of the arrays of both pooled images, which depend on the volumes alone."""
    # Multiples of the voxels that are left.
    rounded = lambda n, f: -(-n // (f * _MULTIPLE)) * _MULTIPLE
    sides = zip((fixed, moving), pooling, strict=True)
    return tuple(tuple(map(rounded, image.shape, factors)) for image, factors in sides)


def _pooled(array: Array, factors: tuple[int, ...], size: Size) -> Array:
    """Means over that many voxels along each axis; the border goes on beyond the volume."""
    for power in range(max(factors).bit_length() - 1):
        axes = tuple(a for a, f in enumerate(factors) if f >> power > 1)
        array, size = halve(array, axes, size), halved_size(size, axes)
    return extended(array, size)


def _spread(n: int, ndim: int) -> np.ndarray:
    """Points of the unit cube without gaps or rows, `[n, ndim]`: the additive recurrence of the
    root of x^(ndim + 1) = x + 1.
    """
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (ndim + 1))
    return (0.5 + np.outer(np.arange(n), root ** -np.arange(1.0, ndim + 1))) % 1
