"""Cognitive distillation: the smallest part of an image that keeps the network's output."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.optimizer import optimizer_step
from jaxml.sharding import map_batches
from jaxml.tracing import as_partial


def cognitive_distillation(
    key: Key[Array, ""],
    logits_fn: Callable[[Array], Array],
    images: Float[Array, "row height width channel"],
    *,
    steps: int = 100,
    learning_rate: float = 0.1,
    l1: float = 0.01,
    tv: float = 1.0,
    batch_size: int = 500,
) -> Float[Array, " row"]:
    """Score rows by how small a mask of the image keeps its logits.

    Minus the L1 norm of the mask m in [0, 1]^(height x width) that minimises, by Adam,
    mean_c |f(m x + (1 - m) d)_c - f(x)_c| + l1 |m|_1 + tv TV(m), d a new random color at each
    step and TV the squared differences of neighbours summed over directions, a pixel's mean.

    Compiled once for each shape and function object, or once for all parameters of a
    `jax.tree_util.Partial`, as `mspc`.

    Args:
      key: draws the colors.
      logits_fn: images `[batch, height, width, channel]` to logits `[batch, class]`, each row
        by itself, differentiable.
      images: `[row, height, width, channel]`, in [0, 1].
      steps: of Adam (betas 0.1 and 0.1), on the mask's inverse tanh.
      learning_rate: of Adam.
      l1: weight of the norm.
      tv: weight of the total variation.
      batch_size: images that `logits_fn` gets at once.

    Returns:
      Scores `[row]`, -height width to 0, higher is more suspicious.

    Raises:
      ValueError: the images are not `[row, ...]` of floating-point numbers of single precision or
        better, in which the small steps of a mask are not lost, or a setting is out of range.

    Source: Huang et al. 2023 (ICLR, arXiv 2301.10908).
    """
    checks.images(images=images)
    checks.single_or_double(images=images)
    checks.counts(steps=steps, batch_size=batch_size)
    checks.at_least(0, learning_rate=learning_rate, l1=l1, tv=tv)
    keys = jax.random.split(key, images.shape[0])
    numbers = (jnp.asarray(number, images.dtype) for number in (learning_rate, l1, tv))
    network = as_partial(logits_fn)
    return -_mask_norms(keys, network, images, *numbers, steps=steps, batch_size=batch_size)


@functools.partial(jax.jit, static_argnames=("steps", "batch_size"))
def _mask_norms(keys, logits_fn, images, learning_rate, l1, tv, *, steps, batch_size):
    """Return the L1 norm of the mask of each row."""
    optimizer = optax.adam(learning_rate, b1=0.1, b2=0.1)

    def of_batch(batch):
        x, keys = batch
        logits = logits_fn(x)

        def loss(theta, i):
            mask = _mask(theta)
            color = jax.vmap(lambda key: _color(key, i, x))(keys)
            shift = logits_fn(mask * x + (1 - mask) * color) - logits
            # Rows are independent: the gradient of the sum is that of each row.
            return jnp.sum(
                jnp.mean(jnp.abs(shift), axis=-1)
                + l1 * jnp.sum(mask, axis=(1, 2, 3))
                + tv * _variation(mask)
            )

        def step(state, i):
            theta, moments = state
            slope = jax.grad(loss)(theta, i)
            updates, moments = optimizer_step(optimizer.update, slope, moments, theta)
            return (optax.apply_updates(theta, updates), moments), None

        theta = jnp.ones_like(x[..., :1])
        start = (theta, optimizer.init(theta))
        (theta, _), _ = lax.scan(step, start, jnp.arange(steps, dtype=jnp.uint32))
        return jnp.sum(_mask(theta), axis=(1, 2, 3))

    return map_batches(of_batch, (images, keys), batch_size=batch_size)


def _mask(theta):
    return (jnp.tanh(theta) + 1) / 2


def _color(key, step, x):
    return jax.random.uniform(jax.random.fold_in(key, step), (1, 1, x.shape[-1]), x.dtype)


def _variation(mask):
    square = lambda axis: jnp.sum(jnp.diff(mask, axis=axis) ** 2, axis=(1, 2, 3))
    return (square(1) + square(2)) / (mask.shape[1] * mask.shape[2])
