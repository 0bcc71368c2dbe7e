"""Determinants on simplices against numpy, and the correction against their VJP."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplices_reference as reference

from jaxml.registration import jacobian_determinant, min_jacobian_determinant
from jaxml.registration._flat import components, flatten, inside, interior, neighbor_mean
from jaxml.registration._tetrahedra import correction, determinants, multipliers, simplex_grid

EACH_VOLUME = pytest.mark.parametrize("shape", [(5, 6), (4, 3, 5)])


def field(shape, seed=0):
    return 0.8 * np.random.default_rng(seed).standard_normal((*shape, len(shape)))


def flat_mask(volume, grid):
    """A plane of the volume as a flat plane with slack of 1, 0 outside."""
    return jnp.pad(jnp.pad(volume, 1).reshape(-1), grid.layout.slack)


def determinant_volumes(planes, grid):
    flat = flatten(planes, grid.layout)
    return [interior(d, grid.layout) for d in determinants(flat, grid)]


@EACH_VOLUME
def test_simplices_are_the_corners_and_the_central_tetrahedra(shape):
    grid = simplex_grid(shape)
    as_set = lambda simplices: {frozenset(map(tuple, np.array(s).tolist())) for s in simplices}
    assert len(grid.simplices) == {2: 4, 3: 10}[len(shape)]
    assert as_set(grid.simplices) == as_set(reference.simplices(len(shape)))
    one = [simplex_grid(shape, scheme=s).simplices for s in ("forward", "backward")]
    assert one == [(tuple(map(tuple, s * np.eye(len(shape), dtype=int))),) for s in (1, -1)]


@EACH_VOLUME
def test_determinants_equal_a_loop_over_voxels(shape):
    u = field(shape)
    grid = simplex_grid(shape)
    found = determinant_volumes(components(jnp.asarray(u)), grid)
    for simplex, volume in zip(grid.simplices, found, strict=True):
        for p in np.ndindex(*shape):
            edges = []
            for offset in simplex:
                q = tuple(
                    min(max(i + o, 0), n - 1) for i, o, n in zip(p, offset, shape, strict=True)
                )
                edges.append(np.array(offset) + u[q] - u[p])
            expected = np.linalg.det(edges) / np.linalg.det(simplex)
            np.testing.assert_allclose(volume[p], expected, rtol=1e-12, atol=1e-12)


@EACH_VOLUME
def test_min_jacobian_determinant(shape):
    u = field(shape)
    np.testing.assert_allclose(
        min_jacobian_determinant(jnp.asarray(u)), reference.smallest(u), atol=1e-12
    )


@EACH_VOLUME
@pytest.mark.parametrize("scheme, sign", [("forward", 1), ("backward", -1)])
def test_one_sided_differences_are_corners(shape, scheme, sign):
    u = field(shape)
    expected = reference.determinant(u, sign * np.eye(len(shape), dtype=int))
    found = jacobian_determinant(jnp.asarray(u), scheme=scheme)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@EACH_VOLUME
def test_central_differences_are_the_mean_of_corners(shape):
    """At a border of those that point into the volume: positive corners make it positive."""
    u = field(shape)
    found = jacobian_determinant(jnp.asarray(u), scheme="central")
    corner = {tuple(np.diag(s)): reference.determinant(u, s) for s in reference.corners(len(shape))}
    for p in np.ndindex(*shape):
        signs = [
            (1,) if i == 0 else (-1,) if i == n - 1 else (1, -1)
            for i, n in zip(p, shape, strict=True)
        ]
        mean = np.mean([corner[s][p] for s in itertools.product(*signs)])
        np.testing.assert_allclose(found[p], mean, atol=1e-12)


@EACH_VOLUME
@pytest.mark.parametrize("scheme", ["digital", "forward", "backward"])
def test_correction_is_the_vjp_of_the_determinants(shape, scheme):
    grid = simplex_grid(shape, scheme=scheme)
    planes = components(jnp.asarray(field(shape)))
    weights = np.random.default_rng(1).standard_normal((len(grid.simplices), *shape))
    steps = [flat_mask(w, grid) for w in jnp.asarray(weights)]
    found = correction(flatten(planes, grid.layout), steps, grid)
    pull = jax.vjp(lambda planes: determinant_volumes(planes, grid), planes)[1]
    (expected,) = pull(list(jnp.asarray(weights)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_no_step_is_no_correction():
    grid = simplex_grid((4, 5))
    flat = flatten(components(jnp.asarray(field((4, 5)))), grid.layout)
    steps = [flat_mask(jnp.zeros(grid.layout.shape), grid)] * len(grid.simplices)
    for plane in correction(flat, steps, grid):
        np.testing.assert_array_equal(plane, np.zeros((4, 5)))


@EACH_VOLUME
def test_multipliers_are_gauss_newton_steps(shape):
    u, below, target = field(shape), 0.3, 0.5
    grid = simplex_grid(shape)
    flat = flatten(components(jnp.asarray(u)), grid.layout)
    mask = inside(grid.layout)
    steps, low = multipliers(flat, mask, grid, below=below, target=target)
    np.testing.assert_allclose(
        interior(low, grid.layout), np.minimum(reference.smallest(u), 1), atol=1e-12
    )
    np.testing.assert_array_equal(low[~mask], 1)
    for simplex, step in zip(grid.simplices, steps, strict=True):
        np.testing.assert_array_equal(step[~mask], 0)
        for p in np.ndindex(*shape):
            there = np.clip(np.add(p, simplex), 0, np.array(shape) - 1)
            edges = np.array(simplex) + u[tuple(there.T)] - u[p]
            volume = np.linalg.det(simplex)
            d = np.linalg.det(edges) / volume
            gradient = d * np.linalg.inv(edges).T
            norm = np.sum(gradient**2) + np.sum(np.sum(gradient, axis=0) ** 2)
            expected = (target - d) / (norm + 1e-3) if d < below else 0
            np.testing.assert_allclose(
                interior(step, grid.layout)[p], expected, rtol=1e-9, atol=1e-12
            )


@EACH_VOLUME
def test_neighbor_mean(shape):
    u = field(shape)
    grid = simplex_grid(shape)
    means = neighbor_mean(flatten(components(jnp.asarray(u)), grid.layout), grid.layout)
    for k, found in enumerate(means):
        padded = np.pad(u[..., k], 1, mode="edge")
        total = u[..., k].copy()
        for axis in range(len(shape)):
            for start in (0, 2):
                window = [slice(1, -1)] * len(shape)
                window[axis] = slice(start, start + shape[axis])
                total += padded[tuple(window)]
        np.testing.assert_allclose(found, total / (2 * len(shape) + 1), atol=1e-14)


def test_unknown_scheme_is_named():
    with pytest.raises(
        ValueError, match="scheme='other': accepted is one of 'digital', 'forward', 'b"
    ):
        simplex_grid((4, 4), scheme="other")
