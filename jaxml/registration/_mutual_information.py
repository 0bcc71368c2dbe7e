"""Mutual information of two images of any intensities, as a loss of registration.

The joint histogram has cubic B-splines for windows. To share each voxel between the 4 x 4 bins
that its windows reach takes 16 sums. Here it is shared between the nearest 2 x 2 cells of a
histogram with 8 cells a bin, which is brought to the bins afterwards: the windows are B-splines,
linear between eighths of a bin.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.registration._inputs import check_images
from jaxml.registration._masks import Mask, mask_weights

# Cell below each voxel, and how far it is on the way to the next one, 0 to 1.
Places = tuple[Array, Array]

_CELLS_A_BIN = 8
# Voxels a table: sums of float32 that are much larger than one share would round it. More tables
# would be slower on CPUs; these take half the memory of an image.
_VOXELS_A_TABLE = 2**17
# Neighbors share a table for the caches of CPUs, but not all that a GPU adds at a time: often it
# is the same cell, that of the background.
_RUN = 2**12


@half_as_single
def mutual_information(
    fixed: Float[Array, "*volume"],
    moved: Float[Array, "*volume"],
    *,
    bins: int = 32,
    mask: Mask = None,
) -> Float[Array, ""]:
    """Return minus the mutual information of the intensities of two images, in nats.

    Each voxel is shared between bins by a cubic B-spline whose unit is the width of a bin. Bins
    are spread over the range of each image within the mask, whatever it is, with one more bin at
    either end for the windows. Derivatives hold the range fixed.

    Args:
      fixed: image `[H, W]` or `[D, H, W]`, of any range of intensities.
      moved: image of the same shape.
      bins: number of bins an image, 4 or more.
      mask: weight of each voxel, 0 to 1, or bool. Voxels of 0 have no influence, whatever they
        hold. There are no derivatives with respect to it.

    Returns:
      Scalar. 0 where one image is constant; NaN for a traced mask of zeros.

    Raises:
      ValueError: the images are no pair of volumes, `bins` is below 4, or the mask is of another
        shape, not within 0 to 1, or 0 everywhere.

    Source: Mattes et al., "PET-CT image registration in the chest using free-form deformations"
    (TMI 2003), with a cubic window for the fixed image too.
    """
    check_images(fixed=fixed, moved=moved)
    checks.counts(least=4, bins=bins)
    weights = mask_weights(mask, fixed)
    cells = _CELLS_A_BIN * (bins - 3) + 1
    fine = _histogram(_place(fixed, weights, cells), _place(moved, weights, cells), weights, cells)
    windows = _windows(bins, cells, fixed.dtype)
    rows = jnp.matmul(windows, fine, precision="highest")  # pyright: ignore[reportArgumentType]
    joint = jnp.matmul(rows, windows.T, precision="highest")
    # Least: an empty bin adds p log p = 0, and passes no NaN to the gradient.
    least = float(jnp.finfo(joint.dtype).tiny)
    return -information(joint / jnp.sum(joint), least=least)


def information(joint: Float[Array, "bin other"], *, least: float) -> Float[Array, ""]:
    """Return the mutual information in nats of two numbers with a joint distribution.

    Args:
      joint: probability of each pair of bins.
      least: smaller probabilities count as this in the logarithms.
    """
    independent = jnp.sum(joint, 1, keepdims=True) * jnp.sum(joint, 0, keepdims=True)
    ratio = jnp.log(jnp.maximum(joint, least)) - jnp.log(jnp.maximum(independent, least))
    return jnp.sum(joint * ratio)


def _place(image: Array, weights: Array | None, cells: int) -> Places:
    """Place of each voxel among cells from the least to the largest intensity."""
    inside = None if weights is None else weights != 0
    low = jax.lax.stop_gradient(jnp.min(image, where=inside, initial=jnp.inf))
    high = jax.lax.stop_gradient(jnp.max(image, where=inside, initial=-jnp.inf))
    if inside is not None:
        image = jnp.where(inside, image, low)
    width = jnp.where(high > low, high - low, 1)
    place = (image.reshape(-1) - low) / width * (cells - 1)
    cell = jnp.clip(jnp.floor(place), 0, cells - 2)
    # Once more as whole numbers: a NaN has a place in the table, and is NaN in the sum.
    return jnp.clip(cell.astype(jnp.int32), 0, cells - 2), place - cell


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _histogram(fixed: Places, moved: Places, weights: Array | None, cells: int) -> Array:
    """Joint histogram `[cells, cells]` of voxels shared between the 2 x 2 nearest cells."""
    (row, down), (column, right) = fixed, moved
    tables = -(-row.size // _VOXELS_A_TABLE)
    table = jax.lax.iota(jnp.int32, row.size) // _RUN % tables
    first = (table * cells + row) * cells + column
    total = jnp.zeros(tables * cells * cells, down.dtype)
    for i, share in enumerate((1 - down, down)):
        weighted = share if weights is None else share * weights.reshape(-1)
        for j, other in enumerate((1 - right, right)):
            place = total.at[first + (i * cells + j)]
            total = place.add(weighted * other, mode="promise_in_bounds")
    return jnp.sum(total.reshape(tables, cells, cells), 0)


def _histogram_forward(fixed, moved, weights, cells):
    return _histogram(fixed, moved, weights, cells), (fixed, moved, weights)


def _histogram_backward(cells, residuals, cotangent):
    """Read the one cotangent of all tables: automatic differentiation copies it for each."""
    (row, down), (column, right), weights = residuals
    flat, first = cotangent.reshape(-1), row * cells + column
    read = lambda i, j: flat.at[first + (i * cells + j)].get(mode="promise_in_bounds")
    low_left, low_right, high_left, high_right = read(0, 0), read(0, 1), read(1, 0), read(1, 1)
    to_down = (1 - right) * (high_left - low_left) + right * (high_right - low_right)
    to_right = (1 - down) * (low_right - low_left) + down * (high_right - high_left)
    if weights is not None:
        to_down, to_right = to_down * weights.reshape(-1), to_right * weights.reshape(-1)
    return (None, to_down), (None, to_right), None


_histogram.defvjp(_histogram_forward, _histogram_backward)


def _windows(bins: int, cells: int, dtype: jnp.dtype) -> Array:
    """Share of each cell in each bin, `[bins, cells]`: the cubic B-spline of their distance."""
    place = 1 + jnp.arange(cells, dtype=dtype) / _CELLS_A_BIN
    return cubic_b_spline(place[None] - jnp.arange(bins, dtype=dtype)[:, None])


def cubic_b_spline(distance: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return the cubic B-spline at signed distances from its middle, in its own unit."""
    distance = jnp.abs(distance)
    return (jnp.maximum(2 - distance, 0) ** 3 - 4 * jnp.maximum(1 - distance, 0) ** 3) / 6
