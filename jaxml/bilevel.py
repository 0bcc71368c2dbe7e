"""Gradients through the solution of an inner minimisation, by the implicit function theorem."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, PyTree

from jaxml import checks
from jaxml.tracing import nan_unless

Objective = Callable[[PyTree, PyTree], Array]
Solver = Callable[[PyTree], PyTree]


def implicit_gradient(
    inner: Objective, solve: Solver, *, tolerance: float | None = None, max_steps: int | None = None
) -> Solver:
    """Return the solver with the exact gradient of y*(x) = argmin over y of inner(y, x).

    Where the gradient of `inner` in y is 0, dy*/dx = -H^-1 d2 inner / dy dx with H the
    Hessian in y. The product with H^-1 is taken by conjugate gradients on Hessian-vector
    products, once for each gradient, whatever way the solver took and at no memory of it.
    Exact to first order in the distance of the solver's result from the minimum.

    Args:
      inner: twice differentiable objective of (y, x), pytrees, to a scalar `[]`; H positive
        definite at y*.
      solve: any function of x to y*, such as a loop of an optimizer; it is not differentiated.
      tolerance: relative residual at which conjugate gradients stop; by default the
        resolution of the dtype.
      max_steps: most steps of conjugate gradients; 10 times the size of y by default.

    Returns:
      Function of x to y*, pytrees of floating-point arrays, for reverse mode (`jax.grad`),
      `jit` and `vmap`. All that is differentiated must come in through x: `inner` and `solve`
      may capture other arrays, as constants.

    Raises:
      ValueError: `tolerance` or `max_steps` is not positive, or, on use, `inner` does not
        return a scalar.
    """
    if tolerance is not None:
        checks.positive(tolerance=tolerance)
    if max_steps is not None:
        checks.counts(max_steps=max_steps)
    slope = jax.grad(inner)

    @jax.custom_vjp
    def solution(x):
        return solve(x)

    def forward(x):
        y = solve(x)
        value = jax.eval_shape(inner, y, x)
        if value.shape:
            raise checks.refused("inner(y, x)", value, "a scalar")
        return y, (y, x)

    def backward(residuals, cotangent):
        y, x = residuals
        hessian = lambda v: jax.jvp(lambda y: slope(y, x), (y,), (v,))[1]
        limit = tolerance
        if limit is None:
            limit = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(y))
        v, _ = cg(hessian, cotangent, tol=limit, maxiter=max_steps)
        # From a residual that is not finite it does not start, and returns 0.
        at_zero = hessian(jax.tree.map(jnp.zeros_like, cotangent))
        start = jax.tree.map(jnp.subtract, cotangent, at_zero)
        square = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(start))
        v = nan_unless(jnp.isfinite(square), v)
        # -(d2 inner / dy dx)^T v
        return jax.vjp(lambda x: slope(y, x), x)[1](jax.tree.map(jnp.negative, v))

    solution.defvjp(forward, backward)
    return solution
