"""The exact inverse of a displacement field, and how far two fields are from being inverse.

A field is linear along each axis between voxels, and repeats its border outside. In a cell, the
voxels at its corners, the map p + u(p) is smooth, so that Newton's method finds the point that
goes to a voxel q in a few steps if it starts near enough. Few voxels, where the field bends
sharply, are not reached like this. They walk: each step leads towards q, and ends where it leaves
the cell. Where the determinant is positive, the image of the walk is the straight line to q, which
passes from cell to cell and cannot get stuck. Positive determinants of all simplices leave it
negative in few places, within a cell: a walk that ends there begins anew from beside.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.registration._field import compose, sample_field
from jaxml.registration._flat import Planes, total
from jaxml.registration._halo import Window
from jaxml.registration._inputs import check_field
from jaxml.tracing import nan_unless

# Steps of Newton's method, the longest of them in voxels, before a voxel walks. Of real fields
# without folds fewer than one voxel in a thousand is left.
FREE_STEPS, LONGEST = 8, 2.0
# Voxels that are looked at together: each group ends when its last voxel has arrived.
GROUP, GROUPS = 2**14, 64
# What rounding leaves of the residual, in units of the last place of the largest coordinate.
ROUNDING = 4
# A smaller determinant counts as a fold, from which no step of Newton leads to q.
FLAT = 1e-6
ITERATIONS = 200


class _Table(NamedTuple):
    """A field with its border repeated once, voxel after voxel, and its layout."""

    rows: Float[Array, "voxel ndim"]
    strides: tuple[int, ...]
    shape: tuple[int, ...]


class _Place(NamedTuple):
    """Points by their cells, named by their first corners, and by their places in these."""

    cell: Planes
    fraction: Planes


class _Walk(NamedTuple):
    """Points `at`, the steps from there to their targets, and the points to look at `next`.

    Attributes:
      left: square of the residual at `at`.
      step: of Newton's method, from `at`.
      reach: share of the step that may be tried.
      tried: share of the step that led to `next`; 0 where only the cell was changed.
      residual: of `next`, one plane a component.
      slopes: derivative of the map at `next`: row = component, column = axis.
    """

    rounds: Array
    at: _Place
    left: Array
    step: Planes
    reach: Array
    next: _Place
    tried: Array
    residual: Planes
    slopes: tuple[Planes, ...]


def inverse(
    u: Float[Array, "*volume ndim"], *, iterations: int = ITERATIONS
) -> Float[Array, "*volume ndim"]:
    """Return the displacement v of the inverse map, v(q) = -u(q + v(q)) at each voxel q.

    Exact to rounding for a field without folds; `inverse_consistency(u, v)` is the proof. Where
    folds bring several points to one voxel v leads to one of them, or as near as was found.
    Between voxels v is interpolated, so that `compose(v, u)` is not 0, while `compose(u, v)` is.
    Outside of the volume `u` repeats its border.

    `vmap` runs one field after another. The gradient is that of the exact inverse.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`.
      iterations: bound on the steps of a voxel from cell to cell; those of fields without folds
        of any roughness ended within 50.

    Returns:
      Displacement of the same shape.

    Raises:
      ValueError: `u` is no field, or `iterations` is below 1.
    """
    check_field(u=u)
    checks.single_or_double(u=u)
    checks.counts(iterations=iterations)
    return nan_unless(jnp.all(jnp.isfinite(u)), _solve(u, iterations))


@half_as_single
def inverse_consistency(
    u: Float[Array, "*volume ndim"], v: Float[Array, "*volume ndim"]
) -> Float[Array, "*volume"]:
    """Return how far each voxel q is from itself after both maps: the length of v(q) + u(q + v(q)).

    Its maximum proves an inverse. Of the registrations of A to B and of B to A it tells how well
    they agree. A voxel that `v` carries out of the volume is measured with the border of `u`
    repeated, as `inverse` has it.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`, applied last.
      v: displacement of the same shape, applied first.

    Returns:
      `[*volume]` in voxels: 0 where `v` is the inverse of `u`.

    Raises:
      ValueError: `u` or `v` is no field, or their shapes differ.
    """
    square = jnp.sum(compose(u, v) ** 2, axis=-1)
    # The root has no derivative at 0, where both maps undo each other.
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def _inverse(u: Array, iterations: int) -> Array:
    return sequential_vmap(lambda u: _inverse_of_one(u, iterations))(u)


def _forward(u, iterations):
    v = _inverse(u, iterations)
    return v, (u, v)


def _backward(iterations, residuals, cotangent):
    """By the theorem of implicit functions: dv = -(I + Du)^-1 du at q + v(q)."""
    u, v = residuals

    @sequential_vmap
    def turned(u, v, cotangent):
        table, planes = _table(u), lambda x: tuple(jnp.moveaxis(x.reshape(-1, x.shape[-1]), -1, 0))
        voxels = _voxels(jnp.arange(v[..., 0].size, dtype=jnp.int32), table)
        _, slopes = _evaluate(table, _place(voxels, planes(v), table), voxels)
        solved, determinant = _cramer(tuple(zip(*slopes, strict=True)), planes(cotangent))
        # At a fold there is no derivative.
        kept = [_quotient(s, determinant, jnp.abs(determinant) > FLAT, 0) for s in solved]
        return jnp.stack(kept, axis=-1).reshape(v.shape)

    pull = jax.vjp(lambda u: sample_field(u, v), u)[1]
    return pull(-turned(u, v, cotangent))


_differentiable = jax.custom_vjp(_inverse, nondiff_argnums=(1,))
_differentiable.defvjp(_forward, _backward)
# A call outside of jit would compile the loops anew each time.
_solve = jax.jit(_differentiable, static_argnums=1)


def inverse_of_slab(u: Float[Array, "*volume ndim"], window: Window) -> Float[Array, "*slab ndim"]:
    """Return the planes of a slab of the `inverse` of a whole field."""
    return nan_unless(jnp.all(jnp.isfinite(u)), _inverse_of_one(u, ITERATIONS, window))


def _inverse_of_one(u: Array, iterations: int, window: Window | None = None) -> Array:
    table, ndim = _table(u), u.shape[-1]
    first, targets = jnp.int32(0), u
    if window is not None:
        first = window.first * math.prod(table.shape[1:])
        targets = jax.lax.dynamic_slice_in_dim(u, window.first, window.planes)
    size = math.prod(targets.shape[:-1])
    group = min(size, max(GROUP, -(-size // GROUPS)))
    groups = -(-size // group)
    largest = max(table.shape) + jnp.max(jnp.abs(u))
    rounding = (ROUNDING * jnp.finfo(u.dtype).eps * largest) ** 2

    def solve(group: tuple[Array, Array], advance) -> tuple[Array, Array]:
        """Displacement of voxels, and the square of its residual, from their first ones on."""
        voxels = _voxels(first + group[0], table)
        place, square = advance(table, _place(voxels, tuple(group[1].T), table), voxels)
        places = [
            (c - q).astype(u.dtype) + f
            for c, q, f in zip(place.cell, voxels, place.fraction, strict=True)
        ]
        return jnp.stack(places, axis=-1), square

    newton = functools.partial(_newton, rounding=rounding)
    walk = functools.partial(_walk, rounding=rounding, limit=iterations)
    # The last group is filled with the last voxel.
    index = jnp.minimum(jnp.arange(groups * group, dtype=jnp.int32), size - 1)
    starts = -targets.reshape(-1, ndim)
    v, square = jax.lax.map(
        lambda index: solve((index, starts[index]), newton), index.reshape(groups, group)
    )
    v, square = v.reshape(-1, ndim)[:size], square.reshape(-1)[:size]

    # A walk that ended at a fold begins anew from beside: another way leads around it.
    aside = jnp.array([(0,) * ndim, *itertools.product((-1, 1), repeat=ndim)], u.dtype)

    def walk_some(state):
        v, square, waiting, attempt = state
        (index,) = jnp.nonzero(waiting, size=group, fill_value=size)
        index = index.astype(jnp.int32)
        start = v.at[index].get(mode="clip") + aside[attempt][None]
        place, left = solve((index, start), walk)
        nearer = jnp.where(left < square.at[index].get(mode="clip"), index, size)
        v = v.at[nearer].set(place, mode="drop")
        square = square.at[nearer].set(left, mode="drop")
        waiting = waiting.at[index].set(False, mode="drop")
        ends = ~jnp.any(waiting)
        return v, square, waiting | ends & (square > rounding), attempt + ends.astype(jnp.int32)

    def unfinished(state):
        _, _, waiting, attempt = state
        return (attempt < len(aside)) & jnp.any(waiting)

    state = (v, square, square > rounding, jnp.int32(0))
    v, *_ = jax.lax.while_loop(unfinished, walk_some, state)
    return v.reshape(targets.shape)


def _newton(table: _Table, place: _Place, voxels: Planes, *, rounding: Array):
    """Return the places after free steps of Newton's method, and the squares of the residuals."""

    def unfinished(state):
        count, _, residual, _ = state
        return (count < FREE_STEPS) & jnp.any(_square(residual) > rounding)

    def advance(state):
        count, place, residual, slopes = state
        waits = _square(residual) > rounding
        step = _newton_step(residual, slopes)
        step = tuple(jnp.where(waits, jnp.clip(s, -LONGEST, LONGEST), 0) for s in step)
        place = _moved(place, step, table)
        return count + 1, place, *_evaluate(table, place, voxels)

    start = (jnp.int32(0), place, *_evaluate(table, place, voxels))
    _, place, residual, _ = jax.lax.while_loop(unfinished, advance, start)
    return place, _square(residual)


