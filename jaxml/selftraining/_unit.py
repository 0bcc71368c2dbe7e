"""Images as numbers in [0, 1]."""

import jax.numpy as jnp
from jaxtyping import Array


def unit(images: Array) -> Array:
    """Return images in [0, 1]: bytes divided by 255 in float32, others as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
