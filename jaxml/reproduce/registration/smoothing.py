"""What users do about folds without a projection: smoothing everywhere, or where it folds."""

import functools

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxml.registration import count_folds, min_jacobian_determinant

_smallest = jax.jit(min_jacobian_determinant)
_folds = functools.partial(jax.jit, static_argnames="scheme")(count_folds)


def fewest_folds_by_gaussian(
    u: Float[Array | np.ndarray, "*volume ndim"], folds: int, *, largest: float = 16.0
) -> tuple[Float[Array | np.ndarray, "*volume ndim"], float]:
    """Return the field under the least Gaussian that leaves at most `folds`, and its sigma.

    Args:
      u: displacement in voxels.
      folds: accepted number of folds by forward differences; digital ones for 0.
      largest: sigma in voxels at which the search gives up and returns what it has.

    Returns:
      The field, and sigma in voxels.
    """
    from scipy.ndimage import gaussian_filter

    u = np.asarray(u)
    scheme = "forward" if folds else "digital"

    def smoothed(sigma: float) -> tuple[np.ndarray, bool]:
        """Return the field under a Gaussian, and whether it leaves few enough folds."""
        planes = np.moveaxis(u, -1, 0)
        field = np.stack([gaussian_filter(c, sigma, mode="nearest") for c in planes], axis=-1)
        return field, int(_folds(field, scheme=scheme)) <= folds

    low, high = 0.0, 0.5
    best, few = smoothed(high)
    while not few and high < largest:
        low, high = high, 2 * high
        best, few = smoothed(high)
    for _ in range(4):
        middle = (low + high) / 2
        field, few = smoothed(middle)
        if few:
            high, best = middle, field
        else:
            low = middle
    return best, high


def smoothed_where_folded(
    u: Float[Array | np.ndarray, "*volume ndim"], *, sigma: float = 1.0, most: int = 200
) -> Float[Array | np.ndarray, "*volume ndim"]:
    """Return the field smoothed again and again in the neighborhood of its folds.

    Args:
      u: displacement in voxels.
      sigma: of the Gaussian, in voxels; folds are widened by three voxels each way.
      most: bound on the rounds.

    Returns:
      The field; folds are left where the rounds ran out.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter

    u = np.array(u)
    for _ in range(most):
        folded = np.asarray(_smallest(u)) <= 0
        if not folded.any():
            break
        near = binary_dilation(folded, iterations=3)
        for k in range(u.shape[-1]):
            u[..., k] = np.where(near, gaussian_filter(u[..., k], sigma, mode="nearest"), u[..., k])
    return u
