"""SD-FCT: how far the features of an image move when it is transformed."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.precision import at_least_single
from jaxml.sharding import map_batches
from jaxml.tracing import as_partial


def sd_fct(
    key: Key[Array, ""],
    features_fn: Callable[[Array], Array],
    images: Float[Array, "row height width channel"],
    *,
    degrees: float = 180.0,
    batch_size: int = 500,
) -> Float[Array, " row"]:
    """Score rows by the squared distance of their features to those of the rotated image.

    The feature consistency towards transformations |phi(x) - phi(A x)|^2, A a rotation about
    the center by a uniform angle of each row; what comes in from outside of the image is 0.

    Compiled once for each shape and function object, or once for all parameters of a
    `jax.tree_util.Partial`, as `mspc`.

    Args:
      key: draws the angles.
      features_fn: images `[batch, height, width, channel]` to features `[batch, feature]`.
      images: `[row, height, width, channel]`.
      degrees: largest angle, either way.
      batch_size: images that `features_fn` gets at once.

    Returns:
      Scores `[row]`, 0 or more, higher is more suspicious.

    Raises:
      ValueError: the images are not `[row, ...]` of floating-point numbers, or a setting is out
        of range.

    Source: Chen et al. 2022 (NeurIPS, "Effective backdoor defense by exploiting sensitivity of
    poisoned samples").
    """
    checks.images(images=images)
    checks.counts(batch_size=batch_size)
    checks.within(0, 180, degrees=degrees)
    limit = jnp.asarray(degrees / 180 * jnp.pi, at_least_single(images.dtype))
    return _distances(key, as_partial(features_fn), images, limit, batch_size=batch_size)


@functools.partial(jax.jit, static_argnames="batch_size")
def _distances(key, features_fn, images, limit, *, batch_size):
    shape = (images.shape[0],)
    angles = jax.random.uniform(key, shape, limit.dtype, minval=-limit, maxval=limit)

    def of_batch(batch):
        x, angle = batch
        rotated, own = (
            features.astype(at_least_single(features.dtype))
            for features in (features_fn(_rotated(x, angle)), features_fn(x))
        )
        return jnp.sum((rotated - own) ** 2, axis=-1).astype(x.dtype)

    return map_batches(of_batch, (images, angles), batch_size=batch_size)


@jax.vmap
def _rotated(image, angle):
    height, width, _ = image.shape
    center = (height - 1) / 2, (width - 1) / 2
    axis = lambda n, middle: jnp.arange(n, dtype=angle.dtype) - middle
    y, x = jnp.meshgrid(axis(height, center[0]), axis(width, center[1]), indexing="ij")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    where = [cos * y - sin * x + center[0], sin * y + cos * x + center[1]]
    # map_coordinates weights by arrays of the default float type.
    with jax.numpy_dtype_promotion("standard"):
        sample = lambda plane: jax.scipy.ndimage.map_coordinates(plane, where, order=1)
        return jax.vmap(sample, in_axes=2, out_axes=2)(image).astype(image.dtype)
