"""Augmentations that remove a part of an image, or mix the images of a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.augment._checks import check_image
from jaxml.augment._color import clip
from jaxml.precision import half_as_single

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

    Returns:
      An image of the shape and dtype of `image`, 0 to 1.

    Raises:
      ValueError: `image` is not one floating-point image, `side` is below 1, or `fill` not in
        0 to 1.

    Source: DeVries and Taylor, "Improved regularization of convolutional neural networks with
    cutout" (2017).
    """
    check_image(image)
    height, width, _ = image.shape
    side = max(1, min(height, width) // 2) if side is None else side
    checks.counts(side=side)
    checks.within(0, 1, fill=fill)
    center = jax.random.randint(key, (2,), 0, jnp.asarray([height, width]))
    return jnp.where(_box(center, (side, side), (height, width)), fill, image)


@half_as_single
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

    def mix(x):
        return share.astype(x.dtype) * x + (1 - share).astype(x.dtype) * x[order]

    return clip(mix(images)), mix(targets)


@half_as_single
def cutmix(
    key: Key[Array, ""], images: Images, targets: Targets, *, alpha: float = 1.0
) -> tuple[Images, Targets]:
    """Return images with a box from another row, and targets mixed by the share of its pixels.

    One box for the batch, of the share 1 - l of the image, l ~ Beta(alpha, alpha), about a
    uniform center and cut at the border.

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
    center = jax.random.randint(key_box, (2,), 0, jnp.asarray(shape))
    sides = [jnp.floor(n * jnp.sqrt(1 - share)).astype(center.dtype) for n in shape]
    box = _box(center, sides, shape)
    other = jnp.mean(box.astype(targets.dtype))
    mixed = jnp.where(box, images[order], images)
    return mixed, (1 - other) * targets + other * targets[order]


def _box(center: Array, sides, shape) -> Array:
    """Return whether a pixel is in the box, `[height, width, 1]`."""
    inside = []
    for place, side, size in zip(center, sides, shape, strict=True):
        low = place - side // 2
        pixel = jnp.arange(size, dtype=center.dtype)
        inside.append((pixel >= low) & (pixel < low + side))
    return inside[0][:, None, None] & inside[1][None, :, None]


def _check_batch(images: Array, targets: Array, alpha: float) -> None:
    checks.images(images=images)
    if targets.ndim != 2 or len(targets) != len(images):
        raise checks.refused("targets", targets, f"[{len(images)}, class], a row an image")
    checks.floating(targets=targets)
    checks.positive(alpha=alpha)
