"""Volumes split into slabs of planes along their first axis, one on each device.

What a step needs of the planes beside a slab it reads in a window: the slab with `reach` planes on
both sides. At the ends of the volume the window lies within it and holds more planes of one side,
so that all windows have one shape and none a border that the volume does not have near its slab.

Without a split, the volume is on one device, and its own window.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from jaxml import checks
from jaxml.registration._extent import Size, along, cut

# Planes of a slab at least: the widest step reads 6 on both sides, all from one neighbor at the
# ends of the volume.
THINNEST = 12


class Split(NamedTuple):
    """The mesh and its axis over which the planes of a volume are split."""

    mesh: Mesh
    axis: str

    @property
    def devices(self) -> int:
        """Number of slabs."""
        return self.mesh.shape[self.axis]


def checked_split(mesh: Mesh | None, axis: str) -> Split | None:
    """Return the split over a mesh; None for one device.

    Raises:
      ValueError: the mesh has no such axis.
    """
    if mesh is None:
        return None
    checks.choice(mesh.axis_names, axis=axis)
    return Split(mesh, axis) if mesh.shape[axis] > 1 else None


def on_devices(tree: Any, split: Split) -> Any:
    """Return a tree with a copy of each array on every device."""
    place = NamedSharding(split.mesh, P())
    return jax.tree.map(lambda x: jax.device_put(x, place) if jnp.ndim(x) else x, tree)


def split_of(shape: tuple[int, ...], split: Split | None) -> Split | None:
    """Return the split of a level of arrays of this shape; None where slabs would be too thin."""
    if split is None or shape[0] % (2 * split.devices) or shape[0] < THINNEST * split.devices:
        return None
    return split


class Window(NamedTuple):
    """Where a window lies.

    Attributes:
      first: its first plane, in the volume.
      offset: the first plane of the slab, in the window.
      planes: number of planes of the slab.
    """

    first: Array
    offset: Array
    planes: int


def on_slabs(f: Callable[..., Any], split: Split | None, slabs: Any, whole: Any, out: Any) -> Any:
    """Return `f` of the leaves of `slabs`, split into slabs, and of those of `whole`.

    Args:
      f: function of two trees, which each device calls with its slabs and all of the rest.
      split: None to call `f` as it is.
      slabs: tree of arrays whose first axis is split, and of numbers.
      whole: tree of arrays and numbers that each device has a copy of.
      out: tree of bools that is a prefix of the result: whether it is split.
    """
    if split is None:
        return f(slabs, whole)
    spec = lambda is_split: P(split.axis) if is_split else P()
    parts = jax.tree.map(lambda leaf: spec(jnp.ndim(leaf) > 0), slabs)
    out = jax.tree.map(spec, out)
    # Unchecked, since loops and branches hold constants, the same on every device.
    return jax.shard_map(f, mesh=split.mesh, in_specs=(parts, P()), out_specs=out, check_vma=False)(
        slabs, whole
    )


def window_of(planes: int, reach: int, split: Split | None) -> Window | None:
    """Return where the window of a slab of so many planes lies; None without a split."""
    if split is None:
        return None
    start = jax.lax.axis_index(split.axis) * planes
    last = (split.devices - 1) * planes - 2 * reach
    first = jnp.clip(start - reach, 0, last) if reach else start
    return Window(first, start - first, planes)


def windows(
    planes: tuple[Array, ...], reach: int, split: Split | None
) -> tuple[tuple[Array, ...], Window | None]:
    """Return the windows of slabs, and where they lie.

    Args:
      planes: slabs of one number of planes, twice `reach` or more.
      reach: number of planes at least on both sides, where there are as many.
      split: None for whole volumes, which are returned with None.
    """
    window = window_of(planes[0].shape[0], reach, split)
    if split is None or window is None or reach == 0:
        return planes, window
    # From all that both neighbors can be asked for.
    start = 2 * reach - window.offset

    def window_in(slab: Array) -> Array:
        before, after = _beside(slab, 2 * reach, split)
        joined = jnp.concatenate([before, slab, after])
        return jax.lax.dynamic_slice_in_dim(joined, start, window.planes + 2 * reach)

    return tuple(map(window_in, planes)), window


def _beside(slab: Array, count: int, split: Split) -> tuple[Array, Array]:
    """Return so many planes of the slab before and of the one after; 0 where there is none."""
    pairs = [(d, d + 1) for d in range(split.devices - 1)]
    before = jax.lax.ppermute(slab[-count:], split.axis, pairs)
    return before, jax.lax.ppermute(slab[:count], split.axis, [pair[::-1] for pair in pairs])


def slab_of(array: Array, window: Window | None) -> Array:
    """Return the slab of a window."""
    if window is None:
        return array
    return jax.lax.dynamic_slice_in_dim(array, window.offset, window.planes)


def is_own(shape: tuple[int, ...], window: Window | None) -> Bool[Array, "*volume"]:
    """Return which planes of an array, which begins where the window does, are of the slab."""
    if window is None:
        return jnp.ones(shape, bool)
    place = along(0, shape) - window.offset
    return (place >= 0) & (place < window.planes)


def seen(size: Size, window: Window | None) -> Size:
    """Return the size of a volume from the first plane of a window on."""
    if window is None or size is None:
        return size
    return (jnp.asarray(size[0], jnp.int32) - window.first, *size[1:])


def stencil(
    f: Callable[[tuple[Array, ...], Size], Any],
    planes: tuple[Array, ...],
    reach: int,
    size: Size,
    split: Split | None,
) -> Any:
    """Return the slabs of a function of planes and the size of their volume.

    Args:
      f: function whose values depend on the planes within `reach`, to arrays of as many planes.
      planes: slabs.
      reach: number of planes.
      size: of the volume; None only where there is no split.
      split: of the volume.
    """
    near, window = windows(planes, reach, split)
    return jax.tree.map(lambda x: slab_of(x, window), f(near, seen(size, window)))


def neighbors(
    plane: Float[Array, "*volume"], axis: int, size: Size = None, split: Split | None = None
) -> tuple[Float[Array, "*volume"], Float[Array, "*volume"]]:
    """Return the value before each voxel and the one after it; the border repeats itself.

    Args:
      plane: values at the voxels of a volume, or of a slab of it.
      axis: along which.
      size: of the volume, where it does not fill its array.
      split: where the plane is a slab.
    """
    n, rimmed = plane.shape[axis], _rimmed(plane, axis, split)
    shifted = functools.partial(jax.lax.slice_in_dim, rimmed, axis=axis)
    before, after = shifted(0, n), shifted(2, n + 2)
    here = seen(size, window_of(plane.shape[0], 0, split))
    if here is not None:
        border = jnp.asarray(here[axis], jnp.int32) - 1
        after = jnp.where(along(axis, plane.shape) == border, plane, after)
    return before, after


def squared_differences(
    plane: Float[Array, "*volume"], axis: int, size: Size = None, split: Split | None = None
) -> Float[Array, "*pairs"]:
    """Return squared differences of neighbors along an axis, 0 where not both are in the volume.

    Arguments as for `neighbors`. Of a slab: those of its voxels to the ones after them.
    """
    here = seen(size, window_of(plane.shape[0], 0, split))
    if split is not None and axis == 0:
        steps = jnp.diff(_rimmed(plane, axis, split)[1:], axis=axis)
    else:
        steps = jnp.diff(plane, axis=axis)
    return cut(steps**2, here and tuple(n - int(a == axis) for a, n in enumerate(here)))


def _rimmed(plane: Array, axis: int, split: Split | None) -> Array:
    """Return an array with one more plane at both ends of an axis."""
    if split is None or axis > 0:
        rim = [(1, 1) if a == axis else (0, 0) for a in range(plane.ndim)]
        return jnp.pad(plane, rim, mode="edge")
    index, last = jax.lax.axis_index(split.axis), split.devices - 1
    before, after = _beside(plane, 1, split)
    before = jnp.where(index == 0, plane[:1], before)
    after = jnp.where(index == last, plane[-1:], after)
    return jnp.concatenate([before, plane, after])


def across(value: Array, split: Split | None) -> Array:
    """Return the sum over slabs of what each has. It is not to be differentiated."""
    return value if split is None else jax.lax.psum(value, split.axis)


def gathered(slab: Array, split: Split | None) -> Array:
    """Return the whole volume on each device."""
    return slab if split is None else jax.lax.all_gather(slab, split.axis, tiled=True)