def _walk(table: _Table, place: _Place, voxels: Planes, *, rounding: Array, limit: int):
    """Return the places after steps that end where they leave a cell, and squares of residuals."""

    def unfinished(walk):
        return (walk.rounds < limit) & jnp.any(
            jnp.minimum(walk.left, _square(walk.residual)) > rounding
        )

    def judge(walk: _Walk) -> tuple[Array, _Place, Array]:
        square = _square(walk.residual)
        # A step of 0 goes on in another cell. Any other has to come nearer to the target.
        better = (square < walk.left) | (walk.tried == 0)
        at = jax.tree.map(lambda new, old: jnp.where(better, new, old), walk.next, walk.at)
        return better, at, jnp.where(better, square, walk.left)

    def advance(walk: _Walk) -> _Walk:
        better, at, left = judge(walk)
        choose = lambda new, old: jnp.where(better, new, old)
        step = tuple(map(choose, _newton_step(walk.residual, walk.slopes), walk.step))
        reach = choose(jnp.minimum(2 * walk.reach, 1), walk.tried / 4)
        ahead, tried = _to_the_face(at, step, jnp.where(left > rounding, reach, 0), table)
        residual, slopes = _evaluate(table, ahead, voxels)
        return _Walk(walk.rounds + 1, at, left, step, reach, ahead, tried, residual, slopes)

    residual, slopes = _evaluate(table, place, voxels)
    still = jnp.zeros_like(residual[0])
    start = _Walk(
        jnp.int32(0), place, still + jnp.inf, residual, still + 1, place, still, residual, slopes
    )
    _, at, left = judge(jax.lax.while_loop(unfinished, advance, start))
    return at, left


