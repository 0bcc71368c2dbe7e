"""Functions as arguments of compiled programs."""

from collections.abc import Callable
from typing import Any

from jax.tree_util import Partial


def with_arrays(function: Callable[..., Any]) -> Partial:
    """Return a function that may be an argument of `jax.jit`: its bound arrays are traced.

    Args:
      function: a `jax.tree_util.Partial` as it is; another one is known by its object.
    """
    return function if isinstance(function, Partial) else Partial(function)
