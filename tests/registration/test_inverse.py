"""Inverses against residuals by scipy, closed forms and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import simplices_reference as reference
from jax.test_util import check_grads

from jaxml.registration import compose, fold_free, inverse, inverse_consistency

EACH_VOLUME = pytest.mark.parametrize("shape", [(26, 31), (12, 13, 11)])


def places(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(float)


def residual(u, v):
    """Length of v(q) + u(q + v(q)), in float64."""
    u, v = np.asarray(u, float), np.asarray(v, float)
    points = np.moveaxis(places(u.shape[:-1]) + v, -1, 0)
    sample = functools.partial(scipy.ndimage.map_coordinates, order=1, mode="nearest")
    moved = [sample(u[..., k], points) for k in range(u.shape[-1])]
    return np.linalg.norm(v + np.stack(moved, axis=-1), axis=-1)


def rough(shape, sigma, rms=4.0):
    """A field whose Jacobian is far from 0, without folds."""
    found = fold_free(jnp.asarray(reference.smooth_noise(3, shape, sigma, rms=rms)))
    assert found.folds == 0
    return found.displacement


@EACH_VOLUME
@pytest.mark.parametrize("sigma", [0.0, 0.7, 1.5, 3.0])
def test_a_field_without_folds_has_an_exact_inverse(shape, sigma):
    u = rough(shape, sigma)
    # A fixed point shrinks no residual where the Jacobian is above 1.
    jacobian = reference.differences(np.asarray(u), "forward")
    assert np.mean(np.linalg.norm(jacobian, ord=2, axis=(-2, -1)) > 1) > 0.1
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-4)):
        v = inverse(u.astype(dtype), iterations=50)
        assert v.dtype == dtype
        assert residual(u.astype(dtype), v).max() < tolerance


def test_voxels_that_newton_does_not_reach_walk_in_groups():
    """More of them than one group holds, at the size where groups begin."""
    u = rough((140, 150), 0.7)
    few = inverse(u, iterations=1)
    assert 0 < np.sum(residual(u, few) > 0.05) < 0.2 * u.size
    assert residual(u, inverse(u)).max() < 1e-12


@EACH_VOLUME
def test_translations_and_rest_are_inverted_to_the_last_bit(shape):
    u = jnp.broadcast_to(jnp.arange(1.0, len(shape) + 1) * 10.25, (*shape, len(shape)))
    np.testing.assert_array_equal(inverse(u), -u)
    np.testing.assert_array_equal(inverse(0 * u), 0 * u)


@EACH_VOLUME
def test_inverse_of_an_affine_map(shape):
    ndim = len(shape)
    matrix = np.eye(ndim) + 0.9 * np.triu(np.ones((ndim, ndim)), 1)
    shift, center = np.linspace(-0.3, 0.4, ndim), (np.array(shape) - 1) / 2
    centered = places(shape) - center
    back = np.linalg.inv(matrix)
    expected = centered @ (back - np.eye(ndim)).T - back @ shift
    points = places(shape) + expected
    inside = np.all((points >= 0) & (points <= np.array(shape) - 1), axis=-1)
    assert np.mean(inside) > 0.2
    found = np.asarray(inverse(jnp.asarray(centered @ (matrix - np.eye(ndim)).T + shift)))
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-12)


@EACH_VOLUME
def test_the_inverse_of_a_smooth_field_holds_in_the_other_order_too(shape):
    u = jnp.asarray(reference.smooth_noise(0, shape, 2.0, rms=0.5))
    back = np.asarray(compose(inverse(u), u))
    # It differs by the interpolation of the inverse between voxels.
    assert 1e-6 < np.sqrt(np.mean(back**2)) < 0.12 * np.sqrt(np.mean(np.asarray(u) ** 2))


@EACH_VOLUME
@pytest.mark.parametrize("rms", [1.0, 30.0, 1e12])
def test_a_folded_field_gets_the_best_that_was_found(shape, rms):
    u = jnp.asarray(reference.smooth_noise(0, shape, 1.0, rms=rms))
    v = inverse(u, iterations=20)
    assert np.all(np.isfinite(v))
    left = residual(u, v)
    assert np.mean(left) <= np.mean(residual(u, -u))
    if rms == 1.0:
        # A third of the voxels or more are folds; some point goes to each of them all the same.
        assert reference.folds(u)["digital"] > 0.3 * left.size
        assert left.max() < 1e-12


@EACH_VOLUME
def test_a_volume_that_falls_to_one_point_has_a_finite_inverse(shape):
    u = jnp.asarray(np.array(shape) / 2 - places(shape))
    assert np.all(np.isfinite(inverse(u)))
    gradient = jax.grad(lambda u: jnp.sum(inverse(u) ** 2))(u)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 4)])
def test_gradient_equals_finite_differences(shape):
    u = rough(shape, 0.7, rms=1.0)
    # Steps that are small beside the distance to the next voxel, where derivatives jump.
    check_grads(jax.jit(inverse), (u,), 1, modes=["rev"], eps=1e-6, rtol=1e-5, atol=1e-6)


def test_what_is_not_finite_has_no_inverse(unchecked):
    u = jnp.zeros((2, 5, 6, 2)).at[0, 2, 3, 1].set(jnp.nan)
    with pytest.raises(ValueError, match=r"^u=float64\[5, 6, 2\] with NaN or infinity"):
        inverse(u[0])
    found = jax.vmap(inverse)(u)
    assert np.all(np.isnan(found[0])) and np.all(found[1] == 0)
    infinite = jax.jit(inverse)(jnp.full((5, 6, 2), jnp.inf))
    assert np.all(np.isnan(infinite))


@EACH_VOLUME
def test_consistency_of_translations_is_their_sum(shape):
    u = jnp.broadcast_to(jnp.array([3.0, -4.0, 12.0])[: len(shape)], (*shape, len(shape)))
    length = {2: 5.0, 3: 13.0}[len(shape)]
    # All voxels are carried out of the volume by 3 u, to where u repeats its border.
    np.testing.assert_allclose(inverse_consistency(u, 3 * u), 4 * length, rtol=1e-12)
    np.testing.assert_array_equal(inverse_consistency(u, -u), 0)


@EACH_VOLUME
def test_consistency_equals_scipy(shape):
    u, v = (jnp.asarray(reference.smooth_noise(s, shape, 1.0, rms=1.5)) for s in (0, 1))
    np.testing.assert_allclose(inverse_consistency(u, v), residual(u, v), atol=1e-12)


def test_consistency_has_a_gradient_where_it_is_zero():
    u, v = jnp.zeros((2, 4, 5, 2))
    v = v.at[1, 2, 0].set(0.25)
    gradient = jax.grad(lambda v: jnp.sum(inverse_consistency(u, v)))(v)
    np.testing.assert_array_equal(gradient, jnp.zeros((4, 5, 2)).at[1, 2, 0].set(1))


def test_bad_arguments_are_named(unchecked):
    u, other = jnp.zeros((5, 6, 2)), jnp.zeros((5, 7, 2))
    with pytest.raises(ValueError, match="iterations=0: accepted is a whole number, 1 or more"):
        inverse(u, iterations=0)
    with pytest.raises(ValueError, match="u=float16.*: accepted is float32 or float64"):
        inverse(u.astype("float16"))
    with pytest.raises(ValueError, match=r"v=float64\[5, 7, 2\]: accepted is \[5, 6, 2\]"):
        inverse_consistency(u, other)
