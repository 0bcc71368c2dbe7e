"""Masked scaled prediction consistency (MSPC) of images under a classifier."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxml.tracing import as_partial, known

LogitsFn = Callable[[Array], Array]

SCALES = tuple(range(2, 13))


def mspc(
    logits_fn: LogitsFn,
    images: Float[Array, "row height width channel"],
    mask: Float[Array, "height width"],
    *,
    shift: float = 0.2,
    scales: Sequence[float] = SCALES,
    batch_size: int = 64,
) -> Float[Array, " row"]:
    """Return how steady the prediction of each image is when what the mask leaves is amplified.

    The mean over the scales n of +1 where clip(n (x - shift) mask) has the predicted class of
    x and -1 where it has another. A trigger that the mask leaves in place carries its class
    through all scales, so that a score above 0 tells a backdoor image.

    Compiled once for each shape and `logits_fn` object: keep the function for further calls.
    Arrays that it captures are constants from its first call on, so that after a change of a
    model's parameters it must be a new object. Of a `jax.tree_util.Partial` of one function the
    arrays are arguments, so that one program serves all parameters. Images that are sharded
    along their rows are scored where they are.

    Args:
      logits_fn: pure function of images `[row, height, width, channel]` to logits
        `[row, class]`: the classifier in evaluation mode, normalisation included. It sees
        `batch_size` times the number of scales rows at a time, and needs no gradient: a
        `jax.pure_callback` to the host serves.
      images: `[row, height, width, channel]`, 0 to 1.
      mask: `[height, width]`, 0 to 1, the same for all images and channels.
      shift: subtracted from the images, so that pixels below it are black at every scale.
      scales: factors of the amplification, above 0.
      batch_size: rows worked on at a time, which bounds memory.

    Returns:
      Scores `[row]`, -1 to 1, of the dtype of `images`.

    Raises:
      ValueError: the images or the mask are not numbers from 0 to 1, there are no rows, fewer
        than two classes, logits that are not finite (the first row is named), or another
        argument is out of its range.

    Source: Pal et al., "Backdoor secrets unveiled: identifying backdoor data with optimized
    scaled prediction consistency" (ICLR 2024).
    """
    check_images(logits_fn, images)
    if mask.shape != images.shape[1:3]:
        raise ValueError(
            f"mask: shape {mask.shape}; accepted is that of images {images.shape[1:3]}"
        )
    check_unit_interval(mask, "mask")
    check_settings(shift, scales, batch_size)
    return 2 * agreement(logits_fn, images, mask, shift, scales, batch_size) - 1


def agreement(logits_fn, images, mask, shift, scales, batch_size) -> Float[Array, " row"]:
    """Return the fraction of the scales at which the predicted class of a row stays."""
    logits_fn = as_partial(logits_fn)
    logits = row_logits(logits_fn, images, batch_size=batch_size)
    check_finite(jnp.all(jnp.isfinite(logits), axis=-1), "")
    number = functools.partial(jnp.asarray, dtype=images.dtype)
    found = amplified_rows(
        logits_fn, images, logits, mask, number(shift), number(scales), batch_size=batch_size
    )
    check_finite(found.finite, " when amplified")
    return found.agreement


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


@functools.partial(jax.jit, static_argnames="batch_size")
def amplified_rows(logits_fn, images, logits, mask, shift, scales, *, batch_size) -> AmplifiedRows:
    """Return the means over the scales for rows whose own logits are known."""

    def of_batch(batch):
        x, base = batch
        amplified = jax.vmap(lambda n: amplify(x, mask, shift, n))(scales)
        found = logits_fn(amplified.reshape(-1, *x.shape[1:]))
        found = found.reshape(len(scales), *base.shape)
        stays = jnp.argmax(found, axis=-1) == jnp.argmax(base, axis=-1)
        return AmplifiedRows(
            jnp.mean(stays.astype(images.dtype), axis=0),
            jnp.mean(divergence(base, found), axis=0),
            jnp.all(jnp.isfinite(found), axis=(0, -1)),
        )

    return _map_batches(of_batch, (images, logits), batch_size)


@functools.partial(jax.jit, static_argnames="batch_size")
def row_logits(logits_fn, images, *, batch_size) -> Float[Array, "row class"]:
    """Return the logits of all rows, `batch_size` of them at a time."""
    return _map_batches(logits_fn, images, batch_size)


def amplify(images, mask, shift, scale):
    """Return clip(n (x - tau) m) of images `[row, height, width, channel]`."""
    y = scale * (images - shift) * mask[:, :, None]
    # The gradient passes at 0 and 1 themselves, where jnp.clip halves and lax.clamp stops it:
    # a pixel that the mask has switched off sits at 0, and could not come back.
    return jnp.where(y < 0, 0, jnp.where(y > 1, 1, y))


def divergence(logits, amplified):
    """Return KL(P || Q) of the classes of softmax(logits) from softmax(amplified)."""
    single = lambda x: x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
    log_p, log_q = (jax.nn.log_softmax(single(x)) for x in (logits, amplified))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _map_batches(f, rows, batch_size):
    """Return `f` of all rows, at most `batch_size` at a time, and no row left out."""
    count = jax.tree.leaves(rows)[0].shape[0]
    size = min(batch_size, count)
    batches = math.ceil(count / size)

    # Batch j holds every `batches`-th row: of rows in equal blocks on several devices each
    # batch then has its share on every device.
    def fold(leaf):
        filler = jnp.broadcast_to(leaf[:1], (size * batches - count, *leaf.shape[1:]))
        return jnp.concatenate([leaf, filler]).reshape(size, batches, *leaf.shape[1:])

    def unfold(leaf):
        return jnp.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:])[:count]

    folded = jax.tree.map(fold, rows)
    pick = lambda j: jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, j, 1, False), folded)
    return jax.tree.map(unfold, lax.map(lambda j: f(pick(j)), jnp.arange(batches)))


def check_images(logits_fn: LogitsFn, images: Array) -> None:
    """Raise ValueError unless these are images of 0 to 1 that `logits_fn` gives logits for."""
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"images: shape {images.shape}; accepted is [row, height, width, channel], none 0"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images: dtype {images.dtype}; accepted are floating-point numbers from 0 to 1 "
            "(divide bytes by 255)"
        )
    check_unit_interval(images, "images")
    rows = min(2, images.shape[0])
    logits = jax.eval_shape(logits_fn, images[:rows])
    is_matrix = isinstance(logits, jax.ShapeDtypeStruct) and len(logits.shape) == 2
    if not is_matrix or logits.shape[0] != rows or logits.shape[1] < 2:
        raise ValueError(
            f"logits_fn: returns {logits} for {rows} rows; accepted are logits [row, class] of "
            "two classes or more"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits_fn: dtype {logits.dtype}; accepted are floating-point logits")


def check_unit_interval(x: Array, name: str) -> None:
    """Raise ValueError where known values are NaN or outside 0 to 1."""
    if not known(x, lambda x: jnp.all((x >= 0) & (x <= 1))):
        with jax.ensure_compile_time_eval():
            low, high = jnp.min(x), jnp.max(x)
        raise ValueError(f"{name}: values from {low} to {high}; accepted are 0 to 1 and no NaN")


def check_settings(shift: float, scales: Sequence[float], batch_size: int) -> None:
    """Raise ValueError for a shift, scales or batch size out of range."""
    if not 0 <= shift < 1:
        raise ValueError(f"shift={shift}: accepted is 0 or more and below 1")
    if not len(scales) or not all(n > 0 for n in scales):
        raise ValueError(f"scales={scales}: accepted are one or more numbers above 0")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: accepted is 1 or more")


def check_finite(finite: Bool[Array, " row"], when: str) -> None:
    """Raise ValueError that names the first row of known logits that are not finite."""
    if not known(finite, jnp.all):
        raise ValueError(
            f"logits_fn: logits are not finite in {int(jnp.sum(~finite))} rows{when}, "
            f"the first is row {int(jnp.argmin(finite))}"
        )