def _to_the_face(at: _Place, step: Planes, reach: Array, table: _Table) -> tuple[_Place, Array]:
    """Return the places after a share of the step, in the next cell where a face is reached."""
    shares, tried = [], reach
    for cell, fraction, s, n in zip(at.cell, at.fraction, step, table.shape, strict=True):
        # The outermost cells have no end: beyond them the border is repeated.
        first, last = jnp.where(cell < 0, -jnp.inf, 0.0), jnp.where(cell >= n - 1, jnp.inf, 1.0)
        room = jnp.where(s > 0, last, first).astype(s.dtype) - fraction
        # Rounding may have left the point a little outside of its cell.
        share = jnp.maximum(room / jnp.where(s == 0, 1, s), 0)
        shares.append(jnp.where(s == 0, jnp.inf, share))
        tried = jnp.minimum(tried, shares[-1])
    cells, fractions, free = [], [], reach > 0
    for cell, fraction, s, share in zip(at.cell, at.fraction, step, shares, strict=True):
        # Through one face at a time; at an edge the next one follows with a step of 0.
        leaves = free & (share == tried)
        free = free & ~leaves
        up = s > 0
        cells.append(cell + jnp.where(leaves, jnp.where(up, 1, -1), 0).astype(cell.dtype))
        entered = jnp.where(up, 0.0, 1.0).astype(s.dtype)
        fractions.append(jnp.where(leaves, entered, fraction + tried * s))
    return _Place(tuple(cells), tuple(fractions)), tried


