"""Losses of image registration: likeness of two images, and roughness of a field.

All are scalars to be minimised and differentiable in their arrays. Images are `[H, W]` or
`[D, H, W]` of floating-point numbers; batches by `vmap`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.registration._inputs import check_field, check_images
from jaxml.registration._masks import Mask, inside, mask_weights

# Keeps the correlation of windows without contrast finite, as in VoxelMorph.
_NCC_FLOOR = 1e-5


@half_as_single
def ncc(
    fixed: Float[Array, "*volume"],
    moved: Float[Array, "*volume"],
    *,
    window: int = 9,
    mask: Mask = None,
) -> Float[Array, ""]:
    """Return minus the mean square of the local normalized cross-correlation: -1 to 0.

    Over each window, 0 outside of the volume: cross^2 / (variance variance + 1e-5), with
    cross = sum IJ - sum I sum J / n. With a mask each sum is weighted by it, n is the sum of the
    weights, and the mean is weighted too.

    Args:
      fixed: image `[H, W]` or `[D, H, W]`, intensities of about 0 to 1: windows of far less
        contrast, such as all of an image of 0 to .01, count as without any.
      moved: image of the same shape.
      window: side of the window in voxels; odd.
      mask: weight of each voxel, 0 to 1, or bool. Voxels of 0 have no influence, whatever they
        hold. There are no derivatives with respect to it.

    Returns:
      Scalar, -1 where the images are alike up to brightness and contrast; NaN for a traced mask
      of zeros.

    Raises:
      ValueError: the images are no pair of volumes, `window` is not odd and positive, or the mask
        is of another shape, not within 0 to 1, or 0 everywhere.

    Source: Balakrishnan et al., "VoxelMorph" (TMI 2019).
    """
    check_images(fixed=fixed, moved=moved)
    if window < 1 or window % 2 == 0:
        raise checks.refused("window", window, "an odd number, 1 or more")
    weights = mask_weights(mask, fixed)
    squares = _correlations(fixed, moved, weights, window)
    return -(jnp.mean(squares) if weights is None else _weighted_mean(squares, weights))


def ncc_within(
    fixed: Float[Array, "*volume"],
    moved: Float[Array, "*volume"],
    *,
    within: Bool[Array, "*volume"],
    mask: Mask = None,
    window: int = 9,
) -> Float[Array, ""]:
    """Return `ncc` of volumes in the corner of arrays that are 0 beyond them.

    Args:
      fixed: array with a volume.
      moved: array of the same shape.
      within: voxels of the volume; False beyond it.
      mask: weight of each voxel, as for `ncc`, and 1 beyond the volume.
      window: as for `ncc`.
    """
    weights = mask_weights(mask, fixed)
    squares = _correlations(fixed, moved, weights, window)
    within = within.astype(squares.dtype)
    return -_weighted_mean(squares, within if weights is None else weights * within)


@half_as_single
def mse(
    fixed: Float[Array, "*volume"], moved: Float[Array, "*volume"], *, mask: Mask = None
) -> Float[Array, ""]:
    """Return the mean square of the difference of two images.

    Args:
      fixed: image `[H, W]` or `[D, H, W]`.
      moved: image of the same shape.
      mask: weight of each voxel in the mean, 0 to 1, or bool. Voxels of 0 have no influence,
        whatever they hold. There are no derivatives with respect to it.

    Returns:
      Scalar; NaN for a traced mask of zeros.

    Raises:
      ValueError: the images are no pair of volumes, or the mask is of another shape, not within 0
        to 1, or 0 everywhere.
    """
    check_images(fixed=fixed, moved=moved)
    weights = mask_weights(mask, fixed)
    if weights is None:
        return jnp.mean((fixed - moved) ** 2)
    return _weighted_mean((inside(fixed, weights) - inside(moved, weights)) ** 2, weights)


@half_as_single
def dice(
    fixed: Float[Array, "*volume labels"], moved: Float[Array, "*volume labels"]
) -> Float[Array, ""]:
    """Return 1 minus the mean over labels of the soft overlap 2 sum fm / (sum f + sum m).

    Args:
      fixed: membership of each voxel in each label, 0 to 1, `[H, W, labels]` or
        `[D, H, W, labels]`.
      moved: the same of the moved labels. A label that is in neither counts as matched.

    Returns:
      Scalar, 0 to 1.

    Raises:
      ValueError: the shapes differ or are no volumes with labels, or an array is not
        floating-point.
    """
    if fixed.ndim not in (3, 4) or fixed.size == 0:
        accepted = "[H, W, labels] or [D, H, W, labels], none of length 0"
        raise checks.refused("fixed", fixed, accepted)
    checks.floating(fixed=fixed, moved=moved)
    checks.same_trees(fixed=fixed, moved=moved)
    axes = tuple(range(fixed.ndim - 1))
    both, either = jnp.sum(fixed * moved, axes), jnp.sum(fixed + moved, axes)
    overlap = jnp.where(either == 0, 1, 2 * both / jnp.where(either == 0, 1, either))
    return 1 - jnp.mean(overlap)


@half_as_single
def grad_l2(u: Float[Array, "*volume ndim"]) -> Float[Array, ""]:
    """Return the mean over axes of the mean squared difference of neighbors along each.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.

    Returns:
      Scalar, 0 for a translation.

    Raises:
      ValueError: `u` is no field or not finite.
    """
    check_field(u=u)
    ndim = u.shape[-1]
    squares = (jnp.mean(jnp.diff(u, axis=a) ** 2) for a in range(ndim))
    return sum(squares, jnp.zeros((), u.dtype)) / ndim


@half_as_single
def bending_energy(u: Float[Array, "*volume ndim"]) -> Float[Array, ""]:
    """Return the mean of the squared second derivatives of a field, summed over all pairs.

    Second differences along an axis, products of forward differences for mixed pairs, each
    averaged over the voxels where it exists; components are summed.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.

    Returns:
      Scalar, 0 for an affine map.

    Raises:
      ValueError: `u` is no field or not finite.

    Source: Rueckert et al., "Nonrigid registration using free-form deformations" (TMI 1999).
    """
    check_field(u=u)
    ndim = u.shape[-1]

    def square(a, b):
        # The mean over components times their number is the sum over components.
        return ndim * jnp.mean(jnp.diff(jnp.diff(u, axis=a), axis=b) ** 2)

    pairs = [(a, b) for a in range(ndim) for b in range(ndim)]
    return sum((square(a, b) for a, b in pairs), jnp.zeros((), u.dtype))


def _correlations(fixed: Array, moved: Array, weights: Array | None, window: int) -> Array:
    """Squared correlation in the window around each voxel; 0 around those of weight 0.

    Voxels outside of the volume are 0 of weight 1, with and without weights.
    """
    if weights is None:
        total, n = (lambda plane: _window_sum(plane, window)), window**fixed.ndim
    else:
        fixed, moved = inside(fixed, weights), inside(moved, weights)
        total = lambda plane: _window_sum(weights * plane, window)
        n = _window_sum(jnp.pad(weights, window // 2, constant_values=1), window, "VALID")
        # Windows around voxels of weight 0 count for nothing, and may be empty.
        n = jnp.where(weights == 0, 1, n)
    f, m = total(fixed), total(moved)
    cross = total(fixed * moved) - f * m / n
    fixed_variance = total(fixed * fixed) - f * f / n
    moved_variance = total(moved * moved) - m * m / n
    squares = cross * cross / (fixed_variance * moved_variance + _NCC_FLOOR)
    return squares if weights is None else jnp.where(weights == 0, 0, squares)


def _weighted_mean(plane: Array, weights: Array) -> Array:
    return jnp.sum(weights * plane) / jnp.sum(weights)


def _window_sum(plane: Array, window: int, padding: str = "SAME") -> Array:
    """Sum over a cube around each voxel, one axis after another.

    Not by differences of cumulative sums: their gradient loses a fifth in float32.
    """
    for axis in range(plane.ndim):
        size = [window if a == axis else 1 for a in range(plane.ndim)]
        plane = jax.lax.reduce_window(plane, 0.0, jax.lax.add, size, (1,) * plane.ndim, padding)
    return plane
