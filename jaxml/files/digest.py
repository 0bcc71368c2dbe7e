"""The content of arrays and settings as a short text: whatever differs has another one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree


def digest(value: PyTree) -> str:
    """Return a text that differs where anything in a value does.

    Args:
      value: arrays, numbers, texts, bytes and None, alone or in dicts, sequences and other
        pytrees; arrays lie in this process, see `jaxml.sharding.to_numpy`. Of a static field
        of a dataclass, which is no leaf, nothing is seen.

    Returns:
      64 hexadecimal digits, alike in all processes and on all machines.

    Raises:
      TypeError: a leaf is anything else, such as a path or a function, whose content it is not.
    """
    total = hashlib.sha256()
    for place, leaf in jax.tree_util.tree_leaves_with_path(value, is_leaf=_is_empty):
        # In parts of a fixed length: no two values then run together to the same bytes.
        total.update(hashlib.sha256(jax.tree_util.keystr(place).encode()).digest())
        total.update(_of_leaf(leaf))
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """Return the same of the bytes of a file.

    Args:
      path: of the file.

    Returns:
      64 hexadecimal digits.

    Raises:
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_empty(value: Any) -> bool:
    """Return whether a value has no leaves, and would otherwise be passed over."""
    return value is None or (isinstance(value, dict | list | tuple) and not value)


def _of_leaf(leaf: Any) -> bytes:
    if isinstance(leaf, bytes):
        return hashlib.sha256(b"bytes" + leaf).digest()
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return hashlib.sha256(json.dumps(leaf, sort_keys=True).encode()).digest()
    kind = str(leaf.dtype)
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    found = hashlib.sha256(f"{kind}{array.shape}".encode())
    # As bytes, for types that numpy has no buffers of, such as bfloat16.
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.digest()
