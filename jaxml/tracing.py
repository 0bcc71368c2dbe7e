"""What may be traced: conditions on values that may not be known yet, functions as arguments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, PyTree


def is_concrete(value: Any) -> bool:
    """Return whether values can be looked at now."""
    return not isinstance(value, Tracer)


def known(array: Any, holds: Callable[[Any], Any]) -> bool:
    """Return whether a condition holds for an array or a number, True where it is not known."""
    if not is_concrete(array):
        return True
    # An array that a traced function captures is known, but what is computed from it is not.
    with jax.ensure_compile_time_eval():
        return bool(holds(array))


def as_partial(function: Callable[..., Any]) -> Partial:
    """Return a function that may be an argument of `jax.jit`, which takes pytrees alone.

    Args:
      function: a `jax.tree_util.Partial` stays as it is, and its arrays are traced; of any other
        the compiled program is known by the object, and its arrays are constants.
    """
    return function if isinstance(function, Partial) else Partial(function)


def nan_unless(condition: Any, tree: PyTree) -> PyTree:
    """Return a pytree with NaN in every floating-point leaf where a condition does not hold.

    What cannot be refused where values are traced gets no finite result there.

    Args:
      condition: a boolean, or an array of them that broadcasts with each leaf.
      tree: pytree of arrays.
    """

    def keep(leaf):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.where(condition, leaf, jnp.nan) if floating else leaf

    return jax.tree.map(keep, tree)


def take_or_nan(values: Array, index: Array) -> Array:
    """Return the value at each index along the last axis; NaN where there is none.

    Args:
      values: `[*batch, number]`.
      index: integers `[*batch]`, such as tokens; those below 0 or from `number` on give NaN.
    """
    # Of negative indices JAX counts from the end.
    place = jnp.where(index < 0, values.shape[-1], index)[..., None]
    return jnp.take_along_axis(values, place, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
