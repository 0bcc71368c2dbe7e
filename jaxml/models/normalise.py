"""The first layer of image classifiers: channels to mean 0 and deviation 1."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml import checks

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


def normalise(
    images: Float[Array, "row height width channel"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Array, "row height width channel"]:
    """Return (images - mean) / std, channel by channel.

    Args:
      images: `[row, height, width, channel]`, in [0, 1].
      mean: one number a channel.
      std: one number a channel.

    Raises:
      ValueError: the images have another shape, or are not floating-point numbers.
    """
    if images.ndim != 4 or not images.shape[-1] == len(mean) == len(std):
        layout = "[row, height, width, channel] with a channel for each of "
        raise checks.refused("images", images, f"{layout}mean={mean} and std={std}")
    checks.floating(images=images)
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)
