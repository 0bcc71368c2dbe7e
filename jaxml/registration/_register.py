"""Registration of two images by optimisation of their displacement field, without training."""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.registration._affine import Kind, aligned, checked_initial
from jaxml.registration._diffeomorphic import diffeomorphic_layer
from jaxml.registration._energy import Measure, energy, restraint_of, seen_from
from jaxml.registration._field import count_digital_folds
from jaxml.registration._flat import Planes, components
from jaxml.registration._halo import (
    THINNEST,
    Split,
    checked_split,
    on_devices,
    on_slabs,
    window_of,
)
from jaxml.registration._images import Image, Images, Spacing, checked_pair, scaled, with_room
from jaxml.registration._inputs import Projection
from jaxml.registration._masks import Mask
from jaxml.registration._mutual_information import mutual_information
from jaxml.registration._pyramid import most_levels, pyramid
from jaxml.registration._sampling import mapped, sample
from jaxml.registration._similarity import mse, ncc, ncc_within
from jaxml.registration._symmetric import symmetric

Method = Literal["both", "symmetric", "energy"]
Similarity = Literal["ncc", "mi", "mse"] | Measure


def _with_room(measure: Measure) -> Measure:
    """Return a measure of volumes in the corner of arrays, from one that takes a mask."""

    def masked(fixed: Array, moved: Array, *, within: Array, mask: Array | None = None) -> Array:
        weights = within.astype(fixed.dtype)
        return measure(fixed, moved, mask=weights if mask is None else weights * mask)

    return masked


