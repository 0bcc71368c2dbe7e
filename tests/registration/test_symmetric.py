"""Both images moved to a middle: each part against a second implementation in numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registration.test_register import pair
from scipy.ndimage import convolve1d, gaussian_filter, map_coordinates, uniform_filter1d

from jaxml.registration import _register, inverse, inverse_consistency, mse, register
from jaxml.registration._energy import restraint_of, smoothed
from jaxml.registration._similarity import grad_l2
from jaxml.registration._symmetric import _widths, advected

register = functools.partial(register, affine=None)


def test_advection_is_exact_for_linear_fields():
    """u(p) = M p + c at p + e(p) is M (p + e) + c, and the map's own move is e."""
    rng = np.random.default_rng(0)
    matrix, offset = rng.normal(size=(3, 3)), rng.normal(size=(3, 1, 1, 1))
    p = np.indices((6, 7, 8), dtype=float)
    update = rng.uniform(-1 / 3, 1 / 3, p.shape)
    at = lambda q: np.einsum("ij,j...->i...", matrix, q) + offset
    moved = advected(tuple(map(jnp.asarray, at(p))), tuple(map(jnp.asarray, update)))
    inner = (slice(None), *(slice(1, -1),) * 3)
    expected = at(p + update) + update
    np.testing.assert_allclose(np.stack(moved)[inner], expected[inner], atol=1e-12)


def test_advected_values_are_means_of_neighbors():
    """At the longest updates too: nothing is amplified."""
    rng = np.random.default_rng(1)
    u, e = rng.normal(size=(2, 5, 6)), 0.5 * rng.choice([-1, 1], (2, 5, 6))
    moved = np.stack(advected(tuple(map(jnp.asarray, u)), tuple(map(jnp.asarray, e)))) - e
    assert np.all(moved <= u.max((1, 2), keepdims=True) + 1e-12)
    assert np.all(moved >= u.min((1, 2), keepdims=True) - 1e-12)


def test_smoothing_is_by_means_of_a_length():
    plane = np.random.default_rng(2).normal(size=(9, 12, 11))
    assert _widths((1.0, 1.0, 1.0), True) == ((5, 5, 5),) * 3
    assert _widths((1.0, 2.0, 10.0), True) == ((5, 5, 5), (3, 3, 3), (1, 1, 1))
    assert _widths((3.0, 1.0), False) == ((1, 1), (2, 2))
    expected = np.pad(plane, 6, mode="edge")
    for axis, n in ((0, 5), (1, 3)):
        for _ in range(3):
            expected = uniform_filter1d(expected, n, axis)
    inner = (slice(6, -6),) * 3
    (moved,) = smoothed((jnp.asarray(plane),), _widths((1.0, 2.0, 10.0), True))
    np.testing.assert_allclose(moved, expected[inner], atol=1e-12)
    binomial = convolve1d(plane, [0.25, 0.5, 0.25], 1, mode="nearest")
    (moved,) = smoothed((jnp.asarray(plane),), _widths((3.0, 1.0, 3.0), False))
    np.testing.assert_allclose(moved, binomial, atol=1e-12)


