"""Where the arrays of a training run lie on the devices of one process or of several."""

import math
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml import sharding


def mesh_of(tree: Any) -> Mesh | None:
    """Return the mesh of the first array that lies on several devices.

    Without one it is that of all devices where there are several processes, else None.

    Args:
      tree: pytree of arrays.

    Returns:
      The mesh, or None.
    """
    for leaf in jax.tree.leaves(tree):
        place = getattr(leaf, "sharding", None)
        if (
            isinstance(place, NamedSharding)
            and isinstance(place.mesh, Mesh)
            and place.mesh.size > 1
        ):
            return place.mesh
    return sharding.data_mesh() if jax.process_count() > 1 else None


def on_mesh(tree: Any, mesh: Mesh | None) -> Any:
    """Return a pytree whose arrays lie on all devices of a mesh: those that did not as copies.

    Args:
      tree: pytree of arrays; one of this process alone is the same in all processes.
      mesh: None leaves all as it is.

    Returns:
      A pytree as `tree`.
    """
    if mesh is None:
        return tree
    devices = set(mesh.devices.flat)

    def place(leaf):
        there = isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices
        return leaf if there else jax.device_put(leaf, NamedSharding(mesh, P()))

    return jax.tree.map(place, tree)


def shardings(tree: Any, mesh: Mesh | None) -> tuple:
    """Return how the arrays of a pytree lie on a mesh, as hashable parts.

    Args:
      tree: pytree of JAX arrays.
      mesh: all devices, or None.

    Returns:
      The structure of the pytree, the shardings of its leaves in order, and the sharding of a
      copy on all devices; three times None without a mesh.
    """
    if mesh is None:
        return None, None, None
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(leaf.sharding for leaf in leaves), NamedSharding(mesh, P())


def batch_shardings(data: Any, batch_size: int | None) -> tuple:
    """Return how a batch of rows is split: as the rows are, or as XLA likes.

    Args:
      data: pytree of arrays `[rows, ...]`.
      batch_size: None for all rows.

    Returns:
      A sharding or None a leaf.
    """
    return tuple(_batch_sharding(leaf, batch_size) for leaf in jax.tree.leaves(data))


def constrain(tree: Any, places: tuple) -> Any:
    """Return a pytree of traced arrays with each at its place.

    Args:
      tree: pytree of arrays.
      places: shardings of the leaves in order; nothing is done for None, or for ().

    Returns:
      A pytree as `tree`.
    """
    if not places:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    pairs = zip(leaves, places, strict=True)
    put = lambda leaf, place: leaf if place is None else lax.with_sharding_constraint(leaf, place)
    return jax.tree.unflatten(structure, [put(*pair) for pair in pairs])


def in_any_process(flag: bool) -> bool:
    """Tell whether a flag is set in any process; all of them must ask.

    Args:
      flag: of this process.

    Returns:
      True in all processes if it is set in one.
    """
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def _batch_sharding(leaf, batch_size):
    place = getattr(leaf, "sharding", None)
    if batch_size is None or not isinstance(place, NamedSharding) or not place.spec:
        return None
    first = place.spec[0]
    axes = first if isinstance(first, tuple) else (first,)
    if first is None or batch_size % math.prod(place.mesh.shape[axis] for axis in axes):
        return None
    return place
