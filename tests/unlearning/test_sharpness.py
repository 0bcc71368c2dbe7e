"""The sharpness-aware gradient, where it is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning._sharpness import sam_value_and_grad

CURVATURE = jnp.array([1.0, 4.0])


def bowl(params, weight):
    return weight * sum(jnp.vdot(CURVATURE.astype(p.dtype), p**2) / 2 for p in params.values())


PARAMS = {"a": jnp.array([3.0, 0.5]), "b": jnp.array([-1.0, 2.0])}


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 1e-5)])
def test_gradient_of_a_quadratic_is_taken_along_its_gradient(dtype, rtol):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    value, found = jax.jit(sam_value_and_grad(bowl, rho=0.5))(params, 2.0)
    place = np.concatenate([np.asarray(p) for p in PARAMS.values()])
    curve = 2 * np.tile(CURVATURE, 2)
    # One norm over all leaves.
    moved = place + 0.5 * curve * place / np.linalg.norm(curve * place)
    np.testing.assert_allclose(value, (curve * moved**2).sum() / 2, rtol=rtol)
    np.testing.assert_allclose(np.concatenate([*found.values()]), curve * moved, rtol=rtol)
    assert value.dtype == found["a"].dtype == dtype


def test_small_radius_is_the_plain_gradient():
    found = sam_value_and_grad(bowl, rho=1e-9)(PARAMS, 1.0)
    expected = jax.value_and_grad(bowl)(PARAMS, 1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), found, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_flat_place_stays(dtype):
    params = {"a": jnp.zeros(2, dtype)}
    value, gradient = sam_value_and_grad(bowl)(params, 1.0)
    assert value == 0 and gradient["a"].dtype == dtype
    np.testing.assert_array_equal(gradient["a"], 0)


def test_trees_of_two_precisions():
    params = {"a": PARAMS["a"].astype("bfloat16"), "b": PARAMS["b"].astype("float32")}
    loss = lambda p: sum(jnp.sum(x.astype("float32") ** 2) for x in p.values())
    _, gradient = sam_value_and_grad(loss)(params)
    assert {leaf.dtype.name for leaf in gradient.values()} == {"bfloat16", "float32"}


def test_bad_radius_is_named(unchecked):
    with pytest.raises(ValueError, match="rho=0: accepted is a positive"):
        sam_value_and_grad(bowl, rho=0)
