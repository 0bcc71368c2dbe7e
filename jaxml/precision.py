"""Half precision: computed in float32, and rounded to it once, at the end."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

HALF = (jnp.float16, jnp.bfloat16)
"""The types that hold three or two digits: values of images, but neither places nor sums."""

Function = TypeVar("Function", bound=Callable[..., Any])


def half_in_single(function: Function) -> Function:
    """Have a function compute in float32 where it gets half precision, and round its result.

    The results in float32 and float64 stay as they are. Random numbers are those of float32.

    Args:
      function: of arrays and pytrees, to arrays and pytrees.

    Returns:
      The function; its floating-point results have the half precision of its first such argument.
    """

    @functools.wraps(function)
    def in_single(*args, **kwargs):
        leaves = jax.tree.leaves((args, kwargs))
        kinds = [leaf.dtype for leaf in leaves if _is_half(leaf)]
        if not kinds:
            return function(*args, **kwargs)
        args, kwargs = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float32) if _is_half(leaf) else leaf, (args, kwargs)
        )

        def rounded(leaf):
            return leaf.astype(kinds[0]) if leaf.dtype == jnp.float32 else leaf

        return jax.tree.map(rounded, function(*args, **kwargs))

    return in_single  # pyright: ignore[reportReturnType]


def _is_half(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) in HALF
