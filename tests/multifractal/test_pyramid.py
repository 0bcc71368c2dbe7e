import jax
import jax.numpy as jnp
import mfdfa_reference as reference
import numpy as np
import pytest

from jaxml.multifractal._pyramid import _merge_matrix, pyramid_products, segment_index

orders = pytest.mark.parametrize("order", [0, 1, 2, 3])


def polynomials(length, order):
    """Orthonormal on the samples, leading coefficients positive."""
    basis, r = np.linalg.qr(np.vander(np.arange(length), order + 1, increasing=True))
    return basis * np.sign(np.diag(r))


@orders
def test_products_of_every_octave_equal_explicit_residuals(order):
    bases, octaves, pairs = (9, 16, 23), 3, [(0, 0), (0, 1), (1, 1)]
    series = np.random.default_rng(order).normal(size=(2, 16 * 8 * 3))
    series -= series.mean(axis=1, keepdims=True)

    @jax.jit
    def products(series):
        return pyramid_products(series, bases, octaves, order, pairs)

    both = np.stack([series, series[:, ::-1]])
    for k, level in enumerate(products(jnp.asarray(both))):
        assert level.shape[:2] == (len(pairs), 2 * len(bases))
        index = segment_index(octaves - k, level.shape[-1])
        for row, base in enumerate(bases):
            s = base << k
            count = series.shape[1] // s
            found = np.zeros((len(pairs), index.size))
            for direction, channels in enumerate(both):
                found[:, index.ravel()] = level[:, 2 * row + direction].reshape(len(pairs), -1)
                left = [reference.residuals(x, s, order)[:count] for x in channels]
                expected = [(left[i] * left[j]).sum(axis=1) for i, j in pairs]
                np.testing.assert_allclose(found[:, :count], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("octaves", [0, 1, 2, 5])
def test_halves_of_a_level_are_neighbours_in_time(octaves):
    index, merged = segment_index(octaves + 1, 3), segment_index(octaves, 3)
    left, right = np.split(index, 2)
    np.testing.assert_array_equal(left, 2 * merged)
    np.testing.assert_array_equal(right, 2 * merged + 1)


@orders
def test_merge_matrices_are_orthogonal(order):
    for length in [4, 5, 23, *(2**k for k in range(3, 20))]:
        merge = _merge_matrix(length, order)
        np.testing.assert_allclose(merge.T @ merge, np.eye(2 * order + 2), atol=1e-14)


@orders
@pytest.mark.parametrize("length", [4, 9, 16, 64])
def test_merge_matrix_maps_polynomials_of_halves_to_those_of_the_whole(length, order):
    half = polynomials(length, order)
    zero = np.zeros_like(half)
    u1 = _merge_matrix(length, order)[:, : order + 1]
    whole = np.block([[half, zero], [zero, half]]) @ u1
    np.testing.assert_allclose(whole, polynomials(2 * length, order), atol=1e-10)


def test_float32_error_does_not_grow_with_the_scale():
    x = np.random.default_rng(0).normal(size=2**17).astype(np.float32)
    run = jax.jit(lambda x: pyramid_products(x[None, None], [16], 13, 1, [(0, 0)]))
    for k, level in enumerate(run(jnp.asarray(x))):
        count = level.shape[-2] * level.shape[-1]
        expected = (reference.residuals(x, 16 << k, 1)[:count] ** 2).sum(axis=1)
        np.testing.assert_allclose(np.sum(level), expected.sum(), rtol=1e-6)
