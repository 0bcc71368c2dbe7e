"""Checks of images and labels that self-training shares, and images as numbers in [0, 1]."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxml.tracing import known


def unit(images: Array) -> Array:
    """Return images in [0, 1]: bytes divided by 255 in float32, others as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def check_images(name: str, images: Array) -> None:
    """Raise ValueError unless these are images of bytes or floating-point numbers, at least one."""
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{name}: shape {images.shape}; accepted is [row, height, width, channel], none 0"
        )
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{name}: dtype {images.dtype}; accepted are uint8 and floating-point values in [0, 1]"
        )


def check_labels(labels: Array, rows: int, classes: int) -> None:
    """Raise ValueError unless these are so many integers from 0 to classes - 1."""
    if labels.shape != (rows,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels: {labels.dtype}{list(labels.shape)}; accepted are integers [{rows}]"
        )
    if not known(labels, lambda labels: jnp.all((labels >= 0) & (labels < classes))):
        raise ValueError(
            f"labels: from {labels.min()} to {labels.max()}; accepted are 0 to {classes - 1} "
            f"(classes={classes})"
        )


def check_at_least_one(**numbers: int | None) -> None:
    """Raise ValueError for a number below 1."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name}={number}: accepted is 1 or more")
