"""Bad input refused early, in one form: `name=value: accepted is what`.

Each function takes the arguments by their names and raises ValueError for the first that it does
not accept. What is read off a shape or a dtype is checked under `jit` and `vmap` too; values are
checked where they are known, those of arrays that a compiled function captures among them. NaN is
within no range.
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxml.tracing import is_concrete, known


def refused(name: str, value: Any, accepted: str, *, holds: str = "") -> ValueError:
    """Return the error of an argument: `raise refused("ratio", 2, "0 to 1")`.

    Args:
      name: of the argument, as the caller wrote it.
      value: its value; of an array the message has dtype and shape.
      accepted: what would be accepted; the message reads on "accepted is ...".
      holds: what of an array's values is wrong, such as "NaN".
    """
    what = described(value) + (f" with {holds}" if holds else "")
    return ValueError(f"{name}={what}: accepted is {accepted}")


def described(value: Any) -> str:
    """Return how a message shows a value: `float32[3, 4]` for an array, else its `repr`, cut."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        shows_value = value.shape == () and is_concrete(value)
        return str(value) if shows_value else f"{value.dtype}{list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


# Numbers


def positive(**numbers: Any) -> None:
    """Accept finite numbers above 0."""
    _each(lambda x: (x > 0) & (x < jnp.inf), "a positive number", numbers)


def at_least(low: float, **numbers: Any) -> None:
    """Accept finite numbers from `low`."""
    _each(lambda x: (x >= low) & (x < jnp.inf), f"{low} or more", numbers)


def within(low: float, high: float, **numbers: Any) -> None:
    """Accept numbers from `low` to `high`, both among them."""
    _each(lambda x: (x >= low) & (x <= high), f"{low} to {high}", numbers)


def between(low: float, high: float, **numbers: Any) -> None:
    """Accept numbers above `low` and below `high`."""
    _each(lambda x: (x > low) & (x < high), f"a number between {low} and {high}", numbers)


def fraction(**numbers: Any) -> None:
    """Accept numbers above 0, 1 at most."""
    _each(lambda x: (x > 0) & (x <= 1), "above 0, 1 at most", numbers)


def counts(*, least: int = 1, **numbers: Any) -> None:
    """Accept whole numbers from `least`."""
    for name, number in numbers.items():
        kind = getattr(number, "dtype", None)
        is_whole = (
            isinstance(number, Integral) if kind is None else jnp.issubdtype(kind, jnp.integer)
        )
        if not is_whole or not known(number, lambda n: n >= least):
            raise refused(name, number, f"a whole number, {least} or more")


def choice(accepted: Sequence[Any], **values: Any) -> None:
    """Accept one of `accepted`."""
    for name, value in values.items():
        if value not in accepted:
            raise refused(name, value, "one of " + ", ".join(map(repr, accepted)))


# Types and shapes of arrays


def floating(**arrays: Any) -> None:
    """Accept arrays of floating-point numbers."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise refused(name, array, "floating-point numbers")


def not_half(**arrays: Any) -> None:
    """Accept arrays of single precision or better, for what rounding would spoil."""
    for name, array in arrays.items():
        if array.dtype.itemsize < 4:
            raise refused(name, array, "float32 or float64")


def integers(**arrays: Any) -> None:
    """Accept arrays of integers."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise refused(name, array, "integers")


def boolean(**arrays: Any) -> None:
    """Accept arrays of True and False."""
    for name, array in arrays.items():
        if array.dtype != jnp.bool_:
            raise refused(name, array, f"bool{list(array.shape)}")


def axes(layout: str, **arrays: Any) -> None:
    """Accept arrays with the axes of a layout such as "row feature", none of them of length 0."""
    names = layout.split()
    for name, array in arrays.items():
        if len(array.shape) != len(names) or 0 in array.shape:
            raise refused(name, array, f"[{', '.join(names)}], none of length 0")


def same_shape(**arrays: Any) -> None:
    """Accept arrays of the shape of the first."""
    (first, expected), *others = arrays.items()
    for name, array in others:
        if array.shape != expected.shape:
            raise refused(name, array, f"{list(expected.shape)}, the shape of {first}")


def rows(**arrays: Any) -> None:
    """Accept floating-point arrays `[row]` of one length above 0."""
    floating(**arrays)
    axes("row", **arrays)
    same_shape(**arrays)


def mask(mask: Any, **array: Any) -> None:
    """Accept a boolean array of the shape of another."""
    same_shape(**array, mask=mask)
    boolean(mask=mask)


def same_trees(**trees: PyTree) -> None:
    """Accept pytrees of the structure, shapes and dtypes of the first."""
    (first, expected), *others = trees.items()
    structure = jax.tree.structure(expected)
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for name, tree in others:
        if jax.tree.structure(tree) != structure:
            raise refused(name, jax.tree.structure(tree), f"the structure of {first}, {structure}")
        for (path, leaf), mate in zip(leaves, jax.tree.leaves(tree), strict=True):
            if (leaf.shape, leaf.dtype) != (mate.shape, mate.dtype):
                where = f"{name}{jax.tree_util.keystr(path)}"
                raise refused(where, mate, f"{described(leaf)}, as of {first}")


# Values of arrays


def finite(**arrays: Any) -> None:
    """Accept arrays without NaN and infinity."""
    for name, array in arrays.items():
        if not known(array, lambda array: jnp.all(jnp.isfinite(array))):
            raise refused(name, array, "finite numbers", holds="NaN or infinity")


def values_within(low: float, high: float, **arrays: Any) -> None:
    """Accept arrays of numbers from `low` to `high`."""
    for name, array in arrays.items():
        if not known(array, lambda array: jnp.all((array >= low) & (array <= high))):
            with jax.ensure_compile_time_eval():
                # Minimum and maximum of many numbers leave NaN out on XLA's CPU backend.
                has_nan = bool(jnp.any(array != array))
                ends = f"values from {jnp.min(array)} to {jnp.max(array)}"
            raise refused(name, array, f"{low} to {high}", holds="NaN" if has_nan else ends)


# What the methods on images share


def images(*, or_bytes: bool = False, **arrays: Any) -> None:
    """Accept floating-point images `[row, height, width, channel]`, or also of bytes.

    Their values are not looked at: `values_within(0, 1, images=images)` does.
    """
    axes("row height width channel", **arrays)
    for name, array in arrays.items():
        if or_bytes and array.dtype == jnp.uint8:
            continue
        if not jnp.issubdtype(array.dtype, jnp.floating):
            kinds = "uint8 or floating-point numbers" if or_bytes else "floating-point numbers"
            raise refused(name, array, f"{kinds} in [0, 1]")


def labels(*, rows: int, classes: int | None = None, **arrays: Any) -> None:
    """Accept integers `[row]` from 0 to classes - 1, one a row."""
    for name, array in arrays.items():
        if array.shape != (rows,) or not jnp.issubdtype(array.dtype, jnp.integer):
            raise refused(name, array, f"integers [{rows}], one a row")
    if classes is not None and rows:
        values_within(0, classes - 1, **arrays)


def _each(holds: Callable[[Any], Any], accepted: str, numbers: dict[str, Any]) -> None:
    for name, number in numbers.items():
        if not known(number, holds):
            raise refused(name, number, accepted)