# Measure of a name, the same within arrays, and the weight of the roughness that suits its size
# where none is given: on brains, the weight of "mi" makes fields as rough as that of "ncc".
_MEASURES: dict[str, tuple[Measure, Measure, float]] = {
    "ncc": (ncc, ncc_within, 0.7),
    "mi": (mutual_information, _with_room(mutual_information), 3.0),
    "mse": (mse, _with_room(mse), 0.014),
}
# Where the caller sets no `levels`, the coarsest image keeps this many voxels along each axis.
_COARSEST = 16
# Steps a level by default, coarse first, and on all finer ones: on real brains of 1 mm, 100 steps
# of the energy on the finest level folded 2.5% of the voxels, which cost the projection .04 of
# the overlap of labels; 10 steps reach the same overlap with a third of them.
_STEPS: dict[str, tuple[int, ...]] = {
    "both": (100, 100, 50),
    "symmetric": (100, 100, 50),
    "energy": (100, 100, 100),
}
_FINE_STEPS = 10


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
    method: Method = "both",
    similarity: Similarity | tuple[Similarity, ...] = "ncc",
    fixed_mask: Mask = None,
    moving_mask: Mask = None,
    levels: int | None = None,
    steps: int | tuple[int, ...] | None = None,
    smoothness: float | None = None,
    learning_rate: float = 0.1,
    projection: Projection = "fold_free",
    poisson_weight: float = 0.1,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> Registration:
    """Return the maps that move one image onto another, optimized for this pair.

    First the affine map of `registration.affine`, then a displacement u, from coarse to fine:
    images are halved by means of 2 voxels along the axes of their shortest sides, fields doubled
    by linear interpolation. Two methods follow each other:

    symmetric: both images are moved to a middle, by v and by w, so that
      similarity(fixed, moved) + 2 smoothness (roughness(v) + roughness(w)) becomes less. Each
      step is smoothed, and composed with the maps that are there; u leads from the fixed image
      to the middle and on to the moving one. Both directions of a pair are inverse of each other.
    energy: u itself is changed, so that similarity(fixed, moved) + smoothness * roughness(u)
      becomes less, with the fixed image left where it is. It fits more closely. Steps are smoothed
      by (1, 2, 1) / 4 along each axis. After the symmetric method, and where no `smoothness` is
      given, roughness costs more where the symmetric field is smoother than between the brains of
      two people, by a factor of up to 4, and that of what the energy changes of the field by the
      square of it: of two scans of one person most of what is left to fit is noise.

    The roughness is `grad_l2`, and steps are those of Adam, whose length falls to 0 along a
    cosine on each level.

    Compiled once for each setting and for each of a few shapes: images are laid into arrays whose
    sides are multiples of 16 (of 8 up to 64 voxels, of 4 up to 16), and what lies beyond an image
    has no influence. With a function as `similarity`, and with "layer", compiled for each shape;
    pass the same function each time, as a new lambda each call is compiled each call.

    Args:
      fixed: image `[H, W]` or `[D, H, W]` of any range of intensities, or a tuple of such
        channels. NaN counts as outside of the image; where values are traced, only in a mask.
      moving: image of as many axes and channels, of any shape.
      affine: "affine", "similarity" or "rigid"; None to start at the initial map.
      initial: the map of voxels to start with, as for `registration.affine`.
      spacing: sides of a voxel of the fixed image and of the moving one; 1 by default. Levels,
        steps and roughness are those of the lengths that they make of voxels.
      method: "both", the symmetric method on all levels and after it the energy on the finest;
        "symmetric" alone, for large smooth deformations and maps that do not depend on which
        image is fixed; "energy" alone, on all levels.
      similarity: "ncc" for images of about the same contrast, "mi" (`mutual_information`) for
        any contrast, "mse" for the same one, each of intensities scaled to 0 to 1; or a function
        of (fixed, moved), as they are, to a scalar to be minimized, which with masks also gets
        the weights `mask`. For channels one each, or one for all; the mean counts.
      fixed_mask: weights 0 to 1 of the fixed image's voxels: where 0, the similarity sees none.
      moving_mask: the same of the moving image, moved along with it.
      levels: number of resolutions; as many as leave 16 voxels or more an axis by default.
      steps: steps a level, or one number for each level, coarse first; the energy that follows
        the symmetric method takes as many as the finest level. By default 100 on the two coarsest
        levels, 50 on the third ("energy": 100), and 10 on finer ones: fields are rough and hard
        to unfold where voxels much smaller than the structures are fitted for long.
      smoothness: weight of the roughness of the field; smaller fits closer and folds more. By
        default .7, 3 for "mi", .014 for "mse", and 1 for a function; with "both" more in the energy
        where the field is smooth, see above.
      learning_rate: length of the first steps of each level in voxels of that level.
      projection: "fold_free", which projects the field of each level of the energy and what the
        symmetric method ends with: `folds` is 0 unless the projection did not end; "layer", with
        which the energy optimizes the input of `diffeomorphic_layer` with its residual, for fewer
        folds; or None.
      poisson_weight: weight of `layer_residual`; of use with "layer" only.
      mesh: that has `axis`, such as `sharding.data_mesh()`: fields are split into slabs along the
        first axis of the fixed image, one on each device, on the levels that are large enough.
        The images are on all devices. With "ncc" and "mse", not with "layer". None for one device.
      axis: of the mesh.

    Returns:
      `Registration`.

    Raises:
      ValueError: the images are no pair of volumes, infinite, beyond 1e8 (1e60 in float64) or
        the same everywhere, `levels` are too many for their size, or another argument is out of
        its range.

    Source: Avants et al., "Symmetric diffeomorphic image registration with cross-correlation"
    (MedIA 2008), for the middle and the composed steps; Jena et al., "FireANTs" (2024), for steps
    of Adam that are composed; Balakrishnan et al., "VoxelMorph" (TMI 2019), for the energy.
    """
    first, second = checked_pair(fixed, moving, fixed_mask, moving_mask, spacing, shortest=4)
    checks.choice((*get_args(Kind), None), affine=affine)
    named, weight = _checked_similarity(similarity, len(first.channels))
    levels = _checked_levels(first, levels)
    checks.choice(get_args(Method), method=method)
    counts = _checked_steps(steps, levels, method)
    checks.choice(get_args(Projection), projection=projection)
    weight = weight if smoothness is None else smoothness
    checks.at_least(0, smoothness=weight, poisson_weight=poisson_weight)
    checks.positive(learning_rate=learning_rate)
    start = checked_initial(initial, first, second)
    # Of one type, given or not: another one would be compiled anew.
    weight, restraint = jnp.asarray(weight, start.dtype), jnp.ones((), start.dtype)

    split = checked_split(mesh, axis)
    if split is not None:
        _check_slabs(first, split, similarity, projection)
        first, second = on_devices((first, second), split)
    # A function of the caller's, and the layer, take volumes as they are.
    if all(named) and projection != "layer":
        first, second = with_room(first, second, planes=1 if split is None else 4 * split.devices)
    measures = _measures(similarity, first)
    units = scaled(first), scaled(second)
    if affine is not None:
        start = aligned(*units, affine, start).matrix
    compared = [
        side._replace(channels=tuple(map(_choose, named, unit.channels, side.channels)))
        for unit, side in zip(units, (first, second), strict=True)
    ]
    side = min(first.spacing)
    # The coarsest level first.
    here, there = (pyramid(image, side, levels)[::-1] for image in compared)
    coarsest = here[0].image.channels[0]
    planes: Planes = (jnp.zeros(coarsest.shape, start.dtype),) * coarsest.ndim
    how = {"measures": measures, "projection": projection, "split": split}
    losses = []
    if method != "energy":
        planes, losses = symmetric(here, there, start, planes, counts, weight, learning_rate, **how)
        # The energy follows on the finest level alone.
        here, there, counts = here[-1:], there[-1:], counts[-1:]
    if method == "both" and smoothness is None:
        restraint = restraint_of(planes, first.spacing, first.size, split=split)
    if method != "symmetric":
        planes, more = energy(
            here,
            there,
            start,
            planes,
            counts,
            weight,
            restraint,
            learning_rate,
            poisson_weight,
            **how,
        )
        losses = [*losses, *more]
    u, channels, folds = _result(
        second, start, planes, first.size, projection=projection, split=split
    )
    volume = tuple(slice(n) for n in first.shape)
    channels = tuple(channel[volume] for channel in channels)
    moved = channels if isinstance(moving, tuple | list) else channels[0]
    return Registration(u[volume], start, moved, jnp.concatenate(losses), folds)


