"""STRIP: how sure the network stays of an image when others are laid over it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.precision import at_least_single
from jaxml.sharding import map_batches
from jaxml.tracing import as_partial


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

    Compiled once for each shape and function object, or once for all parameters of a
    `jax.tree_util.Partial`, as `mspc`.

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
    checks.images(images=images)
    if images.shape[0] < 2:
        raise checks.refused("images", images, "2 rows or more, each is blended with others")
    checks.counts(blends=blends, batch_size=batch_size)
    checks.within(0, 1, weight=weight)
    weights = jnp.asarray([1 - weight, weight], images.dtype)
    return -_entropies(
        key, as_partial(logits_fn), images, weights, blends=blends, batch_size=batch_size
    )


@functools.partial(jax.jit, static_argnames=("blends", "batch_size"))
def _entropies(key, logits_fn, images, weights, *, blends, batch_size):
    """Return the mean entropy of each row over its blends."""
    own, others = weights
    rows = images.shape[0]
    ahead = jax.random.randint(key, (rows, blends), 1, rows, dtype=jnp.int32)
    partners = (jnp.arange(rows, dtype=jnp.int32)[:, None] + ahead) % rows

    def of_batch(batch):
        x, partners = batch
        of_blend = lambda partner: _entropy(logits_fn(own * x + others * images[partner]))
        return jnp.mean(lax.map(of_blend, partners.T), axis=0).astype(x.dtype)

    return map_batches(of_batch, (images, partners), batch_size=batch_size)


def _entropy(logits):
    log_p = jax.nn.log_softmax(logits.astype(at_least_single(logits.dtype)))
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
