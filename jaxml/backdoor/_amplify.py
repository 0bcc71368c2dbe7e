"""Amplified images and what a classifier makes of them: the ground of SPC, MSPC and `identify`."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from jaxml import checks
from jaxml.sharding import map_batches
from jaxml.tracing import as_partial, known

LogitsFn = Callable[[Array], Array]
"""Function of images `[row, height, width, channel]` to logits `[row, class]`."""

SCALES = tuple(range(2, 13))


def agreement(
    logits_fn: LogitsFn,
    images: Float[Array, "row height width channel"],
    mask: Float[Array, "height width"],
    *,
    shift: float,
    scales: Sequence[float],
    batch_size: int,
) -> Float[Array, " row"]:
    """Return the fraction of the scales at which the predicted class of a row stays.

    Args:
      logits_fn: as for `mspc`.
      images: `[row, height, width, channel]`, 0 to 1.
      mask: `[height, width]`, 0 to 1.
      shift: subtracted from the images.
      scales: factors of the amplification.
      batch_size: rows worked on at a time, each at all scales.

    Returns:
      Fractions `[row]`, 0 to 1.

    Raises:
      ValueError: logits are not finite; the first row is named.
    """
    network = as_partial(logits_fn)
    logits = row_logits(network, images, batch_size=batch_size)
    amplified = amplified_rows(
        network, images, logits, mask, shift=shift, scales=scales, batch_size=batch_size
    )
    return amplified.agreement


def row_logits(
    logits_fn: Partial, images: Float[Array, "row height width channel"], *, batch_size: int
) -> Float[Array, "row class"]:
    """Return the logits of the images themselves.

    Args:
      logits_fn: images to logits.
      images: `[row, height, width, channel]`.
      batch_size: rows worked on at a time.

    Returns:
      Logits `[row, class]`.

    Raises:
      ValueError: logits are not finite; the first row is named.
    """
    logits = _row_logits(logits_fn, images, batch_size=batch_size)
    _check_finite(logits, jnp.all(jnp.isfinite(logits), axis=-1))
    return logits


class AmplifiedRows(NamedTuple):
    """What amplification does to rows: means over the scales, `[row]`.

    Attributes:
      agreement: of 1 where the predicted class stays, else 0.
      divergence: of the KL divergence of the prediction from that of the image itself.
      finite: whether all logits are finite.
    """

    agreement: Float[Array, " row"]
    divergence: Float[Array, " row"]
    finite: Bool[Array, " row"]


def amplified_rows(
    logits_fn: Partial,
    images: Float[Array, "row height width channel"],
    logits: Float[Array, "row class"],
    mask: Float[Array, "height width"],
    *,
    shift: float,
    scales: Sequence[float],
    batch_size: int,
) -> AmplifiedRows:
    """Return the means over the scales for rows whose own logits are known.

    Args:
      logits_fn: images to logits.
      images: `[row, height, width, channel]`, 0 to 1.
      logits: of the images, `[row, class]`.
      mask: `[height, width]`, 0 to 1.
      shift: subtracted from the images.
      scales: factors of the amplification.
      batch_size: rows worked on at a time, each at all scales.

    Returns:
      Means `[row]`.

    Raises:
      ValueError: logits of amplified images are not finite; the first row is named.
    """
    numbers = (jnp.asarray(number, images.dtype) for number in (shift, scales))
    rows = _amplified_rows(logits_fn, images, logits, mask, *numbers, batch_size=batch_size)
    _check_finite(logits, rows.finite, when_amplified=True)
    return rows


@functools.partial(jax.jit, static_argnames="batch_size")
def _row_logits(logits_fn, images, *, batch_size):
    return map_batches(logits_fn, images, batch_size=batch_size)


@functools.partial(jax.jit, static_argnames="batch_size")
def _amplified_rows(logits_fn, images, logits, mask, shift, scales, *, batch_size):
    def of_batch(batch):
        x, own = batch
        amplified = jax.vmap(lambda n: amplify(x, mask, shift, n))(scales)
        moved = logits_fn(amplified.reshape(-1, *x.shape[1:])).reshape(len(scales), *own.shape)
        stays = jnp.argmax(moved, axis=-1) == jnp.argmax(own, axis=-1)[None]
        finite = jnp.all(jnp.isfinite(moved), axis=(0, -1)) & jnp.all(jnp.isfinite(own), axis=-1)
        # The largest of logits with NaN is some class: such a row has no agreement.
        agreement = jnp.where(finite, jnp.mean(stays.astype(images.dtype), axis=0), jnp.nan)
        return AmplifiedRows(agreement, jnp.mean(divergence(own[None], moved), axis=0), finite)

    return map_batches(of_batch, (images, logits), batch_size=batch_size)


def amplify(images, mask, shift, scale):
    """Return clip(n (x - tau) m) of images `[row, height, width, channel]`."""
    y = scale * (images - shift) * mask[None, :, :, None]
    # The gradient passes at 0 and 1 themselves, where jnp.clip halves and lax.clamp stops it:
    # a pixel that the mask has switched off sits at 0, and could not come back.
    return jnp.where(y < 0, 0, jnp.where(y > 1, 1, y))


def divergence(logits, amplified):
    """Return KL(P || Q) of the classes of softmax(logits) from softmax(amplified)."""
    single = lambda x: x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
    log_p, log_q = (jax.nn.log_softmax(single(x)) for x in (logits, amplified))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


# What is refused early


def check_images(logits_fn: LogitsFn, images: Array) -> None:
    """Accept images of 0 to 1 that `logits_fn` gives logits for."""
    checks.images(images=images)
    checks.values_within(0, 1, images=images)
    rows = min(2, images.shape[0])
    logits = jax.eval_shape(logits_fn, images[:rows])
    is_matrix = isinstance(logits, jax.ShapeDtypeStruct) and len(logits.shape) == 2
    if (
        not is_matrix
        or logits.shape[0] != rows
        or logits.shape[1] < 2
        or not jnp.issubdtype(logits.dtype, jnp.floating)
    ):
        accepted = f"floating-point logits [{rows}, class], of two classes or more"
        raise checks.refused(f"logits_fn(images[:{rows}])", logits, accepted)


def check_amplification(shift: float, scales: Sequence[float], batch_size: int) -> None:
    """Accept a shift from 0 to below 1, scales above 0 and a number of rows."""
    if not 0 <= shift < 1:
        raise checks.refused("shift", shift, "0 or more and below 1")
    if not len(scales) or not all(n > 0 for n in scales):
        raise checks.refused("scales", scales, "one or more numbers above 0")
    checks.counts(batch_size=batch_size)


def _check_finite(logits, finite, *, when_amplified=False):
    """Accept rows whose logits are all finite."""
    if not known(finite, jnp.all):
        name = "logits_fn(amplified images)" if when_amplified else "logits_fn(images)"
        with jax.ensure_compile_time_eval():
            rows, first = int(jnp.sum(~finite)), int(jnp.argmin(finite))
        holds = f"NaN or infinity in {rows} rows, the first of them row {first}"
        raise checks.refused(name, logits, "finite numbers", holds=holds)
