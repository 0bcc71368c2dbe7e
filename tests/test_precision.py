import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.precision import half_in_single


@half_in_single
def difference(tree, *, start):
    """Return what half precision loses."""
    return {"x": (tree["x"] + start) - start, "type": tree["x"] * 0, "n": tree["n"]}


HALVES = jnp.float16, jnp.bfloat16


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("transform", [lambda f: f, lambda f: lambda *a, **k: jax.jit(f)(*a, **k)])
def test_half_precision_is_rounded_once(dtype, transform):
    tree = {"x": jnp.asarray([0.25, 0.5], dtype), "n": jnp.arange(2)}
    result = transform(difference)(tree, start=jnp.asarray(2048.0, dtype))
    # 2048 + 0.25 is 2048 in half precision.
    np.testing.assert_array_equal(result["x"].astype("float32"), [0.25, 0.5])
    assert result["x"].dtype == result["type"].dtype == dtype
    assert result["n"].dtype == tree["n"].dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_types_stay(dtype):
    tree = {"x": jnp.asarray([0.25, 0.5], dtype), "n": jnp.arange(2)}
    result = difference(tree, start=jnp.asarray(2.0**28, dtype))
    assert result["x"].dtype == dtype
    expected = [0.25, 0.5] if dtype == "float64" else [0, 0]
    np.testing.assert_array_equal(result["x"], expected)


def test_the_function_keeps_its_name_and_signature():
    assert difference.__doc__ == "Return what half precision loses."
    assert list(inspect.signature(difference).parameters) == ["tree", "start"]


def test_the_gradient_has_the_type_of_the_argument():
    square = half_in_single(lambda x: jnp.sum(x**2))
    gradient = jax.grad(square)(jnp.asarray([3.0, 300.0], jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.astype("float32"), [6, 600])
