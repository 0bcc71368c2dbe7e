"""Determinants of a displacement field on tetrahedra (triangles in 2-D), and their gradients.

A field is linear on each simplex spanned by a voxel and its neighbours. It has no fold, in the
sense of Liu et al., "On finite difference Jacobian computation in deformable image
registration" (IJCV 2024), where the determinants of all the simplices of a voxel are positive:

* the corners, spanned by one neighbour along each axis: 8 in 3-D, 4 in 2-D;
* in 3-D, the two central tetrahedra, spanned by (1,1,0), (1,0,1), (0,1,1) and their opposites.

The forward and the backward determinant are corners and the central-difference determinant is
the mean of the corners, so that all of them are positive too. Outside of the volume the
displacement of the border is repeated.

Planes are kept flat, with one ghost voxel around the volume and slack at both ends: a
neighbour is then a constant shift of a 1-D array, which compilers turn into vector code.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Plane = jax.Array
Vector = tuple[Plane, ...]
Offset = tuple[int, ...]
Simplex = tuple[Offset, ...]


class Layout(NamedTuple):
    """How voxel `p` of the volume lies in a flat plane: at `p + 1` of `padded`, after `slack`."""

    shape: tuple[int, ...]
    padded: tuple[int, ...]
    strides: tuple[int, ...]
    slack: int
    simplices: tuple[Simplex, ...]

    def shift(self, offset: Offset) -> int:
        """Flat distance to the voxel at `offset`."""
        return sum(o * s for o, s in zip(offset, self.strides, strict=True))


def layout(shape: tuple[int, ...], *, scheme: str = "digital") -> Layout:
    """Return the flat layout of a volume of `shape`, and the simplices that `scheme` looks at.

    Raises:
      ValueError: `scheme` is not "digital" (all), "forward" or "backward" (one corner).
    """
    padded = tuple(n + 2 for n in shape)
    strides = tuple(math.prod(padded[axis + 1 :]) for axis in range(len(shape)))
    return Layout(tuple(shape), padded, strides, sum(strides), _simplices(len(shape), scheme))


def flatten(planes: Vector, grid: Layout) -> Vector:
    """Return planes `[D, H, W]` as flat planes: ghosts repeat the border, slack of 2."""
    return tuple(jnp.pad(_repeat_border(p).reshape(-1), 2 * grid.slack) for p in planes)


def inside(grid: Layout) -> Plane:
    """Return the flat mask, with slack of 1, of the voxels of the volume."""
    return jnp.pad(jnp.pad(jnp.ones(grid.shape, bool), 1).reshape(-1), grid.slack)


def inner_edges(grid: Layout) -> list[Plane]:
    """Return, for each axis, the mask of the voxels whose next one lies in the volume too."""
    mask = inside(grid)
    return [mask & jnp.roll(mask, -stride) for stride in grid.strides]


def interior(plane: Plane, grid: Layout) -> Plane:
    """Return a flat plane with slack of 1 as `[D, H, W]`."""
    full = plane[grid.slack : -grid.slack].reshape(grid.padded)
    return full[tuple(slice(1, -1) for _ in grid.shape)]


def determinants(flat: Vector, grid: Layout) -> Iterator[Plane]:
    """Yield the determinants of all simplices, 1 at rest, as flat planes with slack of 1."""
    for simplex in grid.simplices:
        edges = [_edge(flat, offset, grid) for offset in simplex]
        yield _dot(edges[0], _cofactor(edges, 0)) / _volume(simplex)


def multipliers(
    flat: Vector, mask: Plane, grid: Layout, *, below: float, target: float
) -> tuple[list[Plane], Plane]:
    """Return by how much each simplex must follow its gradient, and the smallest determinant.

    The Gauss-Newton step of one constraint, (target - d) / |grad d|^2 where d < below and 0
    elsewhere, moves the corners of a simplex by the least that brings d to `target`.

    Returns:
      One flat plane a simplex, and one of the smallest determinants, at most 1 and 1 outside;
      slack of 1.
    """
    steps, smallest = [], jnp.ones((), flat[0].dtype)
    for simplex in grid.simplices:
        edges = [_edge(flat, offset, grid) for offset in simplex]
        gradients = [_cofactor(edges, i) for i in range(len(edges))]
        volume = _volume(simplex)
        d = _dot(edges[0], gradients[0]) / volume
        base = tuple(total(parts) for parts in zip(*gradients, strict=True))
        norm = total(_dot(g, g) for g in (*gradients, base)) / volume**2
        # Where all corners fall on one point there is no gradient: 1e-3 keeps the step finite.
        steps.append(jnp.where((d < below) & mask, (target - d) / (norm + 1e-3), 0))
        smallest = jnp.minimum(smallest, d)
    return steps, jnp.where(mask, smallest, 1)


def correction(flat: Vector, steps: list[Plane], grid: Layout) -> Vector:
    """Return the sum over simplices of step * gradient with respect to the displacement.

    Args:
      flat: displacement, flat planes with slack of 2.
      steps: one flat plane a simplex, with slack of 1, 0 outside of the volume.
      grid: their layout.

    Returns:
      Planes `[D, H, W]`, one a component.
    """
    active = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(step)) for step in steps]) > 0
    corrections = []
    for component in range(len(grid.shape)):
        # A branch is compiled apart. Without it the compiler mixes the components into one
        # computation, which stores what it should compute again and takes three times as long.
        moved = jax.lax.cond(
            active,
            lambda f, s, k=component: _moved(f, s, grid, k),
            lambda f, s: jnp.zeros(math.prod(grid.padded), f[0].dtype),
            flat,
            steps,
        )
        corrections.append(_add_ghosts(moved.reshape(grid.padded)))
    return tuple(corrections)


def neighbour_mean(flat: Vector, grid: Layout) -> Vector:
    """Return the mean over each voxel and its neighbours along the axes, planes `[D, H, W]`."""
    size, slack = math.prod(grid.padded) + 2 * grid.slack, grid.slack
    shifts = [0, *grid.strides, *(-s for s in grid.strides)]
    return tuple(
        interior(total(plane[slack + s :][:size] for s in shifts) / len(shifts), grid)
        for plane in flat
    )


def total(planes: Iterable[Plane]) -> Plane:
    """Return the sum of planes."""
    return functools.reduce(operator.add, planes)


def _simplices(ndim: int, scheme: str) -> tuple[Simplex, ...]:
    axes = np.eye(ndim, dtype=int)
    corners = [axes * np.array(s)[:, None] for s in itertools.product((1, -1), repeat=ndim)]
    central = [sign * (1 - axes[::-1]) for sign in (1, -1)] if ndim == 3 else []
    schemes = {"digital": corners + central, "forward": corners[:1], "backward": corners[-1:]}
    if scheme not in schemes:
        raise ValueError(f"scheme={scheme!r}: accepted are {', '.join(schemes)}")
    return tuple(tuple(tuple(map(int, o)) for o in simplex) for simplex in schemes[scheme])


def _moved(flat: Vector, steps: list[Plane], grid: Layout, component: int) -> Plane:
    """One component of the correction, ghosts included, as a flat plane without slack."""
    pulls: dict[Offset, Plane] = {}
    for simplex, step in zip(grid.simplices, steps, strict=True):
        edges = [_edge(flat, offset, grid) for offset in simplex]
        for i, offset in enumerate(simplex):
            pull = step * _cofactor(edges, i)[component] / _volume(simplex)
            pulls[offset] = pulls[offset] + pull if offset in pulls else pull
    size, slack = math.prod(grid.padded), grid.slack
    # The pull on an edge moves its far end by +1 and its near end, the voxel, by -1.
    return total(
        plane[slack - grid.shift(offset) :][:size] - plane[slack:][:size]
        for offset, plane in pulls.items()
    )


def _volume(simplex: tuple[Offset, ...]) -> int:
    return round(float(np.linalg.det(np.array(simplex))))


def _edge(flat: Vector, offset: Offset, grid: Layout) -> Vector:
    size, slack, shift = math.prod(grid.padded) + 2 * grid.slack, grid.slack, grid.shift(offset)
    return tuple(
        plane[slack + shift :][:size] - plane[slack:][:size] + float(o)
        for plane, o in zip(flat, offset, strict=True)
    )


def _cofactor(edges: list[Vector], i: int) -> Vector:
    """Gradient of the determinant of `edges` with respect to edge `i`."""
    if len(edges) == 2:
        a, b = edges[1 - i]
        return (b, -a) if i == 0 else (-b, a)
    a, b = edges[(i + 1) % 3], edges[(i + 2) % 3]
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _dot(a: Vector, b: Vector) -> Plane:
    return total(x * y for x, y in zip(a, b, strict=True))


def _repeat_border(plane: Plane) -> Plane:
    return jnp.pad(plane, 1, mode="edge")


def _add_ghosts(padded: Plane) -> Plane:
    """Transpose of `_repeat_border`: what falls on a ghost belongs to the border."""
    for axis, n in enumerate(padded.shape):
        cuts = ((0, 1), (1, 2), (2, n - 2), (n - 2, n - 1), (n - 1, n))
        ghost, first, middle, last, end = (
            jax.lax.slice_in_dim(padded, start, stop, axis=axis) for start, stop in cuts
        )
        padded = jnp.concatenate([ghost + first, middle, last + end], axis)
    return padded