def test_steps_are_composed_steps_of_adam_on_both_images():
    """A second implementation: maps as numpy arrays, forces from the formula of the mean square."""
    shape = (12, 13)
    fixed, moving, _ = pair(shape)
    fixed, moving = np.asarray(fixed, "float64"), np.asarray(moving, "float64")
    size, weight, p = fixed.size, 2 * 0.3, np.indices(shape)
    binomial = lambda x: functools.reduce(
        lambda y, a: convolve1d(y, [0.25, 0.5, 0.25], a, mode="nearest"), (0, 1), x
    )
    rough = lambda u: grad_l2(jnp.moveaxis(u, 0, -1))
    slopes = lambda image: np.stack(
        [convolve1d(image, [0.5, 0, -0.5], a, mode="nearest") for a in (0, 1)]
    )
    v, w = np.zeros((2, 2, *shape))
    mean, square, losses = np.zeros_like(v), np.zeros_like(v), []
    for i in range(4):
        f, m = (
            map_coordinates(x, p + u, order=1, mode="nearest") for x, u in ((fixed, v), (moving, w))
        )
        losses.append(np.mean((f - m) ** 2) + weight * (rough(v) + rough(w)))
        force = 2 * (m - f) / size
        pull = weight * jax.grad(rough)(jnp.asarray(w)) + force * slopes(m)
        pull = pull - (weight * jax.grad(rough)(jnp.asarray(v)) - force * slopes(f))
        g = np.stack([binomial(x) for x in np.asarray(pull / 2)])
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        unbiased = mean / (1 - 0.9 ** (i + 1)), square / (1 - 0.999 ** (i + 1))
        direction = unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        rate = 0.2 * np.cos(np.pi * i / 8) ** 2
        e = -rate * np.stack([binomial(x) for x in direction])
        planes = lambda u: tuple(map(jnp.asarray, u))
        v, w = (np.stack(advected(planes(u), planes(s * e))) for u, s in ((v, -1), (w, 1)))
    settings = dict(levels=1, steps=4, smoothness=0.3, learning_rate=0.2, similarity=mse)
    result = register(
        *map(jnp.asarray, (fixed, moving)), method="symmetric", projection=None, **settings
    )
    np.testing.assert_allclose(result.loss, losses, rtol=1e-7)
    # From the fixed image to the middle, and on to the moving one.
    back = np.moveaxis(np.asarray(inverse(jnp.moveaxis(jnp.asarray(v), 0, -1))), -1, 0)
    u = back + [map_coordinates(c, p + back, order=1, mode="nearest") for c in w]
    np.testing.assert_allclose(result.displacement, np.moveaxis(u, 0, -1), atol=1e-6)


@pytest.mark.parametrize("method, low, high", [("symmetric", 0.0, 0.1), ("energy", 0.1, 2.0)])
def test_both_directions_are_inverse_of_each_other(method, low, high):
    """Images on a background, whose windows see the same from both sides."""
    fixed, moving, u = pair((48, 44), size=2.0)
    disk = np.hypot(*(np.indices(fixed.shape) - np.reshape([23.5, 21.5], (2, 1, 1)))) < 16
    soft = jnp.asarray(gaussian_filter(disk.astype("float32"), 1.5))
    fixed, moving = fixed * soft, moving * soft
    settings = dict(levels=2, steps=60, method=method)
    one, other = register(fixed, moving, **settings), register(moving, fixed, **settings)
    away = inverse_consistency(one.displacement, other.displacement)[disk]
    assert low <= float(jnp.mean(away)) < high
    assert float(jnp.mean(jnp.abs(one.displacement[disk]))) > 0.5


def test_smoother_pairs_are_held_to_smoother_fields():
    """The factor goes with the inverse of the derivatives, whatever background there is."""
    field = np.random.default_rng(4).normal(size=(2, 16, 18))
    field[:, [0, -1]] = field[:, :, [0, -1]] = 0
    steps = [np.diff(c, axis=a, append=0) for c in field for a in (0, 1)]
    lengths = np.sqrt(np.sum(np.square(steps), axis=0)) / 2
    unit = field / (np.sum(lengths**2) / np.sum(lengths))
    for slope, expected in ((0.22 / 8, 4.0), (0.22 / 3, 3.0), (0.22, 1.0), (1.0, 1.0)):
        planes = tuple(jnp.asarray(slope * unit))
        more = tuple(jnp.pad(plane, 20) for plane in planes)
        for sides, field in itertools.product(((1.0, 1.0), (2.0, 2.0)), (planes, more)):
            np.testing.assert_allclose(restraint_of(field, sides), expected, rtol=1e-6)
    still = (jnp.zeros((16, 18)),) * 2
    np.testing.assert_allclose(restraint_of(still, (1.0, 1.0)), 4.0, rtol=1e-6)
    assert np.isnan(restraint_of((still[0] * jnp.nan, still[1]), (1.0, 1.0)))


def test_noise_of_two_scans_of_one_thing_is_fitted_less(monkeypatch):
    """Than with the weight that suits two people, by half of the roughness and more."""
    rng = np.random.default_rng(5)
    image = gaussian_filter(rng.normal(size=(88, 96)), 3)
    image = (image - image.min()) / np.ptp(image)
    scans = [jnp.asarray(image + 0.01 * rng.normal(size=image.shape), "float32") for _ in "ab"]
    rough = float(grad_l2(register(*scans).displacement))
    monkeypatch.setattr(_register, "restraint_of", lambda u, *_, **__: jnp.ones((), u[0].dtype))
    assert rough < float(grad_l2(register(*scans).displacement)) / 2
