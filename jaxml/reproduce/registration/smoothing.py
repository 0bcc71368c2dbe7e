"""What users do about folds without a projection: smoothing everywhere, or where it folds."""

import functools

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxml.registration import count_folds, smallest_determinant

_smallest = jax.jit(smallest_determinant)
_folds = functools.partial(jax.jit, static_argnames="scheme")(count_folds)


def fewest_folds_by_gaussian(
    u: Float[Array | np.ndarray, "*volume ndim"], folds: int, *, largest: float = 16.0
) -> tuple[Float[Array | np.ndarray, "*volume ndim"], float]:
    """Return the field under the least Gaussian that leaves at most `folds`, and its sigma.

    Args:
      u: displacement in voxels.
      folds: accepted number of folds by forward differences; digital ones for 0.
      largest: sigma in voxels at which the search gives up and returns what it has.
    """
    from scipy.ndimage import gaussian_filter

    u = np.asarray(u)
    scheme = "forward" if folds else "digital"
    smooth = lambda sigma: np.stack(
        [gaussian_filter(c, sigma, mode="nearest") for c in np.moveaxis(u, -1, 0)], axis=-1
    )
    left = lambda field: int(_folds(field, scheme=scheme))
    low, high = 0.0, 0.5
    found = smooth(high)
    while left(found) > folds and high < largest:
        low, high = high, 2 * high
        found = smooth(high)
    for _ in range(4):
        middle = (low + high) / 2
        tried = smooth(middle)
        if left(tried) <= folds:
            high, found = middle, tried
        else:
            low = middle
    return found, high


def smoothed_where_folded(
    u: Float[Array | np.ndarray, "*volume ndim"], *, sigma: float = 1.0, most: int = 200
) -> Float[Array | np.ndarray, "*volume ndim"]:
    """Return the field smoothed again and again in the neighbourhood of its folds.

    Args:
      u: displacement in voxels.
      sigma: of the Gaussian, in voxels; folds are widened by three voxels each way.
      most: bound on the rounds.
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
