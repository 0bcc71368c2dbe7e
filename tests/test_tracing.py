import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.tracing import is_concrete, known, nan_unless

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


def test_floats_are_nan_where_a_condition_does_not_hold():
    tree = {"x": POSITIVE, "n": jnp.arange(3)}
    marked = jax.jit(nan_unless)
    jax.tree.map(np.testing.assert_array_equal, marked(True, tree), tree)
    jax.tree.map(np.testing.assert_array_equal, marked(False, tree), tree | {"x": [np.nan] * 3})
    assert marked(False, tree)["x"].dtype == POSITIVE.dtype
