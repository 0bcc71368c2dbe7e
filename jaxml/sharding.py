"""Data-parallel map over any number of devices and processes, and pmap's meaning on today's JAX.

Meshes are always of type Auto: under an Explicit mesh cumsum, sort and gather along
the sharded axis are errors, and the methods use all three.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml import checks


def data_mesh(*, devices: int | None = None, axis: str = "data") -> Mesh:
    """Return a one-axis mesh over the first `devices` devices (all of them by default).

    After `jax.distributed.initialize()` these are the devices of all processes.

    Args:
      devices: number of them.
      axis: name of the axis.

    Returns:
      Mesh of type Auto.

    Raises:
      ValueError: `devices` is below 1 or above what this process sees.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        accepted = f"1 to {len(available)}, the devices that this process sees"
        raise checks.refused("devices", count, accepted)
    return jax.make_mesh((count,), (axis,), axis_types=(AxisType.Auto,), devices=available[:count])


def from_processes(rows: Any, mesh: Mesh, *, axis: str = "data") -> Any:
    """Return the data set of which every process holds a part of the rows.

    All processes call it together. The rows stay where they are, in the order of the mesh: on
    CPUs and GPUs those of process 0 come first. The result is for `map_rows`, `jax.jit` and
    `jaxml.training.fit`; no process can read all of it (`to_numpy` does). In one process this
    is `jax.device_put`.

    Args:
      rows: pytree of arrays `[rows, ...]`, those of this process.
      mesh: over the devices of all processes, such as `data_mesh()`.
      axis: of the mesh, over which the rows are split.

    Returns:
      Pytree of arrays `[rows, ...]`, those of all processes.

    Raises:
      ValueError: leaves or processes disagree on the number of rows, or it is not a multiple of
        the devices of a process over which they are split.
    """
    from jax.experimental import multihost_utils

    own = {leaf.shape[0] for leaf in jax.tree.leaves(rows)}
    # All processes see a mistake of one: it alone would leave the others waiting.
    own_count = np.asarray(own.pop() if len(own) == 1 else -1)
    counts = np.ravel(multihost_utils.process_allgather(own_count)).tolist()
    place = NamedSharding(mesh, P(axis))
    indices = place.addressable_devices_indices_map((mesh.shape[axis],)).values()
    parts = len({str(index) for index in indices})
    if len(set(counts)) != 1 or counts[0] < 1 or counts[0] % parts:
        accepted = f"one number in all processes, a multiple of {parts} devices"
        raise checks.refused("rows", counts, f"{accepted} (-1: leaves disagree)")
    return jax.make_array_from_process_local_data(place, rows)


def to_numpy(tree: Any) -> Any:
    """Return a pytree as numpy arrays, each process all rows; all of them call it together.

    Args:
      tree: pytree of arrays, which may be spread over processes.

    Returns:
      The pytree, its arrays on the host.
    """
    from jax.experimental import multihost_utils

    def whole(leaf):
        here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        if here or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def pmap(
    f: Callable[..., Any], mesh: Mesh, *, in_axes: Any = 0, axis: str = "data"
) -> Callable[..., Any]:
    """Return `f` mapped over the leading axis, that axis split over `mesh[axis]`.

    The meaning of `jax.pmap` (collectives over `axis` included when each device holds one
    row) on `jit(shard_map(vmap(f)))`; several rows a device are mapped by `vmap`.

    Args:
      f: function of arrays or pytrees without the mapped axis.
      mesh: mesh that has `axis`, such as `data_mesh()`.
      in_axes: 0 (mapped) or None (replicated), or a tuple with one of them per argument.
      axis: name of the mesh axis, usable in collectives inside `f`.

    Returns:
      Function of the arguments of `f`, mapped ones with a leading axis, to the pytree of `f`
      with that axis.

    Raises:
      ValueError: `in_axes` is neither 0 nor None, or a mapped axis is not a multiple of
        the number of devices (`map_rows` pads instead).
    """
    devices = mesh.shape[axis]

    @jax.jit
    def mapped(*args):
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        if len(axes) != len(args) or any(a not in (0, None) for a in axes):
            accepted = f"0 or None for each of {len(args)} arguments"
            raise checks.refused("in_axes", in_axes, accepted)
        for arg, a in zip(args, axes, strict=True):
            for leaf in jax.tree.leaves(arg) if a == 0 else ():
                if leaf.shape[0] % devices:
                    accepted = f"a multiple of {devices} devices; map_rows takes any number"
                    raise checks.refused("rows", leaf.shape[0], accepted)
        specs = tuple(P(axis) if a == 0 else P() for a in axes)
        rows = jax.vmap(f, axes)
        return jax.shard_map(rows, mesh=mesh, in_specs=specs, out_specs=P(axis))(*args)

    return mapped


