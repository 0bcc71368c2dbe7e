"""Hypergradients against closed forms and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from jaxml.bilevel import implicit_gradient

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(5, 5))
A = jnp.asarray(ROOT @ ROOT.T + np.eye(5))
B, TARGET = jnp.asarray(RNG.normal(size=(5, 3))), jnp.asarray(RNG.normal(size=5))
FEATURES, Y = jnp.asarray(RNG.normal(size=(30, 4))), jnp.asarray(RNG.normal(size=30))


def quadratic(y, x):
    """Minimum A^-1 B x."""
    return y @ A @ y / 2 - y @ B @ x


def descend(x):
    """A thousand steps of gradient descent, which is not differentiated."""
    step = lambda _, y: y - jax.grad(quadratic)(y, x) / jnp.trace(A)
    return lax.fori_loop(0, 3000, step, jnp.zeros(5))


X = jnp.array([0.3, -1.2, 0.7])


@pytest.mark.parametrize("solve", [lambda x: jnp.linalg.solve(A, B @ x), descend])
def test_quadratic_has_the_known_hypergradient(solve):
    outer = lambda x: jnp.sum((implicit_gradient(quadratic, solve)(x) - TARGET) ** 2)
    residual = jnp.linalg.solve(A, B @ X) - TARGET
    truth = 2 * B.T @ jnp.linalg.solve(A, residual)
    np.testing.assert_allclose(jax.grad(outer)(X), truth, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.grad(outer))(X), truth, rtol=1e-8, atol=1e-8)


def test_vmap_equals_one_by_one():
    solve = lambda x: jnp.linalg.solve(A, B @ x)
    slope = jax.grad(lambda x: jnp.sum(jnp.sin(implicit_gradient(quadratic, solve)(x))))
    rows = jnp.stack([X, -2 * X, X[::-1]])
    np.testing.assert_allclose(jax.vmap(slope)(rows), [slope(x) for x in rows], rtol=1e-9)


def ridge_solution(log_penalty):
    gram = FEATURES.T @ FEATURES + jnp.exp(log_penalty) * jnp.eye(4)
    return jnp.linalg.solve(gram, FEATURES.T @ Y)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-8), ("float32", 1e-4)])
def test_penalty_of_ridge_regression_equals_the_closed_form(dtype, rtol):
    validation = jnp.asarray(RNG.normal(size=4))
    held_out = lambda w: jnp.sum((w - validation.astype(w.dtype)) ** 2)
    # The closed form is itself differentiable: d w*/d x = -G^-1 exp(x) w*.
    truth = jax.grad(lambda x: held_out(ridge_solution(x)))(jnp.array(0.4))
    fields = [a.astype(dtype) for a in (FEATURES, Y)]

    def inner(w, x):
        return jnp.sum((fields[0] @ w - fields[1]) ** 2) + jnp.exp(x) * jnp.sum(w**2)

    solver = implicit_gradient(inner, lambda x: ridge_solution(x.astype("float64")).astype(dtype))
    found = jax.grad(lambda x: held_out(solver(x)))(jnp.array(0.4, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, truth, rtol=rtol)


def test_trees_and_an_inner_problem_that_is_not_quadratic():
    def inner(y, x):
        return jnp.sum(jnp.cosh(y["a"]) - x["u"] * y["a"]) + (y["b"] - x["v"] * y["a"][0]) ** 2

    # Stationary where sinh a = u and b = v a_0.
    solve = lambda x: {"a": jnp.arcsinh(x["u"]), "b": x["v"] * jnp.arcsinh(x["u"][0])}
    solution = implicit_gradient(inner, solve)
    x = {"u": jnp.array([0.5, -1.5]), "v": jnp.array(2.0)}
    outer = lambda x: jnp.sum(solution(x)["a"] ** 3) + solution(x)["b"] ** 2
    plain = lambda x: jnp.sum(solve(x)["a"] ** 3) + solve(x)["b"] ** 2
    found, truth = jax.grad(outer)(x), jax.grad(plain)(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), found, truth)
    check_grads(outer, (x,), order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.parametrize("settings", [dict(tolerance=0.0), dict(max_steps=0)])
def test_bad_settings_are_named(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name}=0.*: accepted is a"):
        implicit_gradient(quadratic, descend, **settings)


def test_an_objective_that_is_no_scalar_is_named():
    solution = implicit_gradient(lambda y, x: y * x, lambda x: x)
    with pytest.raises(ValueError, match=r"inner\(y, x\)=float64\[3\]: accepted is a scalar"):
        jax.grad(lambda x: jnp.sum(solution(x)))(X)
