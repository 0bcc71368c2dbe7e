"""Determinants of a displacement field on tetrahedra (triangles in 2-D), and their gradients.

A field is linear on each simplex spanned by a voxel and its neighbours. It has no fold, in the
sense of Liu et al., "On finite difference Jacobian computation in deformable image
registration" (IJCV 2024), where the determinants of all the simplices of a voxel are positive:

* the corners, spanned by one neighbour along each axis: 8 in 3-D, 4 in 2-D;
* in 3-D, the two central tetrahedra, spanned by (1,1,0), (1,0,1), (0,1,1) and their opposites.

The forward and the backward determinant are corners and the central-difference determinant is
the mean of the corners, so that all of them are positive too. Outside of the volume the
displacement of the border is repeated.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import checks
from jaxml.registration._extent import Size
from jaxml.registration._flat import (
    Layout,
    Offset,
    Plane,
    Planes,
    add_ghosts,
    flat_layout,
    total,
)

Simplex = tuple[Offset, ...]
SimplexScheme = Literal["digital", "forward", "backward"]


class Grid(NamedTuple):
    """A volume laid out flat, and the simplices that are looked at from each of its voxels."""

    layout: Layout
    simplices: tuple[Simplex, ...]


def simplex_grid(shape: tuple[int, ...], *, scheme: str = "digital") -> Grid:
    """Return the grid of a volume of `shape`.

    Args:
      shape: of the volume, 2-D or 3-D.
      scheme: "digital" for all simplices, "forward" or "backward" for one corner.

    Raises:
      ValueError: `scheme` is unknown.
    """
    checks.choice(get_args(SimplexScheme), scheme=scheme)
    return Grid(flat_layout(shape), _simplices(len(shape), scheme))


def determinants(flat: Planes, grid: Grid) -> Iterator[Plane]:
    """Yield the determinants of all simplices, 1 at rest, as flat planes with slack of 1."""
    for simplex in grid.simplices:
        edges = [_edge(flat, offset, grid) for offset in simplex]
        yield _dot(edges[0], _cofactor(edges, 0)) / volume_at_rest(simplex)


def multipliers(
    flat: Planes, mask: Plane, grid: Grid, *, below: float, target: float
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
        volume = volume_at_rest(simplex)
        d = _dot(edges[0], gradients[0]) / volume
        base = tuple(total(parts) for parts in zip(*gradients, strict=True))
        norm = total(_dot(g, g) for g in (*gradients, base)) / volume**2
        # Where all corners fall on one point there is no gradient: 1e-3 keeps the step finite.
        steps.append(jnp.where((d < below) & mask, (target - d) / (norm + 1e-3), 0))
        smallest = jnp.minimum(smallest, d)
    return steps, jnp.where(mask, smallest, 1)


def correction(flat: Planes, steps: list[Plane], grid: Grid, size: Size = None) -> Planes:
    """Return the sum over simplices of step * gradient with respect to the displacement.

    Args:
      flat: displacement, flat planes with slack of 2.
      steps: one flat plane a simplex, with slack of 1, 0 outside of the volume.
      grid: layout and simplices.
      size: of the volume, where it does not fill the planes.

    Returns:
      Planes `[D, H, W]`, one a component.
    """
    padded = grid.layout.padded
    active = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(step)) for step in steps]) > 0
    corrections = []
    for component in range(len(padded)):
        # A branch is compiled apart. Without it the compiler mixes the components into one
        # computation, which stores what it should compute again and takes three times as long.
        moved = jax.lax.cond(
            active,
            lambda f, s, k=component: _moved(f, s, grid, k),
            lambda f, s: jnp.zeros(math.prod(padded), f[0].dtype),
            flat,
            steps,
        )
        corrections.append(add_ghosts(moved.reshape(padded), size))
    return tuple(corrections)


def _simplices(ndim: int, scheme: str) -> tuple[Simplex, ...]:
    axes = np.eye(ndim, dtype=int)
    corners = [axes * np.array(s)[:, None] for s in itertools.product((1, -1), repeat=ndim)]
    central = [sign * (1 - axes[::-1]) for sign in (1, -1)] if ndim == 3 else []
    schemes = {"digital": corners + central, "forward": corners[:1], "backward": corners[-1:]}
    return tuple(tuple(tuple(map(int, o)) for o in simplex) for simplex in schemes[scheme])


def _moved(flat: Planes, steps: list[Plane], grid: Grid, component: int) -> Plane:
    """One component of the correction, ghosts included, as a flat plane without slack."""
    pulls: dict[Offset, Plane] = {}
    for simplex, step in zip(grid.simplices, steps, strict=True):
        edges = [_edge(flat, offset, grid) for offset in simplex]
        for i, offset in enumerate(simplex):
            pull = step * _cofactor(edges, i)[component] / volume_at_rest(simplex)
            pulls[offset] = pulls[offset] + pull if offset in pulls else pull
    size, slack = math.prod(grid.layout.padded), grid.layout.slack
    # The pull on an edge moves its far end by +1 and its near end, the voxel, by -1.
    return total(
        plane[slack - grid.layout.shift(offset) :][:size] - plane[slack:][:size]
        for offset, plane in pulls.items()
    )


def volume_at_rest(simplex: Simplex) -> int:
    """Return the volume of a simplex in units of that of a corner, signed as it is turned."""
    return round(float(np.linalg.det(np.array(simplex))))


def _edge(flat: Planes, offset: Offset, grid: Grid) -> Planes:
    layout = grid.layout
    size, slack = math.prod(layout.padded) + 2 * layout.slack, layout.slack
    shift = layout.shift(offset)
    return tuple(
        plane[slack + shift :][:size] - plane[slack:][:size] + float(o)
        for plane, o in zip(flat, offset, strict=True)
    )


def _cofactor(edges: list[Planes], i: int) -> Planes:
    """Gradient of the determinant of `edges` with respect to edge `i`."""
    if len(edges) == 2:
        a, b = edges[1 - i]
        return (b, -a) if i == 0 else (-b, a)
    a, b = edges[(i + 1) % 3], edges[(i + 2) % 3]
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _dot(a: Planes, b: Planes) -> Plane:
    return total(x * y for x, y in zip(a, b, strict=True))