def _table(u: Array) -> _Table:
    shape = u.shape[:-1]
    padded = [n + 2 for n in shape]
    strides = tuple(math.prod(padded[axis + 1 :]) for axis in range(len(shape)))
    rows = jnp.pad(u, [*[(1, 1)] * len(shape), (0, 0)], mode="edge").reshape(-1, u.shape[-1])
    return _Table(rows, strides, shape)


def _voxels(index: Array, table: _Table) -> Planes:
    return tuple(jnp.unravel_index(index, table.shape))


def _place(voxels: Planes, displacement: Planes, table: _Table) -> _Place:
    return _moved(_Place(voxels, tuple(map(jnp.zeros_like, displacement))), displacement, table)


def _moved(place: _Place, step: Planes, table: _Table) -> _Place:
    cells, fractions = [], []
    for cell, fraction, s, n in zip(*place, step, table.shape, strict=True):
        fraction = fraction + s
        # The outermost cells are those before the first voxel and after the last.
        first, last = (-1 - cell).astype(s.dtype), (n - 1 - cell).astype(s.dtype)
        cells_on = jnp.clip(jnp.floor(fraction), first, last)
        cells.append(cell + cells_on.astype(cell.dtype))
        fractions.append(fraction - cells_on)
    return _Place(tuple(cells), tuple(fractions))


def _evaluate(table: _Table, place: _Place, voxels: Planes) -> tuple[Planes, tuple[Planes, ...]]:
    """Return p + u(p) - q, and the derivative of p + u(p): row = component, column = axis."""
    ndim = len(voxels)
    index = total((c + 1) * s for c, s in zip(place.cell, table.strides, strict=True))
    read: dict[tuple[int, ...], Array] = {
        corner: table.rows.at[index + sum(map(int.__mul__, corner, table.strides))].get(
            mode="promise_in_bounds"
        )
        for corner in itertools.product((0, 1), repeat=ndim)
    }

    def interpolate(axis: int, corner: tuple[int, ...]) -> tuple[Array, Planes]:
        if axis == ndim:
            return read[corner], ()
        low, low_slopes = interpolate(axis + 1, (*corner, 0))
        high, high_slopes = interpolate(axis + 1, (*corner, 1))
        between = lambda a, b: a + place.fraction[axis][:, None] * (b - a)
        return between(low, high), (high - low, *map(between, low_slopes, high_slopes))

    value, columns = interpolate(0, ())
    residual = tuple(
        (c - q).astype(f.dtype) + f + value[:, k]
        for k, (c, q, f) in enumerate(zip(place.cell, voxels, place.fraction, strict=True))
    )
    slopes = tuple(
        tuple(column[:, k] + float(k == axis) for axis, column in enumerate(columns))
        for k in range(ndim)
    )
    return residual, slopes


def _newton_step(residual: Planes, slopes: tuple[Planes, ...]) -> Planes:
    """Return -slopes^-1 residual; where the map is folded -residual, as if it were at rest."""
    solved, determinant = _cramer(slopes, residual)
    return tuple(
        -_quotient(s, determinant, determinant > FLAT, r)
        for s, r in zip(solved, residual, strict=True)
    )


def _cramer(rows: tuple[Planes, ...], right: Planes) -> tuple[Planes, Array]:
    """Return det(rows) times the solution x of rows x = right, and det(rows)."""
    columns = tuple(zip(*rows, strict=True))
    if len(columns) == 2:
        determinant = lambda a, b: a[0] * b[1] - a[1] * b[0]
    else:
        determinant = lambda a, b, c: (
            a[0] * (b[1] * c[2] - b[2] * c[1])
            + a[1] * (b[2] * c[0] - b[0] * c[2])
            + a[2] * (b[0] * c[1] - b[1] * c[0])
        )
    replaced = lambda k: (*columns[:k], right, *columns[k + 1 :])
    return tuple(determinant(*replaced(k)) for k in range(len(columns))), determinant(*columns)


def _quotient(a: Array, b: Array, divides: Array, otherwise) -> Array:
    return jnp.where(divides, a / jnp.where(divides, b, 1), otherwise)


def _square(residual: Planes) -> Array:
    return total(r * r for r in residual)
