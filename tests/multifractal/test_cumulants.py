import jax
import jax.numpy as jnp
import mfdfa_reference as reference
import numpy as np
import pytest
from scipy.stats import linregress, moment

from jaxml.multifractal import cumulants, mfdfa
from jaxml.multifractal.synthetic import cascade

N = 2000
SCALES = (10, 16, 32, 37, 64, 128)


def noise():
    return np.random.default_rng(0).normal(size=N)


def expected_curves(x, scales, order):
    log_f = [np.log((reference.residuals(x, s, order) ** 2).mean(axis=1)) / 2 for s in scales]
    return np.array([[l.mean(), l.var(), moment(l, 3)] for l in log_f]).T


@pytest.mark.parametrize("order", [1, 2])
def test_equals_moments_and_regression(order):
    x = 100 * noise()
    found = cumulants(x, scales=SCALES, order=order)
    curves = expected_curves(x, SCALES, order)
    np.testing.assert_allclose(found.curves, curves, rtol=0, atol=1e-12)
    for i, curve in enumerate(curves):
        fit = linregress(np.log(SCALES), curve)
        np.testing.assert_allclose(found.c[i], fit.slope, rtol=1e-9)
        np.testing.assert_allclose(found.c_stderr[i], fit.stderr, rtol=1e-9)


def test_are_the_taylor_coefficients_of_q_h():
    """q h(q) = c1 q + c2 q^2 / 2 + c3 q^3 / 6."""
    x, step = noise(), 0.05
    q = step * np.arange(-2, 3)
    h = np.asarray(mfdfa(x, scales=SCALES, q=q).h)
    qh = q * h
    c2 = (qh[3] + qh[1]) / step**2
    c3 = (qh[4] - 2 * qh[3] + 2 * qh[1] - qh[0]) / (2 * step**3)
    np.testing.assert_allclose(cumulants(x, scales=SCALES).c, [h[2], c2, c3], rtol=0, atol=1e-3)


def test_of_the_cascade():
    """d tau = -d log2(a^q + (1-a)^q): c1 = -log2(a (1-a)) / 2, c2 = -ln(a / (1-a))^2 / (4 ln 2)."""
    a = 0.6
    found = cumulants(cascade(None, 2**16, a=a), scales=tuple(2**k for k in range(4, 14)))
    closed = [-np.log2(a * (1 - a)) / 2, -(np.log(a / (1 - a)) ** 2) / (4 * np.log(2)), 0]
    np.testing.assert_allclose(found.c, closed, rtol=0, atol=0.02)


def test_padded_equals_unpadded():
    found = jax.jit(lambda n: cumulants(noise(), scales=SCALES, length=n))(100)
    own = np.array(SCALES) <= 100
    curves = expected_curves(noise()[:100], np.array(SCALES)[own], 1)
    np.testing.assert_allclose(found.curves[:, own], curves, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.curves[:, ~own], 0)
    np.testing.assert_allclose(
        found.c[0], linregress(np.log(np.array(SCALES)[own]), curves[0]).slope, rtol=1e-9
    )


def test_constant_series_has_no_cumulants_and_no_nan():
    total = lambda x: cumulants(x, scales=SCALES).c.sum()
    found, gradient = cumulants(np.full(N, 0.1), scales=SCALES), jax.grad(total)(jnp.full(N, 0.1))
    np.testing.assert_array_equal(found.c, 0)
    np.testing.assert_array_equal(found.c_stderr, np.inf)
    np.testing.assert_array_equal(found.curves, 0)
    np.testing.assert_array_equal(found.dropped, 2 * (N // np.array(SCALES)))
    np.testing.assert_array_equal(gradient, 0)


def test_bad_input_is_named(unchecked):
    with pytest.raises(ValueError, match="order=5: accepted is one of 0, 1, 2, 3"):
        cumulants(noise(), order=5)
    with pytest.raises(ValueError, match=r"x=float64\[.*\] with NaN or infinity at sample 0"):
        cumulants(np.full(N, np.nan))
