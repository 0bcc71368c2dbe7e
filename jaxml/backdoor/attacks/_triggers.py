"""Triggers of backdoor attacks: what is done to an image in training and again at test time.

One form holds them all: the image is warped, multiplied and added to. A `Trigger` is a pytree
of arrays, so that it goes through `jit` and `vmap` and to disk, and a function of images.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key

from jaxml.tracing import known

# Barni et al. 2019: 20 of 255 grey levels, and the periods across an image.
SIG_STRENGTH = 20 / 255
SIG_PERIODS = 6
# Label-consistent attack: white and black pixels of the lower right corner.
_CHECKERBOARD = ((0, 0, 1), (0, 1, 0), (1, 1, 0))


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["keep", "add", "flow"], meta_fields=[]
)
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

        Raises:
          ValueError: the images are not of that form, or of another size than the trigger.
        """
        check_images(images)
        if images.shape[1:] != self.keep.shape:
            raise ValueError(f"images: shape {images.shape}; the trigger has {self.keep.shape}")
        keep, add = (a.astype(images.dtype) for a in (self.keep, self.add))
        if self.flow is not None:
            images = _warp(images, self.flow.astype(images.dtype))
        return jnp.clip(keep * images + add, 0, 1)


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

    Raises:
      ValueError: the square does not fit.
    """
    place = _corner(square, shape, margin)
    add = jnp.zeros(shape, square.dtype).at[place].set(square)
    return Trigger(jnp.ones_like(add), add)


def checkerboard_trigger(shape: tuple[int, ...], *, corners: int = 1) -> Trigger:
    """Return the trigger that puts a 3 x 3 checkerboard into corners, each turned outwards.

    Turner et al., "Label-consistent backdoor attacks" (2019): in one corner, or in all four,
    which is learnt from fewer rows.

    Args:
      shape: height, width and channels of the images.
      corners: 1, the lower right one, or 4.

    Raises:
      ValueError: `corners` is neither, or the images are too small.
    """
    if corners not in (1, 4) or min(shape[:2]) < 6:
        raise ValueError(
            f"corners={corners}, images {shape}: accepted are 1 or 4, and sides from 6 pixels"
        )
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

    Raises:
      ValueError: `alpha` is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}: accepted are numbers between 0 and 1")
    return Trigger(jnp.full_like(pattern, 1 - alpha), alpha * pattern)


def sinusoid_trigger(shape: tuple[int, ...]) -> Trigger:
    """Return the trigger that adds 20/255 sin(2 pi 6 column / width).

    Barni et al., "A new backdoor attack in CNNs by training set corruption without label
    poisoning" (ICIP 2019).

    Args:
      shape: height, width and channels of the images.
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
    Nguyen and Tran, "WaNet" (ICLR 2021).

    Args:
      key: consumed.
      shape: height, width and channels of the images.
      points: control points along each axis, from 2 to the smaller side, which is no smoothing.
      strength: of the warp; at 0.5 it is about a quarter of a pixel.

    Raises:
      ValueError: `points` is out of range, or `strength` is not positive.
    """
    height, width, _ = shape
    if not 2 <= points <= min(height, width):
        raise ValueError(f"points={points}: accepted are 2 to {min(height, width)}")
    if not strength > 0:
        raise ValueError(f"strength={strength}: accepted are positive numbers")
    control = jax.random.uniform(key, (points, points, 2), minval=-1, maxval=1)
    control = control / jnp.mean(jnp.abs(control))
    scale = jnp.array([(n - 1) / (points - 1) for n in (height, width)], control.dtype)
    # Pixel i is point i / scale; jax.image counts from the centers of the pixels.
    flow = jax.image.scale_and_translate(
        control, (height, width, 2), (0, 1), scale, (1 - scale) / 2, "cubic", antialias=False
    )
    pixels = jnp.array([(n - 1) / 2 for n in (height, width)], flow.dtype)
    return Trigger(jnp.ones(shape), jnp.zeros(shape), flow * (strength / height) * pixels)


def noise(
    key: Key[Array, ""], shape: tuple[int, ...], *, side: int = 32
) -> Float[Array, "height width channel"]:
    """Return grey uniform noise `[height, width, channel]`, the pattern of the blend attack.

    Args:
      key: consumed.
      shape: height, width and channels of the images.
      side: larger images get noise of this side, enlarged.
    """
    height, width, _ = shape
    small = jax.random.uniform(key, (min(height, side), min(width, side), 1))
    grey = jax.image.resize(small, (height, width, 1), "linear")
    return jnp.broadcast_to(grey, shape)


def check_images(images: Array) -> None:
    """Raise ValueError unless these are images, with values in [0, 1] where they are known."""
    if images.ndim != 4 or images.size == 0:
        raise ValueError(f"images: shape {images.shape}; accepted is [row, height, width, channel]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images: dtype {images.dtype}; accepted are floating-point numbers in [0, 1]"
        )
    if not known(images, lambda images: jnp.all((images >= 0) & (images <= 1))):
        raise ValueError("images: hold NaN or values outside of [0, 1]; accepted is [0, 1]")


def _corner(patch: Array, shape: tuple[int, ...], margin: int) -> tuple[slice, slice]:
    """Return the place of a patch in the lower right corner."""
    ends = [n - margin for n in shape[:2]]
    starts = [end - n for end, n in zip(ends, patch.shape[:2], strict=True)]
    if min(*starts, margin) < 0 or patch.shape[2] != shape[2]:
        raise ValueError(f"patch: {patch.shape} and margin={margin} do not fit images {shape}")
    rows, columns = (slice(*ends_) for ends_ in zip(starts, ends, strict=True))
    return rows, columns


def _warp(images: Array, flow: Array) -> Array:
    """Images at p + flow(p), linear between pixels, the border repeated outside."""
    height, width = flow.shape[:2]
    row = jnp.arange(height, dtype=flow.dtype)[:, None] + flow[..., 0]
    column = jnp.arange(width, dtype=flow.dtype) + flow[..., 1]
    sample = lambda plane: map_coordinates(plane, [row, column], order=1, mode="nearest")
    return jax.vmap(jax.vmap(sample, -1, -1))(images)
