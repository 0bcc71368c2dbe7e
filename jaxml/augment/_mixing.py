"""Augmentations that remove a part of an image, or mix the images of a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxml.augment._checks import check_image, check_number

Images = Float[Array, "row height width channel"]
Targets = Float[Array, "row class"]


def cutout(
    key: Key[Array, ""],
    image: Float[Array, "height width channel"],
    *,
    side: int | None = None,
    fill: float = 0.5,
) -> Float[Array, "height width channel"]:
    """Return the image with a square of one value, cut where it passes the border.

    Args:
      key: consumed.
      image: `[height, width, channel]`, 0 to 1.
      side: of the square in pixels; half of the shorter side of the image by default.
      fill: value of the square, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image, `side` is below 1, or `fill` not in
        0 to 1.

    Source: DeVries and Taylor, "Improved regularization of convolutional neural networks with
    cutout" (2017).
    """
    check_image(image)
    height, width, _ = image.shape
    side = max(1, min(height, width) // 2) if side is None else side
    if side < 1:
        raise ValueError(f"side={side}: accepted is 1 or more")
    check_number("fill", fill)
    centre = jax.random.randint(key, (2,), 0, jnp.asarray([height, width]))
    return jnp.where(_box(centre, (side, side), (height, width)), fill, image)


def mixup(
    key: Key[Array, ""], images: Images, targets: Targets, *, alpha: float = 1.0
) -> tuple[Images, Targets]:
    """Return l x_i + (1 - l) x_j and the same of the targets, j another order of the rows.

    One l ~ Beta(alpha, alpha) for the batch.

    Args:
      key: consumed.
      images: `[row, height, width, channel]`, 0 to 1.
      targets: probabilities of the classes, `[row, class]`.
      alpha: of the Beta distribution, above 0; small ones mix little.

    Returns:
      Images and targets of the shapes and dtypes given.

    Raises:
      ValueError: the arrays are no batch with targets, or `alpha` is not above 0.

    Source: Zhang et al., "mixup: beyond empirical risk minimization" (ICLR 2018).
    """
    _check_batch(images, targets, alpha)
    key_share, key_order = jax.random.split(key)
    share = jax.random.beta(key_share, alpha, alpha, dtype=images.dtype)
    order = jax.random.permutation(key_order, len(images))
    mix = lambda x: share.astype(x.dtype) * x + (1 - share).astype(x.dtype) * x[order]
    return jnp.clip(mix(images), 0, 1), mix(targets)


def cutmix(
    key: Key[Array, ""], images: Images, targets: Targets, *, alpha: float = 1.0
) -> tuple[Images, Targets]:
    """Return images with a box from another row, and targets mixed by the share of its pixels.

    One box for the batch, of the share 1 - l of the image, l ~ Beta(alpha, alpha), about a
    uniform centre and cut at the border.

    Args:
      key: consumed.
      images: `[row, height, width, channel]`, 0 to 1.
      targets: probabilities of the classes, `[row, class]`.
      alpha: of the Beta distribution, above 0; small ones mix little.

    Returns:
      Images and targets of the shapes and dtypes given.

    Raises:
      ValueError: the arrays are no batch with targets, or `alpha` is not above 0.

    Source: Yun et al., "CutMix: regularization strategy to train strong classifiers with
    localizable features" (ICCV 2019).
    """
    _check_batch(images, targets, alpha)
    key_share, key_order, key_box = jax.random.split(key, 3)
    share = jax.random.beta(key_share, alpha, alpha, dtype=images.dtype)
    order = jax.random.permutation(key_order, len(images))
    shape = images.shape[1:3]
    centre = jax.random.randint(key_box, (2,), 0, jnp.asarray(shape))
    sides = [jnp.floor(n * jnp.sqrt(1 - share)).astype(centre.dtype) for n in shape]
    box = _box(centre, sides, shape)
    other = jnp.mean(box.astype(targets.dtype))
    mixed = jnp.where(box, images[order], images)
    return mixed, (1 - other) * targets + other * targets[order]


def _box(centre: Array, sides, shape) -> Array:
    """Return whether a pixel is in the box, `[height, width, 1]`."""
    inside = []
    for place, side, size in zip(centre, sides, shape, strict=True):
        low = place - side // 2
        pixel = jnp.arange(size, dtype=centre.dtype)
        inside.append((pixel >= low) & (pixel < low + side))
    return inside[0][:, None, None] & inside[1][None, :, None]


def _check_batch(images: Array, targets: Array, alpha: float) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"images: shape {images.shape}; accepted is [row, height, width, channel], none 0"
        )
    check_image(images[0])
    if targets.ndim != 2 or len(targets) != len(images):
        raise ValueError(f"targets: shape {targets.shape}; accepted is [{len(images)}, class]")
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ValueError(f"targets: dtype {targets.dtype}; accepted are floating-point numbers")
    if not alpha > 0:
        raise ValueError(f"alpha={alpha}: accepted are numbers above 0")
