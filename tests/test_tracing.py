import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.tracing import is_concrete, known, nan_unless, take_or_nan

POSITIVE, MIXED = jnp.ones(3), jnp.asarray([1.0, -1.0])
holds = lambda x: jnp.all(x > 0)


@pytest.mark.parametrize("array, expected", [(POSITIVE, True), (MIXED, False)])
def test_a_condition_on_values_that_are_there(array, expected):
    assert known(array, holds) is expected
    # Captured by a traced function they are there too.
    jax.jit(lambda: [] if known(array, holds) is expected else pytest.fail("wrong"))()


def test_traced_values_are_not_there():
    def function(x):
        assert not is_concrete(x)
        assert known(x, holds) is True
        return x

    jax.jit(function)(MIXED)
    jax.vmap(function)(MIXED)
    assert is_concrete(MIXED) and is_concrete(1.5)


def test_what_a_traced_condition_denies_is_nan():
    tree = {
        "float": jnp.ones((2, 3), "float16"),
        "whole": jnp.arange(2),
        "truth": jnp.ones(2, bool),
    }

    @jax.jit
    def of(x):
        return nan_unless(jnp.all(x > 0), tree)

    for array, expected in ((POSITIVE, False), (MIXED, True)):
        found = of(array)
        assert bool(jnp.isnan(found["float"]).all()) is expected
        assert found["float"].dtype == "float16" and found["whole"][1] == 1 and found["truth"].all()
    by_row = nan_unless(MIXED[:, None] > 0, tree["float"])
    assert jnp.isnan(by_row).all(axis=1).tolist() == [False, True]


def test_an_index_of_nothing_takes_nan():
    values = jnp.asarray([[1.0, 2.0, 3.0]] * 4)
    taken = jax.jit(take_or_nan)(values, jnp.asarray([0, 2, 3, -1]))
    np.testing.assert_array_equal(taken, [1, 3, np.nan, np.nan])
