"""A step of an optax optimizer under any promotion of dtypes."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree


def optimizer_step(
    update: Callable[..., Any], gradient: PyTree, state: Any, params: PyTree | None = None
) -> tuple[PyTree, Any]:
    """Return what an optimizer adds to the parameters, and its next state.

    Args:
      update: that of an `optax.GradientTransformation`.
      gradient: of the loss, a pytree as the parameters.
      state: of the optimizer.
      params: the parameters, where the optimizer looks at them.
    """
    # optax is not written for strict promotion, which the caller may have switched on.
    with jax.numpy_dtype_promotion("standard"):
        return update(gradient, state, params)
