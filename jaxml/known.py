"""Conditions on arrays and numbers whose values may not be known yet."""

from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer


def known(array: Any, holds: Callable[[Any], Any]) -> bool:
    """Return whether a condition holds for an array or a number, True where it is not known."""
    if not is_concrete(array):
        return True
    # An array that a traced function captures is known, but what is computed from it is not.
    with jax.ensure_compile_time_eval():
        return bool(holds(array))


def is_concrete(value: Any) -> bool:
    """Return whether values can be looked at now."""
    return not isinstance(value, Tracer)