@functools.partial(jax.jit, static_argnames=("projection", "split"))
def _result(moving: Image, affine, planes, size, *, projection, split):
    """Return the displacement, the moved channels, and the number of folds."""

    def result(planes, whole):
        channels, affine, size = whole
        if projection == "layer":
            planes = components(diffeomorphic_layer(jnp.stack(planes, axis=-1)).displacement)
        window = window_of(planes[0].shape[0], 0, split)
        places = mapped(planes, seen_from(affine, window))
        moved = tuple(sample(channel, places) for channel in channels)
        return jnp.stack(planes, axis=-1), moved, count_digital_folds(planes, size, split)

    whole = moving.channels, affine, size
    return on_slabs(result, split, planes, whole, (True, True, False))


def _check_slabs(fixed: Image, split: Split, similarity, projection: Projection) -> None:
    for one in _each(similarity, len(fixed.channels)):
        if one not in ("ncc", "mse"):
            raise checks.refused("similarity", one, "with a mesh 'ncc' or 'mse'")
    if projection == "layer":
        raise checks.refused("projection", projection, "with a mesh 'fold_free' or None")
    least = THINNEST * split.devices
    if fixed.shape[0] < least:
        accepted = f"{least} planes or more on the first axis for {split.devices} devices"
        raise checks.refused("fixed", fixed.channels[0], accepted)


def _choose(named: bool, unit: Array, plain: Array) -> Array:
    return unit if named else plain


def _checked_similarity(
    similarity: Similarity | tuple[Similarity, ...], channels: int
) -> tuple[tuple[bool, ...], float]:
    """Return whether each channel's measure goes by a name, and the weight that suits."""
    each = _each(similarity, channels)
    if len(each) != channels:
        raise checks.refused(
            "similarity", similarity, f"one, or one for each of {channels} channels"
        )
    for one in each:
        if not callable(one) and one not in _MEASURES:
            accepted = ", ".join(map(repr, _MEASURES)) + " or a function of (fixed, moved)"
            raise checks.refused("similarity", one, accepted)
    named = tuple(not callable(one) for one in each)
    weights = [1.0 if callable(one) else _MEASURES[one][-1] for one in each]
    return named, sum(weights) / len(weights)


def _each(similarity: Similarity | tuple[Similarity, ...], channels: int) -> tuple[Similarity, ...]:
    return tuple(similarity) if isinstance(similarity, tuple | list) else (similarity,) * channels


def _measures(similarity: Similarity | tuple[Similarity, ...], fixed: Image) -> tuple[Measure, ...]:
    """Return each channel's measure."""
    each = _each(similarity, len(fixed.channels))
    plain = fixed.size is None
    named = {name: (own if plain else room) for name, (own, room, _) in _MEASURES.items()}
    return tuple(one if callable(one) else named[one] for one in each)


def _checked_levels(fixed: Image, levels: int | None) -> int:
    """Return the number of levels, the coarsest of which has 4 voxels or more an axis."""
    if levels is None:
        return most_levels(fixed, _COARSEST)
    checks.counts(levels=levels)
    checks.within(1, most_levels(fixed, 4), levels=levels)
    return levels


def _checked_steps(
    steps: int | tuple[int, ...] | None, levels: int, method: Method
) -> tuple[int, ...]:
    """Return the number of steps of each level, coarse first."""
    if steps is None:
        return (*_STEPS[method], *(_FINE_STEPS,) * levels)[:levels]
    counts = (steps,) * levels if isinstance(steps, int) else tuple(steps)
    if len(counts) != levels or min(counts) < 1:
        accepted = f"a whole number, 1 or more, or one for each of {levels} levels"
        raise checks.refused("steps", steps, accepted)
    return counts
