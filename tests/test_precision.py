"""Half precision in, float32 between, half precision out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.precision import at_least_single, half_as_single


@half_as_single
def mean_and_largest(values, *, weight=None, scale=1.0):
    """Return things that half precision of many numbers does not give."""
    assert values.dtype.itemsize >= 4 and (weight is None or weight.dtype == values.dtype)
    total = values if weight is None else values * weight
    return {"mean": scale * jnp.sum(total) / total.size, "place": jnp.argmax(values)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_result_is_that_of_single_precision_in_the_dtype_of_the_array(dtype):
    values = jnp.full(3000, 100.0, dtype).at[7].set(101)
    for called in (mean_and_largest, jax.jit(mean_and_largest)):
        found = called(values)
        assert found["mean"].dtype == dtype and found["place"] == 7
        # 3000 times 100 is infinite in float16.
        rounding = 2 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(float(found["mean"]), 100 + 1 / 3000, rtol=rounding)
    by_name = mean_and_largest(values=values, weight=values * 0 + 2, scale=0.5)
    assert by_name["mean"].dtype == dtype and abs(float(by_name["mean"]) - 100) < 1


def test_the_gradient_is_of_half_precision_too():
    slope = jax.grad(lambda x: mean_and_largest(x)["mean"])(jnp.ones(4, "float16"))
    np.testing.assert_array_equal(slope, jnp.full(4, 0.25, "float16"))


def test_single_is_the_least():
    kinds = {"float16": "float32", "bfloat16": "float32", "float32": "float32"}
    for dtype, expected in (kinds | {"float64": "float64"}).items():
        assert at_least_single(jnp.dtype(dtype)) == expected
