import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import linregress

from jaxml.multifractal._scaling import fit_slopes, scaling_exponents


def lines(points=9, seed=0):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(2, 9, points))
    return x, np.array([0.5, -2.0, 0.0])[:, None] * x + rng.normal(size=(3, points))


@pytest.mark.parametrize("used", ["111111111", "011011111", "100000101"])
def test_fit_equals_linregress_of_the_usable_points(used):
    x, y = lines()
    usable = np.array([c == "1" for c in used])
    spoilt = np.where(usable, y, 1e6)
    slope, error, r_squared = fit_slopes(jnp.asarray(x), jnp.asarray(spoilt), jnp.asarray(usable))
    for i, line in enumerate(y):
        fit = linregress(x[usable], line[usable])
        np.testing.assert_allclose(slope[i], fit.slope, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(error[i], fit.stderr, rtol=1e-9)
        np.testing.assert_allclose(r_squared[i], fit.rvalue**2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fit_of_too_few_points_is_marked(count):
    x, y = lines()
    usable = np.arange(x.size) < count
    slope, error, r_squared = fit_slopes(jnp.asarray(x), jnp.asarray(y), jnp.asarray(usable))
    np.testing.assert_array_equal(error, np.inf)
    if count == 2:
        np.testing.assert_allclose(slope, (y[:, 1] - y[:, 0]) / (x[1] - x[0]))
        np.testing.assert_allclose(r_squared, 1)
    else:
        np.testing.assert_array_equal(slope, 0)
        np.testing.assert_array_equal(r_squared, 0)


def test_exact_and_level_lines_have_finite_gradients():
    x = jnp.arange(2.0, 7.0)
    everything = jnp.ones(5, bool)
    total = lambda y: sum(jnp.sum(part) for part in fit_slopes(x, y, everything))
    for y in (jnp.stack([2 * x, 0 * x]), jnp.full((1, 5), 0.1)):
        slope, error, _ = fit_slopes(x, y, everything)
        np.testing.assert_allclose(slope, (y[:, 1] - y[:, 0]), atol=1e-12)
        np.testing.assert_allclose(error, 0, atol=1e-12)
        assert np.isfinite(jax.grad(total)(y)).all()


def exponents(tau_of_q, usable=(True,) * 4):
    """Feed ln F_q(s) = h ln s of a given tau."""
    scales, q = (8, 16, 32, 64), jnp.linspace(-3, 3, 7)
    h = lambda q: (tau_of_q(q) + 1) / q
    h_at = jnp.where(q == 0, jax.vmap(jax.grad(tau_of_q))(q), h(jnp.where(q == 0, 1, q)))
    alpha = jax.vmap(jax.grad(tau_of_q))(q)
    log_s = jnp.log(jnp.array(scales, float))
    dropped = jnp.zeros(4, jnp.int32)
    log_f, derivative = h_at[:, None] * log_s, alpha[:, None] * log_s
    return scaling_exponents(log_f, derivative, jnp.array(usable), dropped, scales, q), alpha


def test_spectrum_is_the_legendre_transform_of_tau():
    tau = lambda q: 0.8 * q - 0.05 * q**2 + 0.004 * q**3 - 1
    found, alpha = exponents(tau)
    np.testing.assert_allclose(found.alpha, alpha, rtol=1e-12)
    np.testing.assert_allclose(found.tau, tau(found.q), atol=1e-12)
    np.testing.assert_allclose(found.f, found.q * alpha - tau(found.q), atol=1e-12)
    np.testing.assert_allclose(found.width, np.ptp(alpha))
    np.testing.assert_array_equal(found.scales, [8, 16, 32, 64])
    middle, left, right = alpha[3], alpha[3] - alpha.min(), alpha.max() - alpha[3]
    assert middle == alpha[np.argmin(np.abs(found.q))]
    np.testing.assert_allclose(found.asymmetry, (left - right) / found.width)


@pytest.mark.parametrize(("cubic", "sign"), [(0.004, -1), (0.0, 0), (-0.004, 1)])
def test_asymmetry_is_positive_when_large_fluctuations_carry_more(cubic, sign):
    found, _ = exponents(lambda q: 0.8 * q - 0.05 * q**2 + cubic * q**3 - 1)
    assert sign * found.asymmetry > 0 or abs(found.asymmetry) < 1e-10 and sign == 0


def test_unusable_scales_are_marked_and_left_out():
    tau = lambda q: 0.8 * q - 0.05 * q**2 - 1
    found, alpha = exponents(tau, usable=(True, False, True, True))
    np.testing.assert_array_equal(found.log_fluctuation[:, 1], -np.inf)
    np.testing.assert_allclose(found.alpha, alpha)
    nothing, _ = exponents(tau, usable=(False,) * 4)
    for part in (nothing.h, nothing.alpha, nothing.width, nothing.asymmetry, nothing.r_squared):
        np.testing.assert_array_equal(part, 0)
    np.testing.assert_array_equal(nothing.tau, -1)
    np.testing.assert_array_equal(nothing.f, 1)
