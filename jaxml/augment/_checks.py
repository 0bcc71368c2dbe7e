"""Checks of the arguments that augmentations share."""

import jax.numpy as jnp
from jaxtyping import Array

Range = tuple[float, float]


def check_image(image: Array, *, channels: tuple[int, ...] = ()) -> None:
    """Raise ValueError unless this is one floating-point image, with such a number of channels."""
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(
            f"image: shape {image.shape}; accepted is one image [height, width, channel], none 0 "
            "(vmap over a batch)"
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"image: dtype {image.dtype}; accepted are floating-point values in [0, 1] "
            "(divide bytes by 255)"
        )
    if channels and image.shape[-1] not in channels:
        raise ValueError(f"image: {image.shape[-1]} channels; accepted are {channels}")


def check_number(name: str, value: float, *, highest: float = 1) -> None:
    """Raise ValueError unless 0 <= value <= highest."""
    if not 0 <= value <= highest:
        raise ValueError(f"{name}={value}: accepted is 0 to {highest}")


def check_range(
    name: str, limits: Range, *, lowest: float = -jnp.inf, highest: float = jnp.inf
) -> None:
    """Raise ValueError unless lowest <= low <= high <= highest and both ends are finite."""
    low, high = limits
    if not (lowest <= low <= high <= highest and -jnp.inf < low and high < jnp.inf):
        raise ValueError(
            f"{name}={limits}: accepted is (low, high) with {lowest} <= low <= high <= {highest}"
        )
