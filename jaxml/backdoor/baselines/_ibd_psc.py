"""IBD-PSC: how sure the network stays when its last layers are amplified."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxml.backdoor.baselines._rows import (
    check_at_least_one,
    check_images,
    check_labels,
    in_batches,
)

Amplified = Callable[[Array, Array], Array]


def ibd_psc(
    logits_fn: Callable[[Array], Array],
    amplified_fn: Amplified,
    images: Float[Array, "row height width channel"],
    levels: Int[Array, " level"],
    *,
    batch_size: int = 500,
) -> Float[Array, " row"]:
    """Score rows by the probability that amplified networks give to the network's own choice.

    The mean over levels of softmax(f_level(x)) at argmax f(x): the parameter-oriented scaled
    prediction consistency.

    Compiled once for each shape and function object: keep the object for further calls.

    Args:
      logits_fn: images `[batch, height, width, channel]` to logits `[batch, class]`.
      amplified_fn: a level, traced, and images to logits. In the paper level k multiplies gain
        and offset of the last k batch normalisations by 1.5.
      images: `[row, height, width, channel]`.
      levels: `[level]`; in the paper 5 in a row, from that of `ibd_psc_level`.
      batch_size: images that the functions get at once.

    Returns:
      Scores `[row]`, 0 to 1, higher is more suspicious.

    Raises:
      ValueError: the images are not `[row, ...]` of floating-point numbers, the levels are not
        integers `[level]`, or `batch_size` is below 1.

    Source: Hou et al. 2024 (ICML, arXiv 2405.09786).
    """
    check_images(images)
    _check_levels(levels)
    check_at_least_one(batch_size=batch_size)
    return _consistency(images, levels, logits_fn, amplified_fn, batch_size)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _consistency(images, levels, logits_fn, amplified_fn, batch_size):
    def consistency(batch):
        chosen = jnp.argmax(logits_fn(batch), axis=-1)[:, None]
        probability = lambda level: jnp.take_along_axis(
            jax.nn.softmax(amplified_fn(level, batch)), chosen, axis=-1
        )[:, 0]
        return jnp.mean(lax.map(probability, levels), axis=0)

    return in_batches(consistency, batch_size, images)


def ibd_psc_level(
    amplified_fn: Amplified,
    images: Float[Array, "row height width channel"],
    labels: Int[Array, " row"],
    levels: Int[Array, " level"],
    *,
    error: float = 0.6,
) -> Int[Array, ""]:
    """Return the first level at which the amplified network errs often, the last if at none.

    Args:
      amplified_fn: as for `ibd_psc`.
      images: a few clean ones `[row, height, width, channel]`, taken at once.
      labels: `[row]`.
      levels: to try, `[level]`, in order.
      error: share of wrong predictions to exceed.

    Raises:
      ValueError: the images are not `[row, ...]` of floating-point numbers, the labels are not
        integers, one a row, the levels are not integers `[level]`, or `error` is not in 0 to 1.

    Source: Hou et al. 2024 (ICML, arXiv 2405.09786).
    """
    check_images(images)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels: dtype {labels.dtype}; give integers")
    check_labels(labels, images.shape[0], jnp.iinfo(labels.dtype).max)
    _check_levels(levels)
    if not 0 <= error <= 1:
        raise ValueError(f"error={error}: accepted is 0 to 1")
    chosen = lambda level: jnp.argmax(amplified_fn(level, images), -1).astype(labels.dtype)
    wrong = lambda level: jnp.mean(chosen(level) != labels)
    exceeds = lax.map(wrong, levels) > error
    return jnp.where(jnp.any(exceeds), levels[jnp.argmax(exceeds)], levels[-1])


def _check_levels(levels):
    if levels.ndim != 1 or levels.size == 0 or not jnp.issubdtype(levels.dtype, jnp.integer):
        raise ValueError(f"levels: {levels.dtype}{list(levels.shape)}; give integers [level]")
