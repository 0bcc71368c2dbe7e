"""Batches that cover all rows, in the loop too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxml.training import batch_indices, fit

KEY = jax.random.key(3)


def test_batches_are_those_of_batch_indices():
    ids = jnp.arange(7, dtype=jnp.int32)
    # A metric is a scalar: three rows below 10 make one number.
    code = lambda params, data, key: (
        jnp.sum(params["w"]),
        {"rows": jnp.sum(data * jnp.array([100, 10, 1], data.dtype))},
    )
    found = fit(
        KEY, code, {"w": jnp.zeros(3)}, ids, optimizer=optax.sgd(1.0), steps=14, batch_size=3
    )
    rows = np.array([[int(d) for d in f"{int(c):03d}"] for c in found.history["rows"]]).ravel()
    for epoch in rows.reshape(6, 7):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(7))
    assert len({tuple(epoch) for epoch in rows.reshape(6, 7)}) > 1


@pytest.mark.parametrize("rows, size", [(12, 4), (7, 3), (5, 5), (3, 1)])
def test_batches_cover_each_row_once_an_epoch(rows, size):
    steps = jnp.arange(3 * rows)
    batches = jax.jit(jax.vmap(lambda step: batch_indices(KEY, step, rows, size)))(steps)
    epochs = np.asarray(batches).reshape(-1, rows)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(rows), (len(epochs), 1)))
    np.testing.assert_array_equal(batch_indices(KEY, 4, rows, size), batches[4])
    other = batch_indices(jax.random.key(4), 0, rows, size)
    assert rows == 3 or not np.array_equal(other, batches[0])


def test_batches_of_late_steps():
    rows, size, step = 70_000, 50_000, 2**30 + 3
    place = step * size
    order = jax.random.permutation(
        jax.random.fold_in(KEY, place // rows), jnp.arange(rows, dtype=jnp.int32)
    )
    found = batch_indices(KEY, step, rows, size)
    expected = order[place % rows :][:size]
    np.testing.assert_array_equal(found[: len(expected)], expected)


def test_batches_bad_input(unchecked):
    for size, accepted in ((0, "a whole number, 1 or more"), (8, "1 to 7")):
        with pytest.raises(ValueError, match=f"batch_size={size}: accepted is {accepted}"):
            batch_indices(KEY, 0, 7, size)
    with pytest.raises(ValueError, match="product"):
        batch_indices(KEY, 0, 2**20, 2**12)
