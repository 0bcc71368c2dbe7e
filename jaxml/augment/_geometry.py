"""Augmentations that move pixels: mirror images, crops, rotations and affine maps."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.augment._checks import Range, check_image, check_range
from jaxml.augment._color import clip
from jaxml.precision import half_as_single

# Draws of a box before the center is taken instead, as in torchvision.
_ATTEMPTS = 10
_POSITIVE = 1e-6


def horizontal_flip(
    key: Key[Array, ""], image: Float[Array, "height width channel"], *, probability: float = 0.5
) -> Float[Array, "height width channel"]:
    """Return the image or, with this probability, its mirror image, left and right swapped.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1.
      probability: of the mirror image.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image, or `probability` not in 0 to 1.
    """
    check_image(image)
    checks.within(0, 1, probability=probability)
    columns = jnp.arange(image.shape[1])
    columns = jnp.where(jax.random.uniform(key) < probability, columns[::-1], columns)
    # One read of each pixel. A choice between two images computes what makes the image twice.
    return image.at[:, columns].get(mode="promise_in_bounds")


def padded_crop(
    key: Key[Array, ""], image: Float[Array, "height width channel"], *, padding: int = 4
) -> Float[Array, "height width channel"]:
    """Return a window of the image's size from the image with a black border around it.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1.
      padding: width of the border in pixels; 0 returns the image.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image, or `padding` is negative.
    """
    check_image(image)
    checks.counts(least=0, padding=padding)
    start = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


@half_as_single
def resized_crop(
    key: Key[Array, ""],
    image: Float[Array, "height width channel"],
    *,
    area: Range = (0.2, 1.0),
    aspect: Range = (3 / 4, 4 / 3),
) -> Float[Array, "height width channel"]:
    """Return a random box of the image, resized bilinearly to the size of the image.

    The box has whole pixels, round(sqrt(a r)) by round(sqrt(a / r)) for an area a and an aspect
    r. Of ten draws the first that fits is taken; where none does, the largest box about the
    center with an aspect in range.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1.
      area: range of the box's share of the image; above 0, up to 1.
      aspect: range of width / height, whose logarithm is uniform; above 0.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image, or a range is out of bounds.

    Source: Szegedy et al., "Going deeper with convolutions" (CVPR 2015).
    """
    check_image(image)
    check_range("area", area, lowest=_POSITIVE, highest=1)
    check_range("aspect", aspect, lowest=_POSITIVE)
    height, width, _ = image.shape
    real = lambda x: jnp.asarray(x, image.dtype)
    draw = jax.random.uniform(key, (4, _ATTEMPTS), image.dtype)
    share = area[0] + (area[1] - area[0]) * draw[0]
    low, high = jnp.log(real(aspect[0])), jnp.log(real(aspect[1]))
    ratio = jnp.exp(low + (high - low) * draw[1])
    h = jnp.round(jnp.sqrt(share * height * width / ratio))
    w = jnp.round(jnp.sqrt(share * height * width * ratio))
    fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
    first = jnp.argmax(fits)
    whole_h, whole_w = _largest_box(height, width, aspect)
    center = (whole_h, whole_w, (height - whole_h) // 2, (width - whole_w) // 2)
    drawn = (h, w, jnp.floor(draw[2] * (height - h + 1)), jnp.floor(draw[3] * (width - w + 1)))
    h, w, top, left = (
        jnp.where(jnp.any(fits), draws[first], whole)
        for draws, whole in zip(drawn, center, strict=True)
    )
    return resize(image, top + _pixel_centers(h, height), left + _pixel_centers(w, width))


@half_as_single
def rotate(
    key: Key[Array, ""],
    image: Float[Array, "height width channel"],
    *,
    degrees: Range = (-30.0, 30.0),
) -> Float[Array, "height width channel"]:
    """Return the image rotated about its center, bilinearly, black where nothing comes in.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1.
      degrees: range of the angle, counter-clockwise.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image, or `degrees` is no range.
    """
    check_image(image)
    check_range("degrees", degrees)
    angle = jnp.radians(_uniform(key, degrees, image))
    return affine_map(image, rotation(-angle), jnp.zeros(2, image.dtype))


@half_as_single
def affine(
    key: Key[Array, ""],
    image: Float[Array, "height width channel"],
    *,
    degrees: Range = (-15.0, 15.0),
    shift: Range = (-0.1, 0.1),
    scale: Range = (0.9, 1.1),
    shear: Range = (-10.0, 10.0),
) -> Float[Array, "height width channel"]:
    """Return the image under a random affine map, bilinearly, black where nothing comes in.

    About the center: sheared along its rows, enlarged, rotated, then moved.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1.
      degrees: range of the rotation, counter-clockwise.
      shift: range of the way down and right, drawn apart, in heights and widths.
      scale: range of the enlargement; above 0.
      shear: range of the angle in degrees by which columns lean to the right at the top;
        between -90 and 90.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image, or a range is out of bounds.
    """
    check_image(image)
    for name, limits in {"degrees": degrees, "shift": shift}.items():
        check_range(name, limits)
    check_range("scale", scale, lowest=_POSITIVE)
    check_range("shear", shear, lowest=-89.9, highest=89.9)
    keys = jax.random.split(key, 4)
    angle, size, lean = (
        _uniform(k, limits, image)
        for k, limits in zip(keys[:3], (degrees, scale, shear), strict=True)
    )
    low, high = shift
    way = jax.random.uniform(keys[3], (2,), image.dtype, low, high)
    way = way * jnp.asarray(image.shape[:2], image.dtype)
    # In rows and columns: a point one row up goes tan(lean) columns to the right; its inverse.
    tangent = jnp.tan(jnp.radians(lean))
    unshear = jnp.eye(2, dtype=image.dtype).at[1, 0].set(tangent)
    inverse = _product(unshear, rotation(-jnp.radians(angle))) / size
    return affine_map(image, inverse, -jnp.sum(inverse * way[None], axis=1))


def affine_map(
    image: Float[Array, "height width channel"],
    matrix: Float[Array, "2 2"],
    offset: Float[Array, "2"],
    *,
    nearest: bool = False,
) -> Float[Array, "height width channel"]:
    """Return the image sampled at M p + offset, p a pixel's row and column from the center.

    Args:
      image: `[height, width, channel]`.
      matrix: M, `[2, 2]`.
      offset: of rows and columns, `[2]`, in pixels.
      nearest: take the nearest pixel and do not interpolate.

    Returns:
      An image of the shape and dtype of `image`, 0 where a place is outside of it.
    """
    height, width, _ = image.shape
    middle = (height - 1) / 2, (width - 1) / 2
    p = jnp.arange(height, dtype=image.dtype)[:, None] - middle[0]
    q = jnp.arange(width, dtype=image.dtype)[None, :] - middle[1]
    rows = matrix[0, 0] * p + matrix[0, 1] * q + (offset[0] + middle[0])
    columns = matrix[1, 0] * p + matrix[1, 1] * q + (offset[1] + middle[1])
    return resample(image, rows, columns, nearest=nearest)


def rotation(angle: Float[Array, ""]) -> Float[Array, "2 2"]:
    """Return the rotation of rows and columns by an angle in radians, counter-clockwise."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    # Rows run downwards, so that the sign is that of a clockwise rotation of (x, y).
    return jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])


