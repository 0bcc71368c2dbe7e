"""How good a registration is: overlap and surface distance of labels, regularity of the field."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.registration._field import Difference, count_folds, jacobian_determinant
from jaxml.registration._flat import components, flatten, interior, total
from jaxml.registration._inputs import check_field, check_volumes
from jaxml.registration._tetrahedra import determinants, simplex_grid, volume_at_rest
from jaxml.tracing import nan_unless


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Folds:
    """Percentage of all voxels that are folds, by each criterion of `count_folds`.

    Attributes:
      forward: by forward differences.
      backward: by backward differences.
      central: by central differences.
      five_point: by central differences of order 4, as ANTs has them. No simplex bounds these: a
        field without digital folds may have some.
      digital: by the corner and central simplices of a voxel.
    """

    forward: Float[Array, "*batch"]
    backward: Float[Array, "*batch"]
    central: Float[Array, "*batch"]
    five_point: Float[Array, "*batch"]
    digital: Float[Array, "*batch"]


def dice_per_label(
    fixed_labels: Integer[Array, "*volume"],
    moved_labels: Integer[Array, "*volume"],
    labels: Integer[Array, " label"] | Sequence[int],
) -> Float[Array, " label"]:
    """Return the overlap 2 |F and M| / (|F| + |M|) of each label: 0 to 1.

    A label that is in neither volume has no overlap: its value is NaN (`jnp.nanmean`).

    Args:
      fixed_labels: label of each voxel, `[H, W]` or `[D, H, W]`.
      moved_labels: volume of the same shape, such as labels warped with `order=0`.
      labels: the labels that count, `[label]`.

    Returns:
      `[label]`, float32.

    Raises:
      ValueError: the volumes are no pair of label volumes, or `labels` is empty.
    """
    _check_labels(fixed_labels, moved_labels, labels)
    volumes = [jnp.asarray(v).astype(jnp.int32) for v in (fixed_labels, moved_labels)]

    def count(mask):
        return jnp.sum(mask, dtype=jnp.int32).astype(jnp.float32)

    def overlap(label):
        fixed, moved = (volume == label for volume in volumes)
        return 2 * count(fixed & moved) / (count(fixed) + count(moved))

    # One label after another: masks of all of them at once would take much memory.
    return jax.lax.map(overlap, jnp.asarray(labels, jnp.int32))


def hausdorff95(
    fixed_labels: Integer[np.ndarray, "*volume"] | Integer[Array, "*volume"],
    moved_labels: Integer[np.ndarray, "*volume"] | Integer[Array, "*volume"],
    labels: Integer[Array, " label"] | Sequence[int],
    *,
    spacing: Sequence[float] | None = None,
) -> Float[np.ndarray, " label"]:
    """Return the 95th percentile of the distances between the surfaces of each label.

    The larger of both directions, the percentiles of the distances from each surface to the
    other, as MONAI and Learn2Reg have it; MedPy pools both directions, which is not larger.
    A surface is the set of voxels with a neighbor along an axis that has another label or is
    outside of the volume. Runs on the host (numpy, scipy): neither `jit` nor `vmap`.

    Args:
      fixed_labels: label of each voxel, `[H, W]` or `[D, H, W]`.
      moved_labels: volume of the same shape, such as labels warped with `order=0`.
      labels: the labels that count, `[label]`.
      spacing: size of a voxel along each axis, the unit of the result; 1 by default.

    Returns:
      `[label]`: inf for a label that one volume lacks, NaN for one that both lack.

    Raises:
      ValueError: the volumes are no pair of label volumes, `labels` is empty, or `spacing` is
        not a positive number an axis.
    """
    _check_labels(fixed_labels, moved_labels, labels)
    size = (1.0,) * fixed_labels.ndim if spacing is None else tuple(map(float, spacing))
    if len(size) != fixed_labels.ndim or not all(0 < s < np.inf for s in size):
        raise checks.refused("spacing", spacing, f"{fixed_labels.ndim} positive numbers")
    fixed, moved = np.asarray(fixed_labels), np.asarray(moved_labels)
    distances = [_surface_distance(fixed == k, moved == k, size) for k in np.asarray(labels)]
    return np.array(distances)


@half_as_single
def sd_log_jacobian(
    u: Float[Array, "*volume ndim"], *, scheme: Difference = "central", floor: float = 1e-9
) -> Float[Array, ""]:
    """Return the standard deviation over voxels of the log determinant of the Jacobian.

    Central differences over the whole volume, as TransMorph has it. The script of Learn2Reg
    adds 3 to the determinants and leaves two voxels at each face out: its values are smaller.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      scheme: as for `jacobian_determinant`.
      floor: smaller determinants, as those of folds, count as this.

    Returns:
      Scalar, 0 for a field that keeps or scales all volumes alike.

    Raises:
      ValueError: `u` is no field, `scheme` is unknown, or `floor` is not positive.
    """
    checks.positive(floor=floor)
    return jnp.std(jnp.log(jnp.maximum(jacobian_determinant(u, scheme=scheme), floor)))


@half_as_single
def fold_percentages(u: Float[Array, "*volume ndim"]) -> Folds:
    """Return the percentage of voxels that are folds, by each of the five criteria.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.

    Returns:
      `Folds`.

    Raises:
      ValueError: `u` is no field.
    """
    voxels = u[..., 0].size

    def percentage(scheme):
        return count_folds(u, scheme=scheme).astype(u.dtype) * (100 / voxels)

    folds = Folds(*(percentage(field.name) for field in dataclasses.fields(Folds)))
    return nan_unless(jnp.all(jnp.isfinite(u)), folds)


@half_as_single
def non_diffeomorphic_volume(u: Float[Array, "*volume ndim"]) -> Float[Array, "*volume"]:
    """Return the volume that the map turns inside out at each voxel: how badly it is folded.

    The simplices of all voxels tile the volume twice, so that each one that is turned inside out
    counts half of its volume. The sum is the NDV of the paper, in 2-D its NDA; 100 times the
    mean, or the mean over a mask, is their percentage.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.

    Returns:
      `[*volume]` in voxels: 0 where no simplex is turned inside out.

    Raises:
      ValueError: `u` is no field.

    Source: Liu et al., "On finite difference Jacobian computation in deformable image
    registration" (IJCV 2024).
    """
    check_field(u=u)
    grid = simplex_grid(u.shape[:-1])
    volumes = [abs(volume_at_rest(simplex)) for simplex in grid.simplices]
    planes = determinants(flatten(components(u), grid.layout), grid)

    def folded(determinant, at_rest):
        # At rest the simplices of a voxel have twice its volume.
        size = jnp.where(determinant < 0, -determinant * (at_rest / sum(volumes)), 0)
        return jnp.where(jnp.isfinite(determinant), size, jnp.nan)

    return interior(total(map(folded, planes, volumes)), grid.layout)


def _surface_distance(fixed: np.ndarray, moved: np.ndarray, spacing: tuple[float, ...]) -> float:
    from scipy.ndimage import binary_erosion, distance_transform_edt

    if not fixed.any() or not moved.any():
        return np.inf if fixed.any() or moved.any() else np.nan
    # Outside of the box around both masks there is nothing to measure.
    spans = [np.flatnonzero((fixed | moved).any(_others(a, fixed.ndim))) for a in range(fixed.ndim)]
    box = tuple(slice(span[0], span[-1] + 1) for span in spans)
    masks = [mask[box] for mask in (fixed, moved)]
    surfaces = [mask & np.logical_not(binary_erosion(mask)) for mask in masks]

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        to_b = np.asarray(distance_transform_edt(~b, sampling=spacing))
        return float(np.percentile(to_b[a], 95))

    return max(distance(*surfaces), distance(*surfaces[::-1]))


def _others(axis: int, ndim: int) -> tuple[int, ...]:
    return tuple(a for a in range(ndim) if a != axis)


def _check_labels(fixed_labels, moved_labels, labels) -> None:
    check_volumes(fixed_labels=fixed_labels, moved_labels=moved_labels)
    checks.integers(fixed_labels=fixed_labels, moved_labels=moved_labels)
    if len(labels) == 0:
        raise checks.refused("labels", labels, "one label or more")
