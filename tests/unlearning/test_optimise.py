"""The loop of an optimizer against steps written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxml.unlearning._optimise import adamw, minimise

KEYS = jax.random.split(jax.random.key(0), 3)
START = {"a": jnp.array([1.0, -2.0], "float32"), "b": jnp.array(3.0, "float32")}


def loss(params, key):
    """Stochastic: the minimum is elsewhere for each key."""
    target = jax.random.normal(key, (2,), "float32")
    first, second = jnp.sum((params["a"] - target) ** 2), params["b"] ** 2
    return first + second, {"first": first}


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), adamw(0.1)])
def test_equals_steps_one_by_one_and_maps_over_keys(optimizer):
    run = lambda key: minimise(key, START, loss, steps=3, optimizer=optimizer)
    found, history = jax.jit(jax.vmap(run))(KEYS)
    for i, key in enumerate(KEYS):
        params, state = START, optimizer.init(START)
        for step in range(3):
            key_step = jax.random.fold_in(key, jnp.uint32(step))
            (value, terms), slope = jax.value_and_grad(loss, has_aux=True)(params, key_step)
            np.testing.assert_allclose(history["loss"][i, step], value, rtol=1e-6)
            np.testing.assert_allclose(history["first"][i, step], terms["first"], rtol=1e-6)
            with jax.numpy_dtype_promotion("standard"):
                change, state = optimizer.update(slope, state, params)
            params = optax.apply_updates(params, change)
        same = lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-5)  # noqa: B023
        jax.tree.map(same, found, params)


def test_default_has_no_decay_and_is_kept():
    assert adamw(0.5) is adamw(0.5)
    flat = lambda params, key: (0 * params, {})
    found, _ = minimise(KEYS[0], jnp.array(7.0), flat, steps=5, optimizer=adamw(0.5))
    assert found == 7