def map_rows(
    f: Callable[..., Any], *, mesh: Mesh | None = None, batch_size: int = 16
) -> Callable[[Any], Any]:
    """Return `f` applied to every row of a data set, rows split over the devices of `mesh`.

    Rows that fill the last device are copies of the first row and are cut from the result, so no
    row is dropped. On each device at most `batch_size` rows run at a time, which bounds memory.
    Compiled once per shape: keep the returned function.

    In several processes the rows are the same in all of them, or a data set of
    `from_processes`; the result lies on the devices of all, and `to_numpy` reads it.

    Args:
      f: function of one row (a pytree without the leading axis) to a pytree of arrays.
      mesh: one-axis mesh; all devices by default.
      batch_size: most rows that a device works on at a time.

    Returns:
      Function of a pytree of arrays `[rows, ...]` to the pytree of `f` with that leading
      axis; it raises ValueError for no rows, or for leaves that disagree on their number.
    """
    mesh = data_mesh() if mesh is None else mesh
    (axis,) = mesh.axis_names
    sharded = NamedSharding(mesh, P(axis))

    def each_device(shard):
        return _in_batches(f, shard, batch_size)

    # No row meets another device's, so nothing is to be checked; the check would reject branches
    # and loops of `f` that begin with a constant.
    run = jax.jit(
        jax.shard_map(each_device, mesh=mesh, in_specs=P(axis), out_specs=P(axis), check_vma=False)
    )

    def mapped(rows):
        counts = {leaf.shape[0] for leaf in jax.tree.leaves(rows)}
        if len(counts) != 1 or 0 in counts:
            accepted = "arrays of one number of rows above 0"
            raise checks.refused("rows", sorted(counts), accepted)
        (count,) = counts
        padding = -count % mesh.shape[axis]

        def pad(leaf):
            # Rows of numpy stay with it until they are split: all of them may be more than one
            # device holds.
            lib = np if isinstance(leaf, np.ndarray) else jnp
            if padding:
                filler = lib.broadcast_to(leaf[:1], (padding, *leaf.shape[1:]))
                leaf = lib.concatenate([leaf, filler])
            return jax.device_put(leaf, sharded)

        return jax.tree.map(lambda leaf: leaf[:count], run(jax.tree.map(pad, rows)))

    return mapped


def map_batches(f: Callable[[Any], Any], rows: Any, *, batch_size: int) -> Any:
    """Return `f` of all rows, which it gets at most `batch_size` at a time; no row is left out.

    For a function that treats the rows of a batch apart, such as a network. Rows that lie in
    equal blocks on several devices are worked on where they are.

    Args:
      f: function of a pytree of arrays `[batch, ...]` to a pytree of arrays `[batch, ...]`.
      rows: pytree of arrays `[rows, ...]`.
      batch_size: most rows that `f` gets; where they do not divide, copies of the first row
        fill the batches up.

    Returns:
      Pytree of arrays `[rows, ...]`, as of `f(rows)`.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if count <= batch_size:
        return f(rows)
    batches = math.ceil(count / batch_size)

    # Batch j holds every `batches`-th row, so that of rows in blocks on several devices each
    # batch has its share on every device.
    def fold(leaf):
        filler = jnp.broadcast_to(leaf[:1], (batch_size * batches - count, *leaf.shape[1:]))
        return jnp.concatenate([leaf, filler]).reshape(batch_size, batches, *leaf.shape[1:])

    def unfold(leaf):
        return jnp.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:])[:count]

    folded = jax.tree.map(fold, rows)

    def of_batch(j):
        pick = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, j, 1, keepdims=False)
        return f(jax.tree.map(pick, folded))

    return jax.tree.map(unfold, jax.lax.map(of_batch, jnp.arange(batches)))


def map_host_batches(f: Callable[[Any], Any], rows: Any, *, batch_size: int) -> Any:
    """Return `f` of all rows, a call for each batch; no row is left out.

    As `map_batches`, for an `f` that is compiled by itself: one program serves any number of
    batches, and no more than one is at work. Not for use under `jax.jit`.

    Args:
      f: function of a pytree of arrays `[batch, ...]` to a pytree of arrays `[batch, ...]`.
      rows: pytree of arrays `[rows, ...]`.
      batch_size: rows that `f` gets; all of them where they are fewer.

    Returns:
      Pytree of arrays `[rows, ...]`.
    """
    count = len(jax.tree.leaves(rows)[0])
    size = min(batch_size, count)

    def from_row(start):
        # The last batch starts early enough to be as long as the others.
        first = min(start, count - size)
        batch = jax.tree.map(lambda leaf: leaf[first : first + size], rows)
        return jax.tree.map(lambda leaf: leaf[start - first :], f(batch))

    parts = [from_row(start) for start in range(0, count, size)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _in_batches(f: Callable[..., Any], rows: Any, batch_size: int) -> Any:
    """Return `f` of every row, at most `batch_size` at a time; all batches are full."""
    count = len(jax.tree.leaves(rows)[0])
    size = min(batch_size, count)
    if count % size == 0:
        return jax.lax.map(f, rows, batch_size=size)
    batches = -(-count // size)

    # The last batch begins early enough to be full: rows left over, as of `lax.map`, would be
    # a second program and a copy of all others.
    def one_batch(number):
        start = jnp.minimum(number * size, count - size)
        cut = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size)
        return jax.vmap(f)(jax.tree.map(cut, rows))

    def join(leaf):
        whole = leaf[:-1].reshape((batches - 1) * size, *leaf.shape[2:])
        return jnp.concatenate([whole, leaf[-1, batches * size - count :]])

    numbers = jnp.arange(batches, dtype=jnp.int32)
    return jax.tree.map(join, jax.lax.map(one_batch, numbers))
