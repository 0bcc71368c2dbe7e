import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.multifractal import quadratic_spectrum
from jaxml.multifractal.synthetic import cascade_h


def cascade_spectrum(a=0.7):
    """Return alpha and f of the binomial cascade from its tau."""
    q = jnp.linspace(-5, 5, 21)
    tau = lambda q: q * cascade_h(q, a=a) - 1
    alpha = jax.vmap(jax.grad(lambda q: tau(q[None])[0]))(q)
    return alpha, q * alpha - tau(q)


def test_equals_polyfit_about_the_peak():
    alpha, f = cascade_spectrum()
    found = quadratic_spectrum(alpha, f)
    peak = alpha[np.argmax(f)]
    curvature, skewness, top = np.polyfit(alpha - peak, f, 2)
    assert found.peak == peak
    np.testing.assert_allclose(
        [found.curvature, found.skewness, found.top], [curvature, skewness, top], atol=1e-10
    )
    np.testing.assert_allclose(found.width, np.ptp(np.roots([curvature, skewness, top])))


@pytest.mark.parametrize("skewness", [-0.8, 0.0, 0.8])
def test_recovers_a_parabola(skewness):
    alpha = jnp.linspace(0.4, 1.6, 25)
    offset = skewness / 6  # The top of -3 t^2 + skewness t + 1 lies there.
    f = -3 * (alpha - 1) ** 2 + skewness * (alpha - 1) + 1
    found = quadratic_spectrum(alpha, f)
    np.testing.assert_allclose(found.curvature, -3)
    np.testing.assert_allclose(found.peak, 1 + offset, atol=0.026)
    np.testing.assert_allclose(found.width, np.sqrt(skewness**2 + 12) / 3)
    exact = skewness - 6 * (found.peak - 1)
    np.testing.assert_allclose(found.skewness, exact, atol=1e-12)


def test_positive_skewness_is_a_longer_right_side():
    alpha = jnp.array([0.8, 0.9, 1.0, 1.2, 1.4, 1.6])
    f = jnp.array([0.2, 0.8, 1.0, 0.95, 0.7, 0.3])
    right, left = quadratic_spectrum(alpha, f), quadratic_spectrum(2 - alpha, f)
    assert right.skewness > 0
    np.testing.assert_allclose(left.skewness, -right.skewness)
    np.testing.assert_allclose(left.width, right.width)


@pytest.mark.parametrize(
    "f", [lambda t: t**2 + 1, lambda t: -(t**2) - 1, lambda t: t], ids=["up", "below", "line"]
)
def test_without_two_roots_under_a_top_the_width_is_zero(f):
    alpha = jnp.linspace(-1.0, 1.0, 9)
    assert quadratic_spectrum(alpha, f(alpha)).width == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_single_point_is_its_f_and_zeros_without_nan(dtype):
    alpha, f = jnp.full(5, 0.5, dtype), jnp.full(5, 1.0, dtype)
    found = quadratic_spectrum(alpha, f)
    np.testing.assert_allclose(found.top, 1, rtol=1e-6)
    np.testing.assert_array_equal(found.peak, 0.5)
    for part in (found.curvature, found.skewness, found.width):
        assert part == 0
        assert part.dtype == dtype
    gradient = jax.grad(lambda f: sum(jax.tree.leaves(quadratic_spectrum(alpha, f))))(f)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("spread", [1e-3, 1e3])
def test_float32_fits_narrow_and_wide_spectra(spread):
    t = np.linspace(-1, 1.5, 21)
    alpha, f = 0.5 + spread * t, 1 - t**2 + 0.3 * t
    found = quadratic_spectrum(jnp.asarray(alpha, "float32"), jnp.asarray(f, "float32"))
    np.testing.assert_allclose(found.curvature * spread**2, -1, rtol=1e-3)
    np.testing.assert_allclose(found.width / spread, np.sqrt(4.09), rtol=1e-3)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2,), (2,)), r"alpha=float64\[2\]: accepted is \[q\], three"),
        (((5,), (4,)), r"f=float64\[4\]: accepted is \[5\], the shape of alpha"),
        (((3, 3), (3, 3)), r"alpha=float64\[3, 3\]: accepted is \[q\], three"),
    ],
)
def test_bad_shapes_are_named(shapes, message, unchecked):
    alpha, f = map(jnp.ones, shapes)
    with pytest.raises(ValueError, match=message):
        quadratic_spectrum(alpha, f)
