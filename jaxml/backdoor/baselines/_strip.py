"""STRIP: how sure the network stays of an image when others are laid over it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from jaxml.backdoor.baselines._rows import check_at_least_one, check_images, in_batches


def strip(
    key: Key[Array, ""],
    logits_fn: Callable[[Array], Array],
    images: Float[Array, "row height width channel"],
    *,
    blends: int = 64,
    weight: float = 0.5,
    batch_size: int = 500,
) -> Float[Array, " row"]:
    """Score rows by how little the prediction doubts when other rows are blended in.

    Minus the mean entropy, in nats, of the prediction for (1 - weight) x + weight x', over
    random other rows x' of the set itself, so that no clean images are needed: where a share p
    of the set is poisoned, so is that share of the x'.

    Compiled once for each shape and function object: keep the object for further calls.

    Args:
      key: chooses the other rows.
      logits_fn: images `[batch, height, width, channel]` to logits `[batch, class]`, each row
        by itself.
      images: `[row, height, width, channel]`, 2 rows or more.
      blends: other rows for each row.
      weight: of the other row, 0 to 1.
      batch_size: images that `logits_fn` gets at once.

    Returns:
      Scores `[row]`, -ln(classes) to 0, higher is more suspicious.

    Raises:
      ValueError: the images are not `[row, ...]` of floating-point numbers, there is one row
        only, or a setting is out of range.

    Source: Gao et al. 2019 (arXiv 1902.06531).
    """
    check_images(images)
    check_at_least_one(blends=blends, batch_size=batch_size)
    if images.shape[0] < 2:
        raise ValueError("images: 1 row; give 2 or more, each is blended with others")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight={weight}: accepted is 0 to 1")
    return _strip(key, images, logits_fn, blends, weight, batch_size)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _strip(key, images, logits_fn, blends, weight, batch_size):
    rows = images.shape[0]
    ahead = jax.random.randint(key, (rows, blends), 1, rows, dtype=jnp.int32)
    other = (jnp.arange(rows, dtype=jnp.int32)[:, None] + ahead) % rows

    def doubt(batch, others):
        one = lambda other: _entropy(logits_fn((1 - weight) * batch + weight * images[other]))
        return jnp.mean(lax.map(one, others.T), axis=0)

    return -in_batches(doubt, batch_size, images, other)


def _entropy(logits):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