def resize(
    image: Float[Array, "height width channel"],
    rows: Float[Array, " height"],
    columns: Float[Array, " width"],
) -> Float[Array, "height width channel"]:
    """Return the image at these rows and columns, bilinearly.

    Args:
      image: `[height, width, channel]`.
      rows: `[height]`, 0 to height - 1, pixel centers being whole numbers.
      columns: `[width]`, 0 to width - 1.

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.
    """
    height, width, channels = image.shape
    # Tent weights: a row of this matrix has at most two entries, which sum to 1.
    row = jnp.arange(height, dtype=image.dtype)
    weight = jnp.maximum(0, 1 - jnp.abs(rows[:, None] - row[None]))
    image = jnp.matmul(weight, image.reshape(height, width * channels), precision="highest")
    image = image.reshape(height, width, channels)
    left = jnp.floor(columns)
    part, whole = (columns - left)[None, :, None], left.astype(jnp.int32)
    take = lambda c: image.at[:, c].get(mode="promise_in_bounds")
    mixed = (1 - part) * take(whole) + part * take(jnp.minimum(whole + 1, width - 1))
    return clip(mixed)


def resample(
    image: Float[Array, "height width channel"],
    rows: Float[Array, "#height #width"],
    columns: Float[Array, "#height #width"],
    *,
    nearest: bool = False,
) -> Float[Array, "height width channel"]:
    """Return the image at these places, bilinearly, with 0 outside of it.

    Args:
      image: `[height, width, channel]`.
      rows: of the places, pixel centers being whole numbers.
      columns: of the places, likewise.
      nearest: take the nearest pixel and do not interpolate.

    Returns:
      The values at the places, `[height, width, channel]`.
    """
    height, width, channels = image.shape
    # A rim of zeros makes every tap one inside, which spares a test of each.
    pixels = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    take = lambda r, c: pixels.at[r * (width + 2) + c].get(mode="promise_in_bounds")
    whole = lambda x: x.astype(jnp.int32)
    rows = jnp.clip(rows, -1, height) + 1
    columns = jnp.clip(columns, -1, width) + 1
    if nearest:
        return take(whole(jnp.round(rows)), whole(jnp.round(columns)))
    top, left = (jnp.minimum(jnp.floor(x), n) for x, n in ((rows, height), (columns, width)))
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    r, c = whole(top), whole(left)
    upper = (1 - right) * take(r, c) + right * take(r, c + 1)
    lower = (1 - right) * take(r + 1, c) + right * take(r + 1, c + 1)
    return (1 - down) * upper + down * lower


def _uniform(key: Array, limits: Range, image: Array) -> Array:
    return jax.random.uniform(key, (), image.dtype, *limits)


def _product(a: Array, b: Array) -> Array:
    """Return a b of small matrices; a dot would be a call of its own for every image."""
    return jnp.sum(a[:, :, None] * b[None], axis=1)


def _pixel_centers(size: Array, count: int) -> Array:
    """Return `count` places spread over `size` pixels, clamped to their centers."""
    place = (jnp.arange(count, dtype=size.dtype) + 0.5) * size / count - 0.5
    return jnp.clip(place, 0, size - 1)


def _largest_box(height: int, width: int, aspect: Range) -> tuple[int, int]:
    if width / height < aspect[0]:
        return max(1, min(height, round(width / aspect[0]))), width
    if width / height > aspect[1]:
        return height, max(1, min(width, round(height * aspect[1])))
    return height, width
