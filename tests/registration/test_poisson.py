"""The Poisson solver against scipy's transforms and against the difference operator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from jaxml.registration._poisson import poisson_solve

SHAPES = [(5,), (8, 7), (7, 9, 8)]


def random(shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_dirichlet_matches_scipy(shape, dtype, tolerance):
    rhs = random(shape).astype(dtype)
    inner = (slice(1, -1),) * len(shape)
    axes = [2 * np.cos(np.pi * np.arange(1, n - 1) / (n - 1)) - 2 for n in shape]
    spectrum = scipy.fft.dstn(rhs[inner].astype(float), 1) / functools.reduce(np.add.outer, axes)
    expected = np.pad(scipy.fft.idstn(spectrum, 1), 1)
    got = poisson_solve(jnp.asarray(rhs))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_neumann_solves_the_difference_equation(shape):
    rhs = random(shape)
    padded = np.pad(np.asarray(poisson_solve(jnp.asarray(rhs), boundary="neumann")), 1, mode="edge")
    center = lambda a: tuple(slice(1, -1) if k != a else slice(None) for k in range(len(shape)))
    laplacian = sum(np.diff(padded[center(a)], 2, axis=a) for a in range(len(shape)))
    np.testing.assert_allclose(laplacian, rhs - rhs.mean(), atol=1e-12)


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann"])
def test_self_adjoint_and_batched(boundary):
    solve = functools.partial(poisson_solve, boundary=boundary)
    x, y = jnp.asarray(random((2, 6, 5, 7)))
    np.testing.assert_allclose(jax.vjp(solve, x)[1](y)[0], solve(y), atol=1e-12)
    together = jax.vmap(solve)(jnp.stack([x, y]))
    np.testing.assert_allclose(together[1], solve(y), atol=1e-13)


def test_bad_input_is_named(unchecked):
    with pytest.raises(
        ValueError, match=r"rhs=float64\[4, 2\]: accepted is axes of 3 voxels or more"
    ):
        poisson_solve(jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match="boundary='periodic': accepted is one of 'dirichlet'"):
        poisson_solve(jnp.zeros((4, 4)), boundary="periodic")
