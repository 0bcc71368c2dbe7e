"""One step of optax, under strict promotion as without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxml.optimizer import optimizer_step

PARAMS = {"w": jnp.asarray([1.0, -2.0], jnp.float32), "b": jnp.asarray(0.5, jnp.bfloat16)}
GRADIENT = jax.tree.map(lambda leaf: 0.1 * leaf, PARAMS)


def test_step_is_that_of_optax_and_keeps_dtypes():
    optimizer = optax.adamw(0.1, weight_decay=0.01)
    state = optimizer.init(PARAMS)
    with jax.numpy_dtype_promotion("strict"):
        step = jax.jit(optimizer_step, static_argnums=0)
        updates, after = step(optimizer.update, GRADIENT, state, PARAMS)
    with jax.numpy_dtype_promotion("standard"):
        expected, expected_state = optimizer.update(GRADIENT, state, PARAMS)
    assert jax.tree.structure(after) == jax.tree.structure(expected_state)
    for one, other in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one.astype("float32"), other.astype("float32"), rtol=1e-2)


def test_parameters_are_needed_by_some_only():
    optimizer = optax.sgd(0.5)
    updates, _ = optimizer_step(optimizer.update, GRADIENT, optimizer.init(PARAMS))
    np.testing.assert_allclose(updates["w"], [-0.05, 0.1], rtol=1e-6)
