"""Rows in batches, sums over the rows of one class, and checks that all scores share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxml.tracing import is_concrete


def in_batches(f: Callable[..., Any], batch_size: int, *arrays: Array) -> Any:
    """Return `f(*arrays)` for a function that treats rows apart, a batch of rows at a time.

    Args:
      f: of arrays `[batch, ...]`, to a pytree of arrays `[batch, ...]`.
      batch_size: rows handed to `f` at once; the last batch is filled up with its last row.
      arrays: `[row, ...]`.
    """
    rows = arrays[0].shape[0]
    if rows <= batch_size:
        return f(*arrays)
    missing = -rows % batch_size

    def split(array):
        filled = jnp.concatenate([array, jnp.repeat(array[-1:], missing, axis=0)])
        return filled.reshape(-1, batch_size, *array.shape[1:])

    found = lax.map(lambda batch: f(*batch), tuple(map(split, arrays)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rows], found)


def for_each_class(f: Callable[[Array], Array], labels: Array, classes: int) -> Array:
    """Return `f(member)[i]` for each row i, `member` being the rows of its class.

    Args:
      f: of `member` `[row]`, boolean, to `[row]`.
      labels: `[row]`, 0..classes-1.
      classes: how many.
    """
    found = lax.map(lambda c: f(labels == c), jnp.arange(classes, dtype=labels.dtype))
    return found[labels, jnp.arange(labels.shape[0])]


def centred(features: Array, member: Array) -> Array:
    """Return the features about the mean of the members; 0 in the other rows."""
    weight = member.astype(features.dtype)
    mean = weight @ features / jnp.maximum(jnp.sum(weight), 1)
    return jnp.where(member[:, None], features - mean, 0)


def principal_axes(rows: Array) -> Array:
    """Return the eigenvectors of X'X, largest eigenvalue first, `[feature, axis]`."""
    scatter = jnp.matmul(rows.T, rows, precision="highest")
    return jnp.linalg.eigh(scatter)[1][:, ::-1]


def check_images(images: Array) -> None:
    """Raise ValueError unless these are floating-point images `[row, height, width, channel]`."""
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images: shape {images.shape}; give [row, height, width, channel]")
    check_floating(images, "images")


def check_features(features: Array, name: str) -> None:
    """Raise ValueError unless these are finite floating-point features `[row, feature]`."""
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name}: shape {features.shape}; give 2 axes, none of length 0")
    check_floating(features, name)
    if is_concrete(features) and not np.isfinite(features).all():
        raise ValueError(f"{name}: holds NaN or inf; give finite numbers")


def check_labels(labels: Array, rows: int, classes: int) -> None:
    """Raise ValueError unless these are `rows` integers in 0..classes-1."""
    if labels.shape != (rows,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels: {labels.dtype}{list(labels.shape)}; give integers [{rows}]")
    if not is_concrete(labels) or labels.size == 0:
        return
    # By numpy: an operation of JAX on concrete labels is traced too where it is called in a jit.
    low, high = np.min(np.asarray(labels)), np.max(np.asarray(labels))
    if low < 0 or high >= classes:
        found = f"{low}..{high}"
        raise ValueError(f"labels: {found}; give 0..{classes - 1} (classes={classes})")


def check_floating(array: Array, name: str) -> None:
    """Raise ValueError unless the array holds floating-point numbers."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name}: dtype {array.dtype}; give floating-point numbers")


def check_at_least_one(**numbers: int) -> None:
    """Raise ValueError for a number below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}={number}: accepted is 1 or more")
