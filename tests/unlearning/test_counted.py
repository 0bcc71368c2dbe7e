"""Means over what counts against numpy's, whatever stands where nothing counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning._counted import check_values, counted_mean, row_means, row_sums

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(3, 5))
MASK = np.arange(5) < np.array([[5], [2], [0]])


def test_means_of_what_counts():
    hidden = jnp.where(MASK, VALUES, jnp.nan)
    found = jax.jit(lambda x, m: counted_mean(x, m, name="values"))(hidden, jnp.asarray(MASK))
    np.testing.assert_allclose(found, VALUES[MASK].mean(), rtol=1e-12)
    each = jax.jit(lambda x, m: counted_mean(x, m, name="values", axis=-1))(
        hidden, jnp.asarray(MASK)
    )
    np.testing.assert_allclose(each, [VALUES[0].mean(), VALUES[1, :2].mean(), 0], rtol=1e-12)
    np.testing.assert_allclose(
        row_sums(hidden, jnp.asarray(MASK)), np.asarray(each) * [5, 2, 0], rtol=1e-12
    )
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
    with pytest.raises(
        ValueError, match=r"mask=\w+\[2, 5\]: accepted is \[3, 5\], the shape of values"
    ):
        counted_mean(jnp.asarray(VALUES), jnp.asarray(MASK[:2]), name="values")


def test_values_are_numbers_and_some():
    check_values(values=jnp.asarray(VALUES))
    for values, message in ((VALUES[:0], r"float64\[0, 5\]: accepted is 1 number"), (MASK, "bool")):
        with pytest.raises(ValueError, match=f"values={message}"):
            check_values(values=jnp.asarray(values))
