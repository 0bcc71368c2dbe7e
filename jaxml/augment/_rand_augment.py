"""RandAugment: operations drawn for every image from one list, at one magnitude."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.augment._checks import check_image
from jaxml.augment._color import blend, clip, gray, mean_gray
from jaxml.augment._geometry import affine_map, rotation
from jaxml.precision import half_as_single

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
)
_STRONGEST = 30


@half_as_single
def rand_augment(
    key: Key[Array, ""],
    image: Float[Array, "height width channel"],
    *,
    count: int = 2,
    magnitude: float = 9,
) -> Float[Array, "height width channel"]:
    """Return the image after `count` operations, each drawn uniformly from the list.

    The list is `OPERATIONS`: that of the paper without equalize, whose histogram costs more
    than all others together. Shears, shifts and rotations take the nearest pixel and are black
    where nothing comes in; they, brightness, color, contrast and sharpness have a random sign.
    An operation costs the same whichever is drawn.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1, 1 or 3 channels.
      count: number of operations, 0 or more.
      magnitude: 0, nothing but posterize, solarize and autocontrast, which leaves most images
        nearly as they are, to 30.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image of 1 or 3 channels, or a setting is
        out of range.

    Source: Cubuk et al., "RandAugment: practical automated data augmentation with a reduced
    search space" (NeurIPS 2020); magnitudes as in torchvision.
    """
    check_image(image, channels=(1, 3))
    checks.counts(least=0, count=count)
    checks.within(0, _STRONGEST, magnitude=magnitude)
    for step in range(count):
        key_operation, key_sign = jax.random.split(jax.random.fold_in(key, step))
        number = jax.random.randint(key_operation, (), 0, len(OPERATIONS))
        sign = jnp.where(jax.random.bernoulli(key_sign), 1, -1).astype(image.dtype)
        image = operate(image, number, sign, magnitude / _STRONGEST)
    return image


def operate(image: Array, number: Array, sign: Array, share: float) -> Array:
    """Return the image after one operation.

    Args:
      image: `[height, width, channel]`, 0 to 1.
      number: place in `OPERATIONS`; may be traced.
      sign: 1 or -1, of the operations that have one.
      share: of the largest magnitude, 0 to 1.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.
    """
    height, width, _ = image.shape
    is_drawn = lambda name: number == OPERATIONS.index(name)
    real = lambda condition: condition.astype(image.dtype)
    # One gather serves all that move pixels: the matrices here are the inverses of the moves.
    shear = 0.3 * share * sign
    x, y = (real(is_drawn(f"shear_{axis}")) * shear for axis in "xy")
    angle = real(is_drawn("rotate")) * sign * (share * jnp.pi / 6)
    unshear = jnp.stack([jnp.stack([jnp.ones_like(x), y]), jnp.stack([x, jnp.ones_like(x)])])
    # At most one of them is not the identity.
    matrix = unshear + rotation(-angle) - jnp.eye(2, dtype=image.dtype)
    down = real(is_drawn("translate_y")) * int(150 / 331 * share * height)
    right = real(is_drawn("translate_x")) * int(150 / 331 * share * width)
    image = affine_map(image, matrix, -sign * jnp.stack([down, right]), nearest=True)

    factor = 1 + 0.9 * share * sign
    cases = {
        "brightness": lambda: blend(image, jnp.zeros((), image.dtype), factor),
        "color": lambda: blend(image, gray(image), factor),
        "contrast": lambda: blend(image, mean_gray(image), factor),
        "sharpness": lambda: blend(image, _smooth(image), factor),
        "posterize": lambda: _posterize(image, 8 - round(4 * share)),
        "solarize": lambda: jnp.where(image < 1 - share, image, 1 - image),
        "autocontrast": lambda: _autocontrast(image),
    }
    for name, result in cases.items():
        image = jnp.where(is_drawn(name), result(), image)
    return image


def _smooth(image: Array) -> Array:
    """Return the image under [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13, the border as it is."""
    height, width, _ = image.shape
    # Padded, so that all is as large as the image: a part that is set is computed apart.
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    square = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    mixed = (square + 4 * image) / 13
    row, column = jnp.arange(height), jnp.arange(width)
    inner_row = (row > 0) & (row < height - 1)
    inner_column = (column > 0) & (column < width - 1)
    inside = inner_row[:, None, None] & inner_column[None, :, None]
    return jnp.where(inside, mixed, image)


def _posterize(image: Array, bits: int) -> Array:
    levels = 2**bits
    return jnp.minimum(clip(jnp.floor(image * levels) / levels), 1 - 1 / levels)


def _autocontrast(image: Array) -> Array:
    """Return every channel stretched to 0 to 1; a channel of one value stays."""
    # Rows first, whose pixels lie side by side.
    low = jnp.min(jnp.min(image, axis=0), axis=0)[None, None]
    high = jnp.max(jnp.max(image, axis=0), axis=0)[None, None]
    varies = high > low
    stretched = (image - low) / jnp.where(varies, high - low, 1)
    return jnp.where(varies, clip(stretched), image)
