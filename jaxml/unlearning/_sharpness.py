"""Sharpness-aware unlearning: the gradient of the forget loss at the worst place nearby."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxml import checks
from jaxml.unlearning._forget_batch import Scalar


def sam_value_and_grad(
    loss: Callable[..., Array], *, rho: Scalar = 0.01
) -> Callable[..., tuple[Array, PyTree]]:
    """Return a function like `jax.value_and_grad(loss)`, taken at rho along the gradient.

    With g the gradient of the loss at the parameters, value and gradient are those at
    params + rho g / |g|, the displacement a constant. It is for the forget loss alone: add the
    gradient of the retain term at the parameters themselves.

    Args:
      loss: function of parameters (a pytree of floating-point arrays `[...]`) and other arguments
        to a scalar.
      rho: distance in the space of all parameters, above 0.

    Returns:
      Function of the arguments of `loss` to its value and its gradient by the parameters.

    Raises:
      ValueError: `rho` is not positive.

    Source: Foret et al., "Sharpness-aware minimization for efficiently improving generalization"
    (ICLR 2021), equation 2; for unlearning, Fan et al., "Towards LLM unlearning resilient to
    relearning attacks" (ICML 2025).
    """
    checks.positive(rho=rho)

    def value_and_grad(params: PyTree, *args: Any) -> tuple[Array, PyTree]:
        worst = shifted_to_worst(lambda params: loss(params, *args), params, rho)
        return jax.value_and_grad(loss)(worst, *args)

    return value_and_grad


def shifted_to_worst(loss: Callable[[PyTree], Array], params: PyTree, rho: Scalar) -> PyTree:
    """Return params + rho g / |g|, g the gradient of the loss, the displacement a constant."""
    gradient = jax.lax.stop_gradient(jax.grad(loss)(params))
    factor = rho / _norm(gradient)

    def shift(p, g):
        return p + (factor * g.astype(factor.dtype)).astype(p.dtype)

    return jax.tree.map(shift, params, gradient)


def squared_norm(tree: PyTree) -> Array:
    """Return the sum of squares over all leaves, in single precision or better."""
    leaves = jax.tree.leaves(tree)
    dtype = jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32
    return sum((jnp.sum(jnp.square(x.astype(dtype))) for x in leaves), jnp.zeros((), dtype))


def _norm(tree: PyTree) -> Array:
    """Euclidean norm over all leaves, above 0."""
    square = squared_norm(tree)
    return jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))
