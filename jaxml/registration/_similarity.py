"""Losses of image registration: likeness of two images, and roughness of a field.

All are scalars to be minimised and differentiable in their arrays. Images are `[H, W]` or
`[D, H, W]` of floating-point numbers; batches by `vmap`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.registration._inputs import check_field, check_images

# Keeps the correlation of windows without contrast finite, as in VoxelMorph.
_NCC_FLOOR = 1e-5


@half_as_single
def ncc(
    fixed: Float[Array, "*volume"], moved: Float[Array, "*volume"], *, window: int = 9
) -> Float[Array, ""]:
    """Return minus the mean square of the local normalized cross-correlation: -1 to 0.

    Over each window, 0 outside of the volume: cross^2 / (variance variance + 1e-5), with
    cross = sum IJ - sum I sum J / n.

    Args:
      fixed: image `[H, W]` or `[D, H, W]`, intensities of about 0 to 1.
      moved: image of the same shape.
      window: side of the window in voxels; odd.

    Returns:
      Scalar, -1 where the images are alike up to brightness and contrast.

    Raises:
      ValueError: the images are no pair of volumes, or `window` is not odd and positive.

    Source: Balakrishnan et al., "VoxelMorph" (TMI 2019).
    """
    check_images(fixed=fixed, moved=moved)
    if window < 1 or window % 2 == 0:
        raise checks.refused("window", window, "an odd number, 1 or more")
    total = lambda plane: _window_sum(plane, window)
    n = window**fixed.ndim
    f, m = total(fixed), total(moved)
    cross = total(fixed * moved) - f * m / n
    fixed_variance = total(fixed * fixed) - f * f / n
    moved_variance = total(moved * moved) - m * m / n
    return -jnp.mean(cross * cross / (fixed_variance * moved_variance + _NCC_FLOOR))


@half_as_single
def mse(fixed: Float[Array, "*volume"], moved: Float[Array, "*volume"]) -> Float[Array, ""]:
    """Return the mean square of the difference of two images.

    Args:
      fixed: image `[H, W]` or `[D, H, W]`.
      moved: image of the same shape.

    Returns:
      Scalar.

    Raises:
      ValueError: the images are no pair of volumes.
    """
    check_images(fixed=fixed, moved=moved)
    return jnp.mean((fixed - moved) ** 2)


@half_as_single
def mutual_information(
    fixed: Float[Array, "*volume"], moved: Float[Array, "*volume"], *, bins: int = 32
) -> Float[Array, ""]:
    """Return minus the mutual information of the intensities of two images, in nats.

    Gaussian Parzen windows: each voxel is shared between the bins by weights
    exp(-(x - center)^2 / 2 s^2) that sum to 1, s half the distance of two centers, which are
    spread evenly over 0 to 1. Takes `bins` times the memory of both images.

    Args:
      fixed: image `[H, W]` or `[D, H, W]`, intensities from 0 to 1; others count as the ends.
      moved: image of the same shape.
      bins: number of centers; 2 or more.

    Returns:
      Scalar.

    Raises:
      ValueError: the images are no pair of volumes, or `bins` is below 2.

    Source: Viola and Wells, "Alignment by maximization of mutual information" (IJCV 1997).
    """
    check_images(fixed=fixed, moved=moved)
    checks.counts(least=2, bins=bins)
    joint = jnp.matmul(
        _parzen_weights(fixed, bins), _parzen_weights(moved, bins).T, precision="highest"
    )
    joint = joint / fixed.size
    independent = jnp.sum(joint, 1, keepdims=True) * jnp.sum(joint, 0, keepdims=True)
    # An empty bin adds p log p = 0, and passes no NaN to the gradient.
    tiny = jnp.finfo(joint.dtype).tiny
    ratio = jnp.log(jnp.maximum(joint, tiny)) - jnp.log(jnp.maximum(independent, tiny))
    return -jnp.sum(joint * ratio)


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


def _window_sum(plane: Array, window: int) -> Array:
    """Sum over a cube around each voxel, one axis after another.

    Not by differences of cumulative sums: their gradient loses a fifth in float32.
    """
    for axis in range(plane.ndim):
        size = [window if a == axis else 1 for a in range(plane.ndim)]
        plane = jax.lax.reduce_window(plane, 0.0, jax.lax.add, size, (1,) * plane.ndim, "SAME")
    return plane


def _parzen_weights(image: Array, bins: int) -> Array:
    """Share of each voxel in each bin, `[bins, voxels]`."""
    centers = jnp.linspace(0, 1, bins, dtype=image.dtype)
    # 0 times the image: no bin holds an infinite intensity.
    image = jnp.clip(image.reshape(-1), 0, 1) + 0 * image.reshape(-1)
    distance = (image[None] - centers[:, None]) * (bins - 1)
    return jax.nn.softmax(-2 * distance**2, axis=0)
