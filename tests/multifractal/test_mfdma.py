import functools

import jax
import mfdfa_reference as reference
import numpy as np
import pytest

from jaxml.multifractal import mfdma
from jaxml.multifractal.synthetic import cascade, cascade_h

N = 1000
SCALES = (5, 16, 33, 100)
Q = (-3.0, 0.0, 2.0, 4.0)
thetas = pytest.mark.parametrize("theta", [0.0, 0.5, 1.0])


def noise(n=N):
    """Of zero mean: a mean is a trend of the profile that a moving average does not remove."""
    x = np.random.default_rng(0).normal(size=n)
    return x - x.mean()


@pytest.mark.parametrize(
    ("theta", "dtype", "tolerance"),
    [(0, "float64", 1e-11), (0.5, "float64", 1e-11), (1, "float64", 1e-11), (0.5, "float32", 1e-5)],
)
def test_equals_definition(theta, dtype, tolerance):
    x = np.round(noise() * 2**12) / 2**12
    x[-1] -= x.sum()  # Exactly representable, of exactly zero mean, in both dtypes.
    found = mfdma(x.astype(dtype), theta=theta, scales=SCALES, q=Q)
    expected = reference.mfdma(x, SCALES, Q, theta)
    assert found.h.dtype == dtype
    np.testing.assert_allclose(found.log_fluctuation, expected, rtol=0, atol=tolerance)
    slopes = reference.slopes(SCALES, expected)
    np.testing.assert_allclose(found.h, slopes, rtol=0, atol=tolerance)


@functools.partial(jax.jit, static_argnums=2)
def compiled(x, length, theta):
    return mfdma(x, theta=theta, scales=SCALES, q=Q, length=length)


@thetas
@pytest.mark.parametrize("length", [N, 640, 150])
def test_padded_equals_unpadded(theta, length):
    x = np.concatenate([noise(length), np.ones(N - length)])
    found = compiled(x, length, theta)
    own = np.array([2 * s - 1 <= length for s in SCALES])
    scales = [s for s in SCALES if 2 * s - 1 <= length]
    expected = reference.mfdma(x[:length], scales, Q, theta)
    np.testing.assert_allclose(found.log_fluctuation[:, own], expected, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(found.log_fluctuation[:, ~own], -np.inf)


def test_cascade_has_its_closed_form():
    """Gu and Zhou 2010: theta = 0 is the best of the three for the binomial measure."""
    found = mfdma(cascade(None, 2**14, a=0.6), scales=tuple(2**k for k in range(4, 11)), q=Q)
    np.testing.assert_allclose(found.h, cascade_h(found.q, a=0.6), rtol=0, atol=0.03)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_zeros_have_every_segment_dropped(dtype):
    @jax.jit
    def run(x):
        total = lambda x: mfdma(x, scales=SCALES, q=Q).h.sum()
        return mfdma(x, scales=SCALES, q=Q), jax.grad(total)(x)

    found, gradient = run(np.zeros(N, dtype))
    np.testing.assert_array_equal(found.dropped, [(N - s + 1) // s for s in SCALES])
    np.testing.assert_array_equal(found.h, 0)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_constant_leads_its_backward_average_by_half_a_window(dtype):
    found = mfdma(np.full(N, 1234.5, dtype), scales=SCALES, q=Q)
    expected = np.log(1234.5 * (np.asarray(SCALES) - 1) / 2)
    np.testing.assert_allclose(found.log_fluctuation, np.tile(expected, (len(Q), 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"theta": 0.3}, "theta=0.3: accepted is one of 0.0, 0.5, 1.0"),
        (
            {"scales": (16, 501)},
            r"scales=\(16, 501\) with 501: accepted is up to 500: a window and a segment",
        ),
        ({"scales": (2, 16)}, r"scales=\(2, 16\) with values from 2 to 16: accepted is 3, "),
        ({"x": np.full(N, np.inf)}, r"x=float64\[1000\] with NaN or infinity at sample 0"),
        ({"length": N + 1}, "length=1001: accepted is 0 to 1000"),
    ],
)
def test_bad_input_is_named(arguments, message, unchecked):
    arguments = {"x": noise()} | arguments
    with pytest.raises(ValueError, match=message):
        mfdma(arguments.pop("x"), **arguments)
