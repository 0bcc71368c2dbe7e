"""Early rejection of bad input, with the name of the argument and what is accepted."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxml.tracing import known


def check_floating(**arrays: Array) -> None:
    """Raise ValueError unless all are floating-point arrays that are not empty."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name}: dtype {array.dtype}; accepted are floating-point numbers")
        if not array.size:
            raise ValueError(f"{name}: shape {array.shape}; accepted is more than nothing")


def check_integers(**arrays: Array) -> None:
    """Raise ValueError unless all are arrays of integers."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(f"{name}: dtype {array.dtype}; accepted are integers")


def check_alike(**arrays: Array) -> None:
    """Raise ValueError unless all have the shape of the first."""
    (first, expected), *others = arrays.items()
    for name, array in others:
        if array.shape != expected.shape:
            raise ValueError(f"{name}: shape {array.shape}; {first} has {expected.shape}")


def check_rows(**arrays: Array) -> None:
    """Raise ValueError unless all are floating-point, of one axis and one length above 0."""
    check_floating(**arrays)
    for name, array in arrays.items():
        if array.ndim != 1:
            raise ValueError(f"{name}: shape {array.shape}; accepted is one axis")
    check_alike(**arrays)


def check_mask(mask: Array, **array: Array) -> None:
    """Raise ValueError unless `mask` is boolean and of the shape of the array."""
    check_alike(**array, mask=mask)
    if mask.dtype != jnp.bool_:
        raise ValueError(f"mask: dtype {mask.dtype}; accepted is bool")


def check_trees(**trees: PyTree) -> None:
    """Raise ValueError unless all have the structure, shapes and dtypes of the first."""
    (first, expected), *others = trees.items()
    structure = jax.tree.structure(expected)
    kind = lambda leaf: f"{leaf.dtype}{list(leaf.shape)}"
    for name, tree in others:
        if jax.tree.structure(tree) != structure:
            raise ValueError(f"{name}: {jax.tree.structure(tree)}; {first} has {structure}")
        leaves = jax.tree_util.tree_leaves_with_path(expected)
        for (path, leaf), mate in zip(leaves, jax.tree.leaves(tree), strict=True):
            if kind(leaf) != kind(mate):
                where = jax.tree_util.keystr(path)
                raise ValueError(f"{name}{where}: {kind(mate)}; {first} has {kind(leaf)}")


def check_positive(**numbers: Any) -> None:
    """Raise ValueError if a number whose value is known now is not above 0 and finite."""
    for name, value in numbers.items():
        if not known(value, lambda value: (value > 0) & (value < float("inf"))):
            raise ValueError(f"{name}={value}: accepted are positive numbers")


def check_counts(**counts: int) -> None:
    """Raise ValueError unless all are 1 or more."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value}: accepted is 1 or more")


def check_choice(value: Any, accepted: Sequence[str], name: str) -> None:
    """Raise ValueError unless `value` is one of `accepted`."""
    if value not in accepted:
        raise ValueError(f"{name}={value!r}: accepted are {', '.join(map(repr, accepted))}")
