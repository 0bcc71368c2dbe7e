"""The exponential against exact integer arithmetic, scipy, determinants and finite differences."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxml.registration import expm
from jaxml.registration._expm import exp_planes

CALLS = expm, jax.jit(expm), jax.jit(jax.vmap(expm))
NORMS = (1e-8, 1e-4, 1e-2, 0.1, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 10)
EACH_SIZE = pytest.mark.parametrize("n", [2, 3])


def similar(matrix, count=20):
    """Return matrices P matrix P^-1 with random P."""
    p = np.random.default_rng(0).normal(size=(count, *matrix.shape)) + 2 * np.eye(len(matrix))
    return p @ matrix @ np.linalg.inv(p)


def kinds(n):
    rng = np.random.default_rng(1)
    full, shift = rng.normal(size=(60, n, n)), np.diag(np.ones(n - 1), 1)
    transposed = full.transpose(0, 2, 1)
    mirror = np.diag([-1.0] + [1.0] * (n - 1))
    rotation = np.zeros((n, n))
    rotation[:2, :2] = [[0, 1], [-1, 0]]
    repeated = np.diag([1.0] * (n - 1) + [2.0])
    mirrors = np.concatenate([similar(mirror), mirror[None]])
    return np.concatenate(
        [
            full,
            full + transposed,
            full - transposed,
            np.triu(full[:20]),
            full[:20, :, :1] * transposed[:20, :1],
            similar(shift),
            similar(np.eye(n) + shift),
            similar(-np.eye(n) - shift),
            similar(repeated),
            similar(repeated + 1e-6 * np.diag(np.arange(n))),
            similar(rotation),
            mirrors,
            -mirrors,
            np.eye(n)[None],
            -np.eye(n)[None],
        ]
    )


def exact(a, bits=160):
    """Sum the series in integers of 160 binary places: scipy loses 1e-12 at a norm of 10."""
    fixed = np.vectorize(lambda x: int(x * 2.0**100) << (bits - 100), otypes=[object])
    a = fixed(a)
    total = term = fixed(np.broadcast_to(np.eye(a.shape[-1]), a.shape))
    for k in range(1, 80):
        term = (term @ a >> bits) // k
        total = total + term
    return np.vectorize(lambda x: x / (1 << bits), otypes=[float])(total)


def with_norm(a, norm):
    return a / np.linalg.norm(a, axis=(1, 2), keepdims=True) * norm


def relative_error(found, expected):
    error = np.linalg.norm(np.asarray(found, float) - expected, axis=(1, 2))
    return np.max(error / np.linalg.norm(expected, axis=(1, 2)))


@EACH_SIZE
@pytest.mark.parametrize("norm", NORMS)
def test_float32_is_rounded_once(n, norm):
    a = with_norm(kinds(n), norm).astype(np.float32)
    expected = scipy.linalg.expm(a.astype(float))
    for call in CALLS:
        found = call(jnp.asarray(a))
        assert found.dtype == np.float32
        assert relative_error(found, expected) <= 1.2e-7


@EACH_SIZE
@pytest.mark.parametrize("norm", NORMS)
def test_float32_planes_are_within_rounding_of_the_entries(n, norm):
    a = with_norm(kinds(n), norm).astype(np.float32)
    rows = exp_planes([[jnp.asarray(a[:, i, j]) for j in range(n)] for i in range(n)])
    found = np.moveaxis(np.asarray(rows), -1, 0)
    assert found.dtype == np.float32
    # One rounding of the entries alone costs 0.6e-7 times the norm.
    tolerance = 5e-7 if norm <= 4 else 1.5e-7 * norm
    assert relative_error(found, scipy.linalg.expm(a.astype(float))) <= tolerance


@EACH_SIZE
def test_float32_needs_no_x64(n):
    a = jnp.asarray(with_norm(kinds(n), 10.0).astype(np.float32))
    with jax.enable_x64(False):
        found, slope = jax.jit(expm)(a), jax.grad(lambda a: jnp.sum(expm(a)))(a[0])
    np.testing.assert_array_equal(found, expm(a))
    assert slope.dtype == np.float32
    expected = jax.grad(lambda a: jnp.sum(expm(a)))(a[0].astype("float64"))
    np.testing.assert_allclose(slope, expected, rtol=2e-5, atol=2e-5 * np.max(np.abs(expected)))


@EACH_SIZE
@pytest.mark.parametrize("norm", NORMS)
def test_float64_is_exact_to_1e_14(n, norm):
    a = with_norm(kinds(n)[::3], norm)
    assert relative_error(expm(jnp.asarray(a)), exact(a)) <= 1e-14


@EACH_SIZE
def test_series_reaches_to_where_the_next_squaring_begins(n):
    """The row sum decides on squarings; the traceless part of a mirror exceeds it most."""
    mirror = np.diag([-1.0] + [1.0] * (n - 1))
    a = np.stack([s * r * 0.9999 * mirror for s in (1, -1) for r in (3, 4, 6, 8)])
    assert relative_error(expm(jnp.asarray(a)), exact(a)) <= 1e-14
    assert relative_error(expm(jnp.asarray(a, np.float32)), exact(a)) <= 1e-6


@EACH_SIZE
def test_determinant_is_the_exponential_of_the_trace(n):
    a = with_norm(kinds(n), 3.0)
    found = np.linalg.det(expm(jnp.asarray(a)))
    np.testing.assert_allclose(found, np.exp(np.trace(a, axis1=1, axis2=2)), rtol=1e-11)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=9, max_size=9))
def test_exponential_of_the_negative_is_the_inverse(entries):
    a = jnp.asarray(entries).reshape(3, 3)
    both = jax.jit(expm)(jnp.stack([a, -a]))
    np.testing.assert_allclose(both[0] @ both[1], np.eye(3), atol=1e-9)


@EACH_SIZE
@pytest.mark.parametrize("norm", [0.0, 1e-8, 0.7, 3.1, 9.0])
def test_gradients_equal_finite_differences(n, norm):
    a = kinds(n)[[0, 60, 120, 220, 240, 260, 320, 340, 341, -1]]
    check_grads(jax.jit(expm), (jnp.asarray(with_norm(a, norm)),), order=1, rtol=1e-6, atol=1e-6)


@EACH_SIZE
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_second_derivative_at_repeated_eigenvalues(n, scale):
    """exp(s I + t E) = e^s exp(t E), whose second derivative at t = 0 is e^s E^2."""
    e = jnp.asarray(kinds(n)[0])
    curve = lambda t: expm(scale * jnp.eye(n) + t * e)
    speed = lambda t: jax.jvp(curve, (t,), (jnp.ones(()),))[1]
    second = jax.jvp(speed, (jnp.zeros(()),), (jnp.ones(()),))[1]
    np.testing.assert_allclose(second, np.exp(scale) * e @ e, rtol=1e-12, atol=1e-12)


@EACH_SIZE
def test_derivative_at_zero_is_the_identity(n):
    zero, direction = jnp.zeros((n, n)), jnp.asarray(kinds(n)[0])
    value, derivative = jax.jvp(expm, (zero,), (direction,))
    np.testing.assert_array_equal(value, np.eye(n))
    np.testing.assert_allclose(derivative, direction, rtol=1e-15)


@EACH_SIZE
def test_any_batch_by_jit_and_vmap(n):
    a = jnp.asarray(kinds(n)[:12].reshape(3, 4, n, n))
    expected = expm(a)
    np.testing.assert_allclose(jax.jit(expm)(a), expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(jax.vmap(jax.vmap(expm))(a), expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(expm(a[1, 2]), expected[1, 2], rtol=1e-13, atol=1e-14)


@EACH_SIZE
def test_bad_input_is_named(n, unchecked):
    for shape in [(1, 1), (4, 4), (n,), (n, n + 1), (n, n, 1)]:
        message = rf"a=float64{re.escape(str(list(shape)))}: accepted is \[..., 2, 2\] or"
        with pytest.raises(ValueError, match=message):
            expm(jnp.zeros(shape))
    for dtype in ("int32", "float16", "complex64"):
        with pytest.raises(ValueError, match=rf"a={dtype}\[.*\]: accepted is float32 or float64"):
            expm(jnp.zeros((n, n), dtype))
