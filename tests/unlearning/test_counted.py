"""Means over what counts against numpy's, whatever stands where nothing counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning._counted import counted_mean, row_means

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(3, 5))
MASK = np.arange(5) < np.array([[5], [2], [0]])


def test_means_of_what_counts():
    hidden = jnp.where(MASK, VALUES, jnp.nan)
    found = jax.jit(lambda x, m: counted_mean(x, m, name="values"))(hidden, jnp.asarray(MASK))
    np.testing.assert_allclose(found, VALUES[MASK].mean(), rtol=1e-12)
    rows = jax.jit(row_means)(hidden, jnp.asarray(MASK))
    np.testing.assert_allclose(rows[:2], [VALUES[0].mean(), VALUES[1, :2].mean()], rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(row_means)(hidden, jnp.asarray(MASK)), rows, rtol=1e-12)


def test_nothing_that_counts():
    values, nothing = jnp.asarray(VALUES), jnp.zeros((3, 5), bool)
    assert counted_mean(values, nothing, name="values") == 0
    assert jnp.isnan(row_means(values, nothing)).all()


def test_without_a_mask_all_count():
    values = jnp.asarray(VALUES, "float32")
    assert counted_mean(values, None, name="values").dtype == "float32"
    np.testing.assert_allclose(counted_mean(values, None, name="values"), VALUES.mean(), rtol=1e-5)


def test_another_shape_is_named():
    with pytest.raises(ValueError, match=r"mask: shape \(2, 5\); values has \(3, 5\)"):
        counted_mean(jnp.asarray(VALUES), jnp.asarray(MASK[:2]), name="values")
