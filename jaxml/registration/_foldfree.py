"""The nearest displacement field without folds."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.registration._extent import Size, cut, halved_size, within
from jaxml.registration._flat import (
    Plane,
    Planes,
    components,
    flatten,
    inside,
    interior,
    neighbor_mean,
    total,
)
from jaxml.registration._halo import (
    THINNEST,
    Split,
    across,
    checked_split,
    on_slabs,
    seen,
    slab_of,
    split_of,
    window_of,
    windows,
)
from jaxml.registration._inputs import check_field
from jaxml.registration._resolution import double, halve
from jaxml.registration._tetrahedra import Grid, correction, multipliers, simplex_grid
from jaxml.tracing import nan_unless

# Larger values of these three end sooner and change the field more (measured on fields of a
# network and on random ones). A determinant below epsilon is moved to epsilon + MARGIN.
# Simplices that share a voxel are corrected at the same time, hence RELAXATION of the step of
# each; SPREAD of the correction is handed on to the neighbors.
MARGIN, RELAXATION, SPREAD = 0.05, 0.25, 0.7
# Volumes with a shorter axis are not looked at in half the resolution.
COARSEST = 32
# Every PERIOD-th iteration smooths the voxels with a negative determinant instead: a simplex
# that is turned inside out sits at a local optimum, and no gradient leads out of it.
PERIOD = 5
# From iteration PATIENCE on, every second iteration smooths around all folds that are left.
PATIENCE = 40
EPSILON, MAX_ITERATIONS = 0.01, 500
# An iteration reads the planes up to so many away.
REACH = 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FoldFree:
    """A field after the projection.

    Attributes:
      displacement: the field, in voxels.
      folds: number of voxels with a determinant below epsilon that are left; 0 if it ended.
      iterations: number of iterations that were run.
      change_rms: root mean square, over voxels and components, of the change in voxels.
    """

    displacement: Float[Array, "*volume ndim"]
    folds: Int[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    change_rms: Float[Array, "*batch"]


def fold_free(
    u: Float[Array, "*volume ndim"],
    *,
    epsilon: float = EPSILON,
    scheme: str = "digital",
    max_iterations: int = MAX_ITERATIONS,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> FoldFree:
    """Return a field close to `u` whose determinants are all at least epsilon.

    A field with folds first gets the correction of its means over 2 voxels an axis, so that
    folds many voxels wide are undone at their own size. Each iteration is a Gauss-Newton step
    of the constraints det >= epsilon that are violated, taken for all simplices at once and
    handed on to the neighbors; voxels that stay folded are smoothed over regions that grow,
    which ends because a smooth enough field has no fold.
    A field that fulfils the constraints is returned as it is. Voxels far from folds never
    change. It is near the closest field in the mean square, not proven to be the closest.

    `vmap` runs one field after another. The gradient is the exact derivative of the iterations
    that were run: they are run again from the square root of their number of stored states.
    With a mesh each device works on its slab of the volume, and there is no gradient.

    Args:
      u: displacement in voxels, `[H, W, 2]` or `[D, H, W, 3]`; with a mesh the first axis is or
        gets split.
      epsilon: smallest determinant, relative to a field at rest; above 0 and below 0.9.
      scheme: "digital" for all simplices of a voxel, which implies forward, backward and
        central differences, but not the five-point ones of ANTs; or "forward" or "backward"
        alone, which changes less.
      max_iterations: bound on the iterations at each of the two resolutions; real fields of
        160 x 192 x 224 took 50 to 150 in all.
      mesh: that has `axis`, such as `sharding.data_mesh()`; None for one device.
      axis: of the mesh.

    Returns:
      `FoldFree`: the field, and what is left of its folds.

    Raises:
      ValueError: `u` is no field or not finite, its planes do not divide over the devices, or
        another argument is out of its range.
    """
    check_field(u=u)
    checks.single_or_double(u=u)
    checks.between(0, 0.9, epsilon=epsilon)
    checks.counts(least=0, max_iterations=max_iterations)
    split = checked_split(mesh, axis)
    if split is not None:
        _check_slabs(u, split)
    limits = (scheme, epsilon, max_iterations)
    displacement, folds, iterations = _projected_field(u, *limits, split)
    square = jnp.mean((displacement - u) ** 2)
    # The root has no derivative at 0, where nothing was changed.
    change_rms = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    result = FoldFree(displacement, folds, iterations, change_rms)
    return nan_unless(jnp.all(jnp.isfinite(u)), result)


def unfolded(planes: Planes, size: Size, split: Split | None = None) -> Planes:
    """Return the planes that `fold_free` has for a field in planes.

    Args:
      planes: displacement in voxels, one plane a component.
      size: of the volume, where it does not fill the planes.
      split: where the planes are slabs of it.
    """
    projected, _, _ = _projected(planes, size, "digital", EPSILON, MAX_ITERATIONS, split)
    own = window_of(planes[0].shape[0], 0, split)
    bad = total(jnp.sum(~jnp.isfinite(cut(p, seen(size, own))), dtype=jnp.int32) for p in planes)
    return nan_unless(across(bad, split) == 0, projected)


def _check_slabs(u: Array, split: Split) -> None:
    if split_of(u.shape, split) is None:
        accepted = (
            f"{THINNEST} or more planes on the first axis for each of {split.devices} devices"
        )
        raise checks.refused("u", u, f"{accepted}, an even number on each")


def _projected_field(
    u: Array, scheme: str, epsilon: float, limit: int, split: Split | None
) -> tuple[Array, Array, Array]:
    """Return the field without folds, the folds left, and the iterations."""
    if split is None:
        planes, folds, iterations = _projected(components(u), None, scheme, epsilon, limit)
        return jnp.stack(planes, axis=-1), folds, iterations
    return _in_slabs(u, scheme, epsilon, limit, split)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _in_slabs(u: Array, scheme: str, epsilon: float, limit: int, split: Split):
    def project(u: Array, size: Size) -> tuple[Array, Array, Array]:
        planes, folds, iterations = _projected(components(u), size, scheme, epsilon, limit, split)
        return jnp.stack(planes, axis=-1), folds, iterations

    return on_slabs(project, split, u, u.shape[:-1], (True, False, False))


def _projected(
    planes: Planes, size: Size, scheme: str, epsilon: float, limit: int, split: Split | None = None
) -> tuple[Planes, Array, Array]:
    """Return the planes without folds, the folds left, and the iterations."""
    start, before = _corrected_by_means(planes, size, scheme, epsilon, limit, split)
    planes, folds, iterations = _iterate(start, size, scheme, epsilon, limit, split)
    return planes, folds, before + iterations


# A call outside of jit would compile the branches anew each time.
@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _corrected_by_means(
    planes: Planes, size: Size, scheme: str, epsilon: float, limit: int, split: Split | None
) -> tuple[Planes, Array]:
    """Return the planes after the correction of their means, and the iterations of that."""
    none, shape = jnp.int32(0), planes[0].shape
    devices = 1 if split is None else split.devices
    if min(shape[0] * devices, *shape[1:]) < COARSEST:
        return planes, none

    def correct(planes: Planes) -> tuple[Planes, Array]:
        # Half as many voxels: displacements in voxels are half as large.
        own = window_of(shape[0], 0, split)
        means = tuple(halve(p, size=seen(size, own)) / 2 for p in planes)
        fewer = halved_size(size, range(len(shape)))
        corrected, _, iterations = _iterate(means, fewer, scheme, epsilon, limit, split)
        change = tuple(c - m for c, m in zip(corrected, means, strict=True))
        fine = double(change, shape, fewer, split)
        return tuple(p + c for p, c in zip(planes, fine, strict=True)), iterations

    *_, folds = _looked_at(planes, _cold(planes), size, scheme, epsilon, split)
    is_large = functools.reduce(jnp.minimum, size or shape) >= COARSEST
    return jax.lax.cond((folds > 0) & is_large, correct, lambda planes: (planes, none), planes)


def _iterate(
    planes: Planes, size: Size, scheme: str, epsilon: float, limit: int, split: Split | None
) -> tuple[Planes, Array, Array]:
    """Return the planes after the last iteration, the folds left, and the iterations."""
    if split is None:
        return _on_one_device(planes, size, scheme, epsilon, limit)
    return _iterations(planes, size, scheme, epsilon, limit, split)


def _iterations(planes, size, scheme, epsilon, limit, split):
    window = window_of(planes[0].shape[0], REACH, split)

    @sequential_vmap
    def run(planes, size):
        def advance(state):
            i, near, heat, measured, _ = state
            grid = simplex_grid(heat.shape, scheme=scheme)
            near, heat = _step(i, near, heat, measured, seen(size, window), grid, epsilon)
            *planes, heat = (slab_of(p, window) for p in (*near, heat))
            return i + 1, *_looked_at(tuple(planes), heat, size, scheme, epsilon, split)

        start = _looked_at(planes, _cold(planes), size, scheme, epsilon, split)
        unfinished = lambda state: (state[0] < limit) & (state[-1] > 0)
        state = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), *start))
        i, near, *_, folds = state
        return tuple(slab_of(p, window) for p in near), folds, i

    return run(planes, size)


def _looked_at(planes: Planes, heat: Plane, size: Size, scheme: str, epsilon: float, split):
    """Return windows of planes and heat, what is measured there, and the folds of the volume."""
    (*near, heat), window = windows((*planes, heat), REACH, split)
    near, grid = tuple(near), simplex_grid(heat.shape, scheme=scheme)
    measured = _measure(grid, epsilon, seen(size, window))(near)
    smallest = measured[-1]
    if window is not None:
        smallest = slab_of(interior(smallest, grid.layout), window)
    folds = across(jnp.sum(~(smallest >= epsilon), dtype=jnp.int32), split)
    return near, heat, measured, folds


def _iterations_alone(planes, size, scheme, epsilon, limit):
    return _iterations(planes, size, scheme, epsilon, limit, None)


def _iterations_forward(planes, size, scheme, epsilon, limit):
    planes_out, folds, iterations = _iterations_alone(planes, size, scheme, epsilon, limit)
    return (planes_out, folds, iterations), (planes, size, iterations)


def _iterations_backward(scheme, epsilon, limit, residuals, cotangents):
    """Pull the cotangent back through the iterations, last first.

    Their states are too many to keep. The first run keeps every `stride`-th, and each stretch
    between two of them is run again with all of its states kept.
    """
    stride = max(1, math.isqrt(limit))
    planes, size, iterations = residuals
    grid = simplex_grid(planes[0].shape, scheme=scheme)

    @sequential_vmap
    def run(planes, size, iterations, cotangent):
        measure = _measure(grid, epsilon, size)
        step = lambda i, planes, heat: _step(i, planes, heat, measure(planes), size, grid, epsilon)
        keep = lambda kept, k, state: jax.tree.map(lambda b, x: b.at[k].set(x), kept, state)
        empty = lambda n: jax.tree.map(
            lambda x: jnp.zeros((n, *x.shape), x.dtype), (planes, _cold(planes))
        )

        def forward(i, carry):
            state, kept = carry
            kept = jax.lax.cond(
                i % stride == 0, lambda: keep(kept, i // stride, state), lambda: kept
            )
            return step(i, *state), kept

        start = (planes, _cold(planes))
        _, kept = jax.lax.fori_loop(0, iterations, forward, (start, empty(limit // stride + 1)))

        def stretch(j, cotangent):
            first = (stretches - 1 - j) * stride
            count = jnp.minimum(stride, iterations - first)
            start = jax.tree.map(lambda b: b[first // stride], kept)
            again = lambda k, c: (step(first + k, *c[0]), keep(c[1], k, c[0]))
            _, states = jax.lax.fori_loop(0, count, again, (start, empty(stride)))

            def back(k, cotangent):
                k = count - 1 - k
                planes, heat = jax.tree.map(lambda b: b[k], states)
                pull = jax.vjp(lambda p: step(first + k, p, heat)[0], planes)[1]
                return pull(cotangent)[0]

            return jax.lax.fori_loop(0, count, back, cotangent)

        stretches = (iterations + stride - 1) // stride
        return jax.lax.fori_loop(0, stretches, stretch, cotangent)

    return run(planes, size, iterations, cotangents[0]), None


_differentiable = jax.custom_vjp(_iterations_alone, nondiff_argnums=(2, 3, 4))
_differentiable.defvjp(_iterations_forward, _iterations_backward)
# A call outside of jit would compile the loops anew each time.
_on_one_device = jax.jit(_differentiable, static_argnums=(2, 3, 4))


def _measure(grid: Grid, epsilon: float, size: Size):
    """Return the function of planes to (flat planes, step a simplex, smallest determinant)."""
    mask = inside(grid.layout, size)

    def measure(planes: Planes) -> tuple[Planes, list[Plane], Plane]:
        flat = flatten(planes, grid.layout, size)
        steps, smallest = multipliers(flat, mask, grid, below=epsilon, target=epsilon + MARGIN)
        return flat, steps, smallest

    return measure


def _cold(planes: Planes) -> Plane:
    return jnp.zeros_like(planes[0])


def _step(i, planes: Planes, heat: Plane, measured, size: Size, grid: Grid, epsilon: float):
    """Return planes and heat after iteration `i`, a correction or a smoothing."""
    late = i >= PATIENCE
    smoothing = jnp.where(late, i % 2 == 0, i % PERIOD == PERIOD - 1)
    smooth = functools.partial(_smooth, i, late, size=size, grid=grid, epsilon=epsilon)
    correct = functools.partial(_correct, size=size, grid=grid)
    return jax.lax.cond(smoothing, smooth, correct, planes, heat, *measured)


def _correct(planes: Planes, heat: Plane, flat, steps, smallest, *, size: Size, grid: Grid):
    pull = correction(flat, steps, grid, size)
    spread = neighbor_mean(flatten(pull, grid.layout, size), grid.layout)
    planes = tuple(
        c + RELAXATION * (p + SPREAD * s) for c, p, s in zip(planes, pull, spread, strict=True)
    )
    return planes, heat


def _smooth(i, late, planes: Planes, heat: Plane, flat, steps, smallest, *, size, grid, epsilon):
    """Move folded voxels, and late in the run their surroundings, to the mean of neighbors.

    Heat is 1 on a fold and fades by `decay` a voxel from it, always less as time passes: in
    the end it reaches everywhere.
    """
    smallest = interior(smallest, grid.layout)
    folded = (smallest < jnp.where(late, epsilon, 0.0)).astype(heat.dtype)
    decay = jnp.minimum(0.3 + 0.005 * (i - PATIENCE).astype(heat.dtype), 0.95)
    spread = jnp.maximum(folded, decay * _largest_neighbor(heat))
    heat = jnp.where(late & (spread > 1e-3) & within(heat.shape, size), spread, 0)
    weight = jnp.maximum(heat, folded)
    mean = neighbor_mean(flat, grid.layout)
    return tuple(c + weight * (m - c) for c, m in zip(planes, mean, strict=True)), heat


def _largest_neighbor(plane: Plane) -> Plane:
    for axis in range(plane.ndim):
        window = [3 if a == axis else 1 for a in range(plane.ndim)]
        plane = jax.lax.reduce_window(
            plane, -jnp.inf, jax.lax.max, window, (1,) * plane.ndim, "SAME"
        )
    return plane
