"""Masks of a loss: weights of 0 to 1 for each voxel, where 0 has no part in it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxml import checks

Mask = Float[Array, "*volume"] | Bool[Array, "*volume"] | None


def mask_weights(mask: Mask, image: Float[Array, "*volume"]) -> Float[Array, "*volume"] | None:
    """Return weights of the type of an image, without derivatives; None for no mask.

    Raises:
      ValueError: the mask has another shape than the image, is neither bool nor floating-point,
        is not within 0 to 1, or 0 everywhere.
    """
    if mask is None:
        return None
    checks.same_shape(image=image, mask=mask)
    if mask.dtype != jnp.bool_:
        checks.floating(mask=mask)
        checks.values_within(0, 1, mask=mask)
    if not checks.known(mask, jnp.any):
        raise checks.refused("mask", mask, "weights above 0 in some voxels", holds="0 everywhere")
    return jax.lax.stop_gradient(mask.astype(image.dtype))


def inside(image: Float[Array, "*volume"], weights: Float[Array, "*volume"]) -> Array:
    """Return an image with 0 where the weights are 0, whatever it holds there."""
    return jnp.where(weights == 0, 0, image)
