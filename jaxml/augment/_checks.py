"""Checks of the arguments that augmentations share."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxml import checks

Range = tuple[float, float]


def check_image(image: Array, *, channels: tuple[int, ...] = ()) -> None:
    """Accept one floating-point image, with one of these numbers of channels if there are any."""
    # A batch and bytes are what most often comes instead.
    if image.ndim != 3 or 0 in image.shape:
        one = "[height, width, channel], none of length 0; `jax.vmap` maps over a batch"
        raise checks.refused("image", image, one)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        numbers = "floating-point numbers in [0, 1], such as bytes divided by 255"
        raise checks.refused("image", image, numbers)
    if channels and image.shape[-1] not in channels:
        raise checks.refused("image", image, f"{' or '.join(map(str, channels))} channels")


def check_range(
    name: str, limits: Range, *, lowest: float = -jnp.inf, highest: float = jnp.inf
) -> None:
    """Accept two finite numbers with lowest <= low <= high <= highest."""
    low, high = limits
    if not (lowest <= low <= high <= highest and -jnp.inf < low and high < jnp.inf):
        ends = f"(low, high) with {lowest} <= low <= high <= {highest}"
        raise checks.refused(name, limits, ends)
