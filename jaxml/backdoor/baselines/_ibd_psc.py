"""IBD-PSC: how sure the network stays when its last layers are amplified."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.precision import at_least_single
from jaxml.sharding import map_batches
from jaxml.tracing import as_partial, known, nan_unless

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

    Compiled once for each shape and function objects, or once for all parameters of
    `jax.tree_util.Partial`, as `mspc`.

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
    checks.images(images=images)
    _check_levels(levels)
    checks.counts(batch_size=batch_size)
    networks = as_partial(logits_fn), as_partial(amplified_fn)
    return _consistency(*networks, images, levels, batch_size=batch_size)


@functools.partial(jax.jit, static_argnames="batch_size")
def _consistency(logits_fn, amplified_fn, images, levels, *, batch_size):
    def of_batch(batch):
        own = logits_fn(batch)
        chosen = jnp.argmax(own, axis=-1)[:, None]

        def probability(level):
            logits = amplified_fn(level, batch)
            all_classes = jax.nn.softmax(logits.astype(at_least_single(logits.dtype)))
            return jnp.take_along_axis(all_classes, chosen, axis=-1)[:, 0]

        score = jnp.mean(lax.map(probability, levels), axis=0).astype(own.dtype)
        # NaN is not the network's choice.
        return nan_unless(jnp.all(jnp.isfinite(own), axis=-1), score)

    return map_batches(of_batch, images, batch_size=batch_size)


def ibd_psc_level(
    amplified_fn: Amplified,
    images: Float[Array, "row height width channel"],
    labels: Int[Array, " row"],
    levels: Int[Array, " level"],
    *,
    error: float = 0.6,
) -> Int[Array, ""]:
    """Return the first level at which the amplified network errs often, the last if at none.

    Compiled as `ibd_psc`.

    Args:
      amplified_fn: as for `ibd_psc`.
      images: a few clean ones `[row, height, width, channel]`, taken at once.
      labels: `[row]`.
      levels: to try, `[level]`, in order.
      error: share of wrong predictions to exceed.

    Returns:
      One of the levels; where logits are not finite and that cannot be seen, as under `jax.jit`,
      it means nothing.

    Raises:
      ValueError: the images are not `[row, ...]` of floating-point numbers, the labels are not
        integers from 0, one a row, the levels are not integers `[level]`, `error` is not in 0 to
        1, or logits are not finite.

    Source: Hou et al. 2024 (ICML, arXiv 2405.09786).
    """
    checks.images(images=images)
    checks.labels(labels=labels, rows=images.shape[0])
    if not known(labels, lambda labels: jnp.all(labels >= 0)):
        raise checks.refused("labels", labels, "0 or more", holds="negative numbers")
    _check_levels(levels)
    checks.within(0, 1, error=error)
    level, finite = _first_level(as_partial(amplified_fn), images, labels, levels, error)
    if not known(finite, bool):
        holds = "NaN or infinity"
        raise checks.refused("amplified_fn(level, images)", holds, "finite logits at all levels")
    return level


@jax.jit
def _first_level(amplified_fn, images, labels, levels, error):
    """Return the level, and whether the logits at all levels are finite."""

    def share_wrong(level):
        logits = amplified_fn(level, images)
        chosen = jnp.argmax(logits, -1).astype(labels.dtype)
        return jnp.mean(chosen != labels), jnp.all(jnp.isfinite(logits))

    wrong, finite = lax.map(share_wrong, levels)
    exceeds = wrong > error
    level = jnp.where(jnp.any(exceeds), levels[jnp.argmax(exceeds)], levels[-1])
    return level, jnp.all(finite)


def _check_levels(levels: Array) -> None:
    checks.axes("level", levels=levels)
    checks.integers(levels=levels)
