"""Scaled prediction consistency (SPC) of images under a classifier."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml.backdoor._amplify import (
    SCALES,
    LogitsFn,
    agreement,
    check_amplification,
    check_images,
)


def spc(
    logits_fn: LogitsFn,
    images: Float[Array, "row height width channel"],
    *,
    scales: Sequence[float] = SCALES,
    batch_size: int = 64,
) -> Float[Array, " row"]:
    """Return how steady the prediction of each image is when its pixels are amplified.

    The fraction of the scales n at which clip(n x) has the predicted class of x; high for a
    backdoor image whose trigger lives through saturation. `mspc` mends its known failures:
    bright triggers that saturate with the image, and clean images that stay dark.

    Compiled once for each shape and `logits_fn` object, as `mspc`.

    Args:
      logits_fn: pure function of images to logits `[row, class]`, as for `mspc`.
      images: `[row, height, width, channel]`, 0 to 1.
      scales: factors of the amplification, above 0.
      batch_size: rows worked on at a time, which bounds memory.

    Returns:
      Scores `[row]`, 0 to 1, of the dtype of `images`.

    Raises:
      ValueError: as for `mspc`.

    Source: Guo et al., "SCALE-UP: an efficient black-box input-level backdoor detection via
    analyzing scaled prediction consistency" (ICLR 2023), with the scales of Pal et al. (ICLR
    2024).
    """
    check_images(logits_fn, images)
    check_amplification(0, scales, batch_size)
    whole = jnp.ones(images.shape[1:3], images.dtype)
    return agreement(logits_fn, images, whole, shift=0, scales=scales, batch_size=batch_size)
