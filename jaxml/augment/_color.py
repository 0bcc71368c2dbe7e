"""Augmentations that change values and leave pixels where they are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.augment._checks import Range, check_image, check_range
from jaxml.precision import half_as_single

# Luma of ITU-R BT.601, to the digits that torchvision and dm-pix have.
_LUMA = (0.2989, 0.587, 0.114)


@half_as_single
def color_jitter(
    key: Key[Array, ""],
    image: Float[Array, "height width channel"],
    *,
    brightness: Range = (0.6, 1.4),
    contrast: Range = (0.6, 1.4),
    saturation: Range = (0.6, 1.4),
    hue: Range = (-0.1, 0.1),
    probability: float = 1.0,
) -> Float[Array, "height width channel"]:
    """Return the image with random brightness, contrast, saturation and hue, in this order.

    The factors f are of x -> clip(d + f (x - d)), with d = 0 for brightness, the mean gray of
    the image for contrast and the gray of the pixel for saturation. One channel has neither
    saturation nor hue. torchvision also draws the order.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1, 1 or 3 channels.
      brightness: range of the factor, 0 or more; 1 leaves it.
      contrast: range of the factor, 0 or more; 1 leaves it.
      saturation: range of the factor, 0 or more; 1 leaves it.
      hue: range in turns of the color circle, -1/2 to 1/2.
      probability: of a change; the image stays, but for rounding, otherwise.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image of 1 or 3 channels, a range is out of
        bounds, or `probability` not in 0 to 1.
    """
    check_image(image, channels=(1, 3))
    factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, limits in factors.items():
        check_range(name, limits, lowest=0)
    check_range("hue", hue, lowest=-0.5, highest=0.5)
    checks.within(0, 1, probability=probability)
    draw = jax.random.uniform(key, (5,), image.dtype)
    # Factors that change nothing, as a choice between two images costs another image.
    ranges = ((brightness, 1), (contrast, 1), (saturation, 1), (hue, 0))
    light, spread, color, turn = (
        jnp.where(draw[4] < probability, low + (high - low) * u, neutral)
        for u, ((low, high), neutral) in zip(draw[:4], ranges, strict=True)
    )
    image = blend(image, jnp.zeros((), image.dtype), light)
    mean = mean_gray(image)
    # A plane at a time: on whole images the compiler does what comes before once a channel.
    planes = [blend(plane, mean, spread) for plane in jnp.moveaxis(image, -1, 0)]
    if len(planes) == 3:
        own = luma(*planes)
        red, green, blue = (blend(plane, own, color) for plane in planes)
        planes = turn_hue(red, green, blue, turn)
    return jnp.stack(planes, axis=-1)


@half_as_single
def grayscale(
    key: Key[Array, ""], image: Float[Array, "height width channel"], *, probability: float = 0.2
) -> Float[Array, "height width channel"]:
    """Return the image or, with this probability, its luma in all channels.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1, 1 or 3 channels.
      probability: of the gray image.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image of 1 or 3 channels, or `probability`
        not in 0 to 1.
    """
    check_image(image, channels=(1, 3))
    checks.within(0, 1, probability=probability)
    return jnp.where(jax.random.uniform(key) < probability, gray(image), image)


@half_as_single
def gaussian_blur(
    key: Key[Array, ""],
    image: Float[Array, "height width channel"],
    *,
    sigma: Range = (0.1, 2.0),
    radius: int | None = None,
) -> Float[Array, "height width channel"]:
    """Return the image blurred by a Gaussian of random width, mirrored at the border.

    Weights exp(-d^2 / 2 sigma^2) for distances d up to the radius, which sum to 1.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1.
      sigma: range of the standard deviation in pixels; above 0.
      radius: largest distance in pixels, below both sides of the image; by default a twentieth
        of the shorter side and at least 1, the kernel of SimCLR.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image, `sigma` is out of bounds, or `radius`
        is below 1 or too large.
    """
    check_image(image)
    check_range("sigma", sigma, lowest=1e-3)
    shorter = min(image.shape[:2])
    radius = max(1, shorter // 20) if radius is None else radius
    checks.counts(radius=radius)
    checks.within(1, shorter - 1, radius=radius)
    width = jax.random.uniform(key, (), image.dtype, *sigma)
    distance = jnp.arange(-radius, radius + 1, dtype=image.dtype)
    weight = jnp.exp(-0.5 * (distance / width) ** 2)
    weight = weight / jnp.sum(weight)
    for axis in (0, 1):
        rim = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = jnp.pad(image, rim, mode="reflect")
        size = image.shape[axis]
        part = lambda i: jax.lax.slice_in_dim(padded, i, i + size, axis=axis)  # noqa: B023
        image = sum(
            (weight[i] * part(i) for i in range(1, 2 * radius + 1)), start=weight[0] * part(0)
        )
    # The weights sum to 1 but for rounding.
    return clip(image)


def blend(image: Array, other: Array, factor: Array) -> Array:
    """Return clip(d + f (x - d)): between `other` d and the image x, or beyond the image."""
    return clip(other + factor * (image - other))


def clip(values: Array) -> Array:
    """Return values cut at 0 and 1, with NaN for infinity, which is not a bright pixel."""
    return jnp.clip(values, 0, 1) + 0 * values


def gray(image: Array) -> Array:
    """Return the luma `[height, width, 1]` of an image of 1 or 3 channels."""
    return image if image.shape[-1] == 1 else luma(*jnp.moveaxis(image, -1, 0))[..., None]


def luma(red: Array, green: Array, blue: Array) -> Array:
    """Return the luma of the planes of an image."""
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def mean_gray(image: Array) -> Array:
    """Return the mean of the luma of an image of 1 or 3 channels."""
    height, width, channels = image.shape
    weight = jnp.asarray(_LUMA if channels == 3 else (1,), image.dtype)
    rows = jnp.sum(image.reshape(height, width * channels), axis=0)
    return jnp.sum(rows * jnp.tile(weight, width)) / (height * width)


def turn_hue(red: Array, green: Array, blue: Array, turn: Array) -> list[Array]:
    """Return the planes with every hue moved by `turn` of the color circle, through HSV."""
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    span = jnp.where(chroma > 0, chroma, 1)
    # Hue in sixths of the circle, from the largest channel.
    sixths = jnp.where(
        value == red,
        (green - blue) / span,
        jnp.where(value == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )

    def plane(n: int) -> Array:
        # V - V S clip(min(k, 4 - k), 0, 1), k = n + H mod 6.
        k = (n + sixths) / 6 + turn
        k = 6 * (k - jnp.floor(k))
        return clip(value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))

    return [plane(5), plane(3), plane(1)]
