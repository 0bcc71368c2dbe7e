"""Batches of rows in an order that the key and the number of a step alone decide."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from jaxml import checks
from jaxml.training import placement

# Folded into the key for the order of rows: no step has this number.
ORDER = np.uint32(2**32 - 1)


def batch_indices(
    key: Key[Array, ""], step: Int[ArrayLike, ""], rows: int, batch_size: int
) -> Int[Array, " batch"]:
    """Return the rows of one batch, drawn without replacement from epoch to epoch.

    Each epoch is a new permutation of all rows, and the batches are cut from the epochs laid
    end to end: every row comes exactly once an epoch, none is dropped or repeated to fill a
    batch. Where `batch_size` does not divide `rows`, a batch may hold the end of one epoch and
    the start of the next, and then may hold a row twice.

    Args:
      key: the same for all steps.
      step: number of the batch, from 0; may be traced.
      rows: number of rows.
      batch_size: rows in a batch, at most `rows`.

    Returns:
      Row numbers `[batch]`, int32.

    Raises:
      ValueError: `batch_size` is not in 1 to `rows`, or their product is 2^32 or more.
    """
    checks.counts(rows=rows, batch_size=batch_size)
    checks.within(1, rows, batch_size=batch_size)
    if rows * batch_size >= 2**32:
        product = f"a number whose product with rows={rows} is below 2^32"
        raise checks.refused("batch_size", batch_size, product)
    # Batch `step` starts at place step * batch_size, which itself could overflow.
    step, rows_, size = (jnp.asarray(n).astype(jnp.uint32) for n in (step, rows, batch_size))
    within = step % rows_ * size
    epoch, start = step // rows_ * size + within // rows_, within % rows_

    def order(epoch):
        numbers = jnp.arange(rows, dtype=jnp.int32)
        return jax.random.permutation(jax.random.fold_in(key, epoch), numbers)

    first = order(epoch)
    crosses = start > jnp.uint32(rows - batch_size)
    second = lax.cond(crosses, lambda: order(epoch + jnp.uint32(1)), lambda: first)
    place = start.astype(jnp.int32) + jnp.arange(batch_size, dtype=jnp.int32)
    inside = place < rows
    place = jnp.where(inside, place, place - rows)
    return jnp.where(inside, first[place], second[place])


def take_batch(key: Array, step: Any, data: PyTree, batch_size: int | None) -> PyTree:
    """Return the rows of a step from every array of data, all of them without a batch size.

    Args:
      key: of the training run.
      step: number of the batch, from 0; may be traced.
      data: pytree of arrays `[rows, ...]`.
      batch_size: rows in a batch; None for the data as they are.

    Returns:
      A pytree as `data`, of arrays `[batch, ...]`.
    """
    if batch_size is None:
        return data
    rows = jax.tree.leaves(data)[0].shape[0]
    index = batch_indices(jax.random.fold_in(key, ORDER), step, rows, batch_size)
    return jax.tree.map(lambda leaf: leaf[index], data)


@functools.partial(jax.jit, static_argnames=("batch_size", "places"))
def draw_batch(
    key: Array, step: Array, data: PyTree, batch_size: int | None, places: tuple
) -> PyTree:
    """Return the rows of a step, as `take_batch` does, laid over devices.

    Args:
      key: of the training run.
      step: number of the batch, from 0.
      data: pytree of arrays `[rows, ...]`.
      batch_size: rows in a batch; None for the data as they are.
      places: of the arrays of a batch, as `placement.batch_shardings` returns them.

    Returns:
      A pytree as `data`, of arrays `[batch, ...]`.
    """
    return placement.constrain(take_batch(key, step, data, batch_size), places)
