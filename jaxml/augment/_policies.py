"""Augmentations made of others, and the ones in common use."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.augment._checks import check_image
from jaxml.augment._color import color_jitter, gaussian_blur, grayscale
from jaxml.augment._geometry import horizontal_flip, padded_crop, resized_crop
from jaxml.precision import half_as_single

Augment = Callable[[Array, Array], Array]
"""Function of a key and an image `[height, width, channel]` to another of its shape."""


def identity(
    key: Key[Array, ""], image: Float[Array, "height width channel"]
) -> Float[Array, "height width channel"]:
    """Return the image as it is.

    Args:
      key: not used.
      image: `[height, width, channel]`.

    Returns:
      `image`.
    """
    return image


def compose(*augments: Augment) -> Augment:
    """Return the augmentation that applies these one after the other, each with its own key.

    Args:
      augments: functions of a key and an image `[height, width, channel]`, the first of them
        applied first.

    Returns:
      A function of a key and an image to an image of the same shape.
    """

    def composed(key: Array, image: Array) -> Array:
        for step, augment in enumerate(augments):
            image = augment(jax.random.fold_in(key, step), image)
        return image

    return composed


def sometimes(augment: Augment, probability: float) -> Augment:
    """Return the augmentation that applies another with this probability.

    Under `vmap` both cases are computed and one is chosen.

    Args:
      augment: function of a key and an image `[height, width, channel]`.
      probability: 0 to 1.

    Returns:
      A function of a key and an image to an image of the same shape.

    Raises:
      ValueError: `probability` is not in 0 to 1.
    """
    checks.within(0, 1, probability=probability)

    def perhaps(key: Array, image: Array) -> Array:
        key_choice, key_augment = jax.random.split(key)
        chosen = jax.random.uniform(key_choice) < probability
        return jnp.where(chosen, augment(key_augment, image), image)

    return perhaps


def flip_crop(
    key: Key[Array, ""], image: Float[Array, "height width channel"], *, padding: int = 4
) -> Float[Array, "height width channel"]:
    """Return a random window of the padded image or of its mirror image.

    The usual augmentation of CIFAR: `padded_crop`, then `horizontal_flip`.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1.
      padding: width of the black border in pixels.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image, or `padding` is negative.
    """
    return compose(functools.partial(padded_crop, padding=padding), horizontal_flip)(key, image)


@half_as_single
def simclr_view(
    key: Key[Array, ""],
    image: Float[Array, "height width channel"],
    *,
    strength: float = 0.5,
    blur: float = 0.0,
) -> Float[Array, "height width channel"]:
    """Return a view of the image as SimCLR takes it.

    A resized crop of 0.08 to 1 of the image, a mirror image at 1/2, color jitter of 0.8 s (of
    the hue 0.2 s) at 0.8, gray at 0.2, and a blur with its own probability. The defaults are
    those of the paper for CIFAR-10; for ImageNet s = 1 and the blur comes at 0.5.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1, 1 or 3 channels.
      strength: s of the color jitter, 0 to 2.5.
      blur: probability of the Gaussian blur.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image of 1 or 3 channels, or a setting is
        out of range.

    Source: Chen et al., "A simple framework for contrastive learning of visual
    representations" (ICML 2020), appendices A and B.9.
    """
    check_image(image, channels=(1, 3))
    checks.within(0, 2.5, strength=strength)
    checks.within(0, 1, blur=blur)
    around = (max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength)
    jitter = functools.partial(
        color_jitter,
        brightness=around,
        contrast=around,
        saturation=around,
        hue=(-0.2 * strength, 0.2 * strength),
        probability=0.8,
    )
    steps = [
        functools.partial(resized_crop, area=(0.08, 1.0)),
        horizontal_flip,
        jitter,
        grayscale,
    ]
    if blur:
        steps.append(sometimes(gaussian_blur, blur))
    return compose(*steps)(key, image)
