"""Half precision is for storage: what is computed from it is computed in float32."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


def at_least_single(dtype: np.dtype) -> np.dtype:
    """Return the dtype, or float32 for those of half precision."""
    return np.dtype("float32") if dtype.itemsize < 4 else dtype


def half_as_single(function: Function) -> Function:
    """Return a loss or measure that computes in float32 of arrays of half precision.

    A result has the dtype of the first array of floats: half precision comes back as such, while
    arrays of single or double precision pass as they are, and so does what is computed of them.

    Args:
      function: of arrays, to a pytree of arrays. Settings are no arrays, and stay as they are.
    """

    @functools.wraps(function)
    def in_single(*args, **kwargs):
        wanted = next((x.dtype for x in (*args, *kwargs.values()) if _is_floating(x)), None)
        wide = lambda x: x.astype(jnp.float32) if _is_floating(x) and x.dtype.itemsize < 4 else x
        result = function(*map(wide, args), **{name: wide(x) for name, x in kwargs.items()})
        if wanted is None or wanted.itemsize >= 4:
            return result
        return jax.tree.map(lambda x: x.astype(wanted) if _is_floating(x) else x, result)

    return in_single  # pyright: ignore[reportReturnType]


def _is_floating(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
