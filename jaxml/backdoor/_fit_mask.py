"""The mask that keeps the predictions of flagged rows steady: the lower level of `identify`."""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, PyTree

from jaxml.backdoor._amplify import amplify, divergence
from jaxml.backdoor._identify_config import IdentifyConfig
from jaxml.optimizer import optimizer_step


def fit_mask(
    logits_fn: Partial,
    images: Float[Array, "row height width channel"],
    logits: Float[Array, "row class"],
    flagged: Bool[np.ndarray, " row"],
    mask: Float[Array, "height width"],
    opt_state: PyTree,
    *,
    config: IdentifyConfig,
    first_step: int = 0,
) -> tuple[Float[Array, "height width"], PyTree]:
    """Return the mask and the state of its optimizer after the steps of one round.

    Args:
      logits_fn: images to logits.
      images: `[row, height, width, channel]`, 0 to 1.
      logits: of the images `[row, class]`.
      flagged: w `[row]`, true for one row or more.
      mask: `[height, width]`, from which to go on.
      opt_state: of `mask_optimizer`.
      config: settings.
      first_step: number of steps before, which tells the rows that come first.

    Returns:
      The mask `[height, width]`, and the state of its optimizer.
    """
    gradient = functools.partial(
        _mask_gradient,
        logits_fn,
        images,
        logits if config.flagged_only else None,
        shift=jnp.asarray(config.shift, images.dtype),
        sharding=_row_sharding(images),
    )
    # Every step is a call of its own: in the body of a loop XLA's CPU backend takes five times
    # as long for the gradient of a convolution (jax issue 12868).
    for parts in batches(config, flagged, range(first_step, first_step + config.steps)):
        slopes = [gradient(mask, *map(jnp.asarray, pairs)) for pairs in parts]
        mask, opt_state = _mask_step(mask, opt_state, slopes, config=config)
    return mask, opt_state


def mask_optimizer(config: IdentifyConfig) -> optax.GradientTransformation:
    """Return gradient descent with momentum on the mask and its weight decay."""
    sgd = optax.sgd(config.learning_rate, momentum=config.momentum)
    return optax.chain(optax.add_decayed_weights(config.weight_decay), sgd)


class Pairs(NamedTuple):
    """Pairs of a row and a scale, `[pair]`, whose gradients are added up by weight."""

    row: np.ndarray
    scale: np.ndarray
    weight: np.ndarray


def batches(config: IdentifyConfig, flagged: np.ndarray, steps: range) -> Iterator[list[Pairs]]:
    """Yield the pairs of every step, in parts that are worked on one after the other."""
    take = _flagged_pairs if config.flagged_only else _published_pairs
    yield from take(config, flagged, steps)


def _flagged_pairs(config, flagged, steps):
    rows, scales = flagged.size, np.asarray(config.scales, float)
    # Always the same order, and not that of the data, in which classes may follow each other.
    order = np.random.default_rng(0).permutation(np.flatnonzero(flagged))
    pairs = order.size * scales.size
    used = np.arange(config.batch_size) < pairs
    weight = used * (order.size / rows / used.sum())
    for step in steps:
        place = (step * config.batch_size + np.arange(config.batch_size)) % pairs
        # One pass over the rows has them at scales in turn, the next one at those that follow.
        turn, row = np.divmod(place, order.size)
        yield [Pairs(order[row], scales[(row + turn) % scales.size], weight)]


def _published_pairs(config, flagged, steps):
    rows, scales = flagged.size, np.asarray(config.scales, float)
    size = min(config.batch_size, rows)
    for step in steps:
        row = step % math.ceil(rows / size) * size + np.arange(size)
        inside = row < rows
        row = np.minimum(row, rows - 1)
        weight = (flagged[row] & inside) / (inside.sum() * scales.size)
        yield [Pairs(row, np.full(size, n), weight) for n in scales]


@functools.partial(jax.jit, static_argnames="sharding")
def _mask_gradient(logits_fn, images, logits, mask, row, scale, weight, *, shift, sharding):
    """Gradient in the mask of sum_i weight_i KL(P(x_i) || P(clip(n_i (x_i - shift) mask)))."""
    x = images[row]
    if sharding is not None:
        x = lax.with_sharding_constraint(x, sharding)
    own = logits_fn(x) if logits is None else logits[row]
    scale = scale.astype(x.dtype)[:, None, None, None]

    def loss(mask):
        kl = divergence(own, logits_fn(amplify(x, mask, shift, scale)))
        return jnp.sum(weight.astype(kl.dtype) * kl)

    return jax.grad(loss)(mask)


@functools.partial(jax.jit, static_argnames="config")
def _mask_step(mask, opt_state, slopes, *, config):
    gradient = functools.reduce(jnp.add, slopes)
    if not config.proximal:
        gradient += config.sparsity * jnp.sign(mask)
    change, opt_state = optimizer_step(mask_optimizer(config).update, gradient, opt_state, mask)
    mask += change
    if config.proximal:
        # Momentum takes a constant slope so many times; the shrinking has none.
        mask -= config.learning_rate * config.sparsity / (1 - config.momentum)
    return jnp.clip(mask, 0, 1), opt_state


def _row_sharding(images):
    """Return the sharding of the rows over several devices, or None."""
    sharding = getattr(images, "sharding", None)
    split = isinstance(sharding, NamedSharding) and not sharding.is_fully_replicated
    return sharding if split else None
