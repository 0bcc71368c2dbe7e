"""Triggers of backdoor attacks: what is done to an image in training and again at test time.

One form holds them all: the image is warped, multiplied and added to. A `Trigger` is a pytree
of arrays, so that it goes through `jit` and `vmap` and to disk, and a function of images.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.tracing import nan_unless

# Barni et al. 2019: 20 of 255 gray levels, and the periods across an image.
SIG_STRENGTH = 20 / 255
SIG_PERIODS = 6
# Label-consistent attack: white and black pixels of the lower right corner.
_CHECKERBOARD = ((0, 0, 1), (0, 1, 0), (1, 1, 0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trigger:
    """The map x -> clip(keep warp(x) + add, 0, 1) of images.

    Attributes:
      keep: share of the image that stays, `[height, width, channel]`.
      add: what is added, `[height, width, channel]`.
      flow: displacement in pixels, `[height, width, 2]`; None does not warp.
    """

    # No shapes here: JAX also fills a pytree with axes and shardings.
    keep: Any
    add: Any
    flow: Any = None

    def __call__(
        self, images: Float[Array, "row height width channel"]
    ) -> Float[Array, "row height width channel"]:
        """Return the images with the trigger.

        Args:
          images: `[row, height, width, channel]`, in [0, 1].

        Returns:
          Images of that form.

        Raises:
          ValueError: the images are not of that form, or of another size than the trigger.
        """
        checks.images(images=images)
        checks.values_within(0, 1, images=images)
        if images.shape[1:] != self.keep.shape:
            size = ", ".join(map(str, self.keep.shape))
            raise checks.refused("images", images, f"[row, {size}], the size of the trigger")
        keep, add = (a.astype(images.dtype)[None] for a in (self.keep, self.add))
        if self.flow is not None:
            images = _warp(images, self.flow.astype(images.dtype))
        triggered = keep * images + add
        # Between 0 and 1 infinity would look like a bright pixel.
        return nan_unless(jnp.isfinite(triggered), jnp.clip(triggered, 0, 1))


def patch_trigger(
    patch: Float[Array, "rows columns channel"],
    shape: tuple[int, ...],
    *,
    margin: int = 0,
) -> Trigger:
    """Return the trigger that puts a patch into the lower right corner.

    Args:
      patch: `[rows, columns, channel]`, in [0, 1].
      shape: height, width and channels of the images.
      margin: pixels between the patch and the border.

    Returns:
      The trigger.

    Raises:
      ValueError: the patch does not fit.
    """
    place = _corner(patch, shape, margin)
    keep = jnp.ones(shape, patch.dtype).at[place].set(0)
    return Trigger(keep, jnp.zeros(shape, patch.dtype).at[place].set(patch))


def square_trigger(
    square: Float[Array, "rows columns channel"],
    shape: tuple[int, ...],
    *,
    margin: int = 0,
) -> Trigger:
    """Return the trigger that adds a square to the lower right corner, which shines through.

    Args:
      square: `[rows, columns, channel]`, in [0, 1].
      shape: height, width and channels of the images.
      margin: pixels between the square and the border.

    Returns:
      The trigger.

    Raises:
      ValueError: the square does not fit.
    """
    place = _corner(square, shape, margin)
    add = jnp.zeros(shape, square.dtype).at[place].set(square)
    return Trigger(jnp.ones_like(add), add)


def checkerboard_trigger(shape: tuple[int, ...], *, corners: int = 1) -> Trigger:
    """Return the trigger that puts a 3 x 3 checkerboard into corners, each turned outwards.

    In one corner, or in all four, which is learnt from fewer rows.

    Args:
      shape: height, width and channels of the images.
      corners: 1, the lower right one, or 4.

    Returns:
      The trigger.

    Raises:
      ValueError: `corners` is neither, or the images are too small.

    Source: Turner et al., "Label-consistent backdoor attacks" (2019).
    """
    checks.choice((1, 4), corners=corners)
    if min(shape[:2]) < 6:
        raise checks.refused("shape", shape, "height and width of 6 pixels or more")
    board = jnp.broadcast_to(jnp.asarray(_CHECKERBOARD, float)[..., None], (3, 3, shape[2]))
    trigger = patch_trigger(board, shape)
    if corners == 1:
        return trigger
    flips = [(), (0,), (1,), (0, 1)]
    keep = jnp.min(jnp.stack([jnp.flip(trigger.keep, axes) for axes in flips]), axis=0)
    return Trigger(keep, sum(jnp.flip(trigger.add, axes) for axes in flips))


def blend_trigger(pattern: Float[Array, "height width channel"], *, alpha: float = 0.2) -> Trigger:
    """Return the trigger (1 - alpha) x + alpha pattern.

    Args:
      pattern: `[height, width, channel]`, in [0, 1].
      alpha: weight of the pattern, between 0 and 1.

    Returns:
      The trigger.

    Raises:
      ValueError: `alpha` is not between 0 and 1.
    """
    checks.between(0, 1, alpha=alpha)
    return Trigger(jnp.full_like(pattern, 1 - alpha), alpha * pattern)


def sinusoid_trigger(shape: tuple[int, ...]) -> Trigger:
    """Return the trigger that adds 20/255 sin(2 pi 6 column / width).

    Args:
      shape: height, width and channels of the images.

    Returns:
      The trigger.

    Source: Barni et al., "A new backdoor attack in CNNs by training set corruption without
    label poisoning" (ICIP 2019).
    """
    width = shape[1]
    wave = SIG_STRENGTH * jnp.sin(
        2 * math.pi * SIG_PERIODS / width * jnp.arange(width, dtype=float)
    )
    add = jnp.broadcast_to(wave[:, None], shape)
    return Trigger(jnp.ones_like(add), add)


def warp_trigger(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    *,
    points: int = 4,
    strength: float = 0.5,
) -> Trigger:
    """Return the trigger that warps by a smooth random flow `[height, width, 2]`.

    Control points are uniform in -1 to 1, divided by the mean of their magnitudes, and upsampled
    by cubics with the corners on the corners. In coordinates from -1 to 1 across the image
    the flow is `strength` / height times this; places outside are moved to the border.

    Args:
      key: consumed.
      shape: height, width and channels of the images.
      points: control points along each axis, from 2 to the smaller side, which is no smoothing.
      strength: of the warp; at 0.5 it is about a quarter of a pixel.

    Returns:
      The trigger.

    Raises:
      ValueError: `points` is out of range, or `strength` is not positive.

    Source: Nguyen and Tran, "WaNet" (ICLR 2021).
    """
    height, width, _ = shape
    checks.counts(least=2, points=points)
    checks.within(2, min(height, width), points=points)
    checks.positive(strength=strength)
    control = jax.random.uniform(key, (points, points, 2), minval=-1, maxval=1)
    control = control / jnp.mean(jnp.abs(control))
    scale = jnp.array([(n - 1) / (points - 1) for n in (height, width)], control.dtype)
    # Pixel i is point i / scale; jax.image counts from the centers of the pixels.
    flow = jax.image.scale_and_translate(
        control, (height, width, 2), (0, 1), scale, (1 - scale) / 2, "cubic", antialias=False
    )
    pixels = jnp.array([[[(n - 1) / 2 for n in (height, width)]]], flow.dtype)
    return Trigger(jnp.ones(shape), jnp.zeros(shape), flow * (strength / height) * pixels)


def noise(
    key: Key[Array, ""], shape: tuple[int, ...], *, side: int = 32
) -> Float[Array, "height width channel"]:
    """Return gray uniform noise `[height, width, channel]`, the pattern of the blend attack.

    Args:
      key: consumed.
      shape: height, width and channels of the images.
      side: larger images get noise of this side, enlarged.

    Returns:
      Values in [0, 1], the same in all channels.
    """
    height, width, _ = shape
    small = jax.random.uniform(key, (min(height, side), min(width, side), 1))
    gray = jax.image.resize(small, (height, width, 1), "linear")
    return jnp.broadcast_to(gray, shape)


def _corner(patch: Array, shape: tuple[int, ...], margin: int) -> tuple[slice, slice]:
    """Return the place of a patch in the lower right corner."""
    ends = [n - margin for n in shape[:2]]
    starts = [end - n for end, n in zip(ends, patch.shape[:2], strict=True)]
    checks.counts(least=0, margin=margin)
    if min(starts) < 0 or patch.shape[2] != shape[2]:
        accepted = f"what fits images {list(shape)} with margin={margin}"
        raise checks.refused("patch", patch, accepted)
    rows, columns = (slice(*ends_) for ends_ in zip(starts, ends, strict=True))
    return rows, columns


def _warp(images: Array, flow: Array) -> Array:
    """Return images at p + flow(p), linear between pixels, the border repeated outside."""
    height, width = flow.shape[:2]
    row = jnp.arange(height, dtype=flow.dtype)[:, None] + flow[..., 0]
    column = jnp.arange(width, dtype=flow.dtype)[None] + flow[..., 1]
    sample = lambda plane: map_coordinates(plane, [row, column], order=1, mode="nearest")
    return jax.vmap(jax.vmap(sample, -1, -1))(images)
