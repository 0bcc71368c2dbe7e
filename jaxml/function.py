"""Functions as arguments of compiled programs."""

from collections.abc import Callable
from typing import Any

from jax.tree_util import Partial


def as_partial(function: Callable[..., Any]) -> Partial:
    """Return a function that may be an argument of `jax.jit`, which takes pytrees alone.

    Args:
      function: a `jax.tree_util.Partial` stays as it is, and its arrays are traced; of any other
        the compiled program is known by the object, and its arrays are constants.
    """
    return function if isinstance(function, Partial) else Partial(function)
