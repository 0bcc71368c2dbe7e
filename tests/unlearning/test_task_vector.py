"""Task vectors on small trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning._task_vector import subtract_task_vector, task_vector


def tree(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    return {
        "head": jnp.asarray(rng.normal(size=3), dtype),
        "layers": [jnp.full((2, 2), seed, dtype)],
    }


def test_vector_undoes_training_and_goes_beyond():
    base, finetuned = tree(0), tree(1)
    vector = task_vector(finetuned, base)
    back = subtract_task_vector(finetuned, vector, scale=1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), back, base)
    found = jax.jit(subtract_task_vector)(base, vector)
    expected = jax.tree.map(lambda b, f: np.asarray(b) - 5 * (np.asarray(f) - b), base, finetuned)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtype_is_kept_and_scale_may_be_traced(dtype):
    params = tree(0, dtype)
    found = jax.jit(lambda a: subtract_task_vector(params, tree(1, dtype), scale=a))(2.0)
    for leaf, before, vector in zip(
        *map(jax.tree.leaves, (found, params, tree(1, dtype))), strict=True
    ):
        assert leaf.dtype == dtype
        expected = np.asarray(before, float) - 2 * np.asarray(vector, float)
        np.testing.assert_allclose(np.asarray(leaf, float), expected, atol=0.02)


def test_trees_that_differ_are_named(unchecked):
    base = tree(0)
    with pytest.raises(ValueError, match="base=PyTreeDef.*the structure of finetuned, PyTreeDef"):
        task_vector({"head": base["head"]}, base)
    other = base | {"layers": [jnp.zeros(2, "float32")]}
    with pytest.raises(ValueError, match=r"base\['layers'\]\[0\]=float32\[2\]: .* of finetuned"):
        task_vector(base, other)
    with pytest.raises(
        ValueError, match=r"vector\['head'\]=bfloat16\[3\]: accepted is float32.* of params"
    ):
        subtract_task_vector(base, base | {"head": base["head"].astype("bfloat16")})
