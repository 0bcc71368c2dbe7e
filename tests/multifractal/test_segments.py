import jax
import jax.numpy as jnp
import mfdfa_reference as reference
import numpy as np
import pytest

from jaxml.multifractal._segments import Segments, moving_average_residuals, segment_products

N = 1000
SCALES = (10, 16, 20, 32, 37, 61, 122, 333)


def noise(n=N, seed=0):
    x = np.random.default_rng(seed).normal(size=n)
    return x - x.mean()


def by_scale(segments, scales, pair=0):
    """Return the sorted F2 of each scale."""
    tile = np.asarray(segments.scale_of_tile)
    f2, valid = np.asarray(segments.product)[pair], np.asarray(segments.valid)
    return [np.sort(f2[tile == i][valid[tile == i]]) for i in range(len(scales))]


def products(series, length, scales, order=1, pairs=((0, 0),)):
    found = {}

    @jax.jit
    def run(series, length):
        segments = segment_products(series, length, scales, order, list(pairs))
        found["places"] = segments.scale_of_tile
        return segments.product, segments.valid, segments.count

    product, valid, count = run(jnp.asarray(series), jnp.asarray(length, jnp.int32))
    return Segments(product, valid, found["places"], count)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_every_segment_equals_the_reference(order):
    x = noise()
    segments = products(x[None], N, SCALES, order)
    np.testing.assert_array_equal(segments.count, [2 * (N // s) for s in SCALES])
    for s, found in zip(SCALES, by_scale(segments, SCALES), strict=True):
        expected = np.sort((reference.residuals(x, s, order) ** 2).mean(axis=1))
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def test_direct_path_equals_pyramid(monkeypatch):
    x = noise()[None]
    pyramid = products(x, N, SCALES)
    monkeypatch.setattr("jaxml.multifractal._segments._families", lambda scales: ({}, list(scales)))
    direct = products(x, N, SCALES)
    pairs = zip(by_scale(pyramid, SCALES), by_scale(direct, SCALES), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-11)


def test_products_of_two_channels():
    x = np.stack([noise(seed=1), noise(seed=2)])
    scales = (16, 32, 37)
    segments = products(x, N, scales, pairs=((0, 1), (1, 1)))
    for pair, (i, j) in enumerate([(0, 1), (1, 1)]):
        for s, found in zip(scales, by_scale(segments, scales, pair), strict=True):
            left = [reference.residuals(row, s, 1) for row in x]
            expected = np.sort((left[i] * left[j]).mean(axis=1))
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("length", [N, 700, 333, 332, 10, 9, 0])
def test_padded_equals_unpadded(length):
    x = noise(length) if length else np.zeros(0)
    padded = np.concatenate([x, np.zeros(N - length)])
    segments = products(padded[None], length, SCALES)
    np.testing.assert_array_equal(segments.count, [2 * (length // s) for s in SCALES])
    for s, found in zip(SCALES, by_scale(segments, SCALES), strict=True):
        assert found.size == 2 * (length // s)
        if found.size:
            expected = np.sort((reference.residuals(x, s, 1) ** 2).mean(axis=1))
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("theta", [0.0, 0.5, 1.0])
def test_moving_average_equals_its_definition(theta):
    x, scales = noise(), (4, 9, 50, 333)
    segments = moving_average_residuals(jnp.asarray(x), jnp.asarray(N, jnp.int32), scales, theta)
    np.testing.assert_array_equal(segments.count, [(N - s + 1) // s for s in scales])
    for s, found in zip(scales, by_scale(segments, scales), strict=True):
        residual = reference.moving_average_residuals(x, s, theta)
        expected = np.sort((residual**2).mean(axis=1))
        np.testing.assert_allclose(found, expected, rtol=1e-10)
