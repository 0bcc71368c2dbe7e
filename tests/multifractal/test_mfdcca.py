import functools

import jax
import jax.numpy as jnp
import mfdfa_reference as reference
import numpy as np
import pytest

from jaxml.multifractal import mfdcca, mfdfa

N = 1500
SCALES = (10, 16, 32, 37, 100)
Q = (-2.0, 0.0, 0.5, 2.0, 4.0)


def pair(seed=0):
    x, y = np.random.default_rng(seed).normal(size=(2, N))
    return x, 0.6 * x + 0.8 * y


@pytest.mark.parametrize("order", [1, 2])
def test_equals_definition(order):
    x, y = pair()
    found = mfdcca(x, y, scales=SCALES, q=Q, order=order)
    log_f, coefficient = reference.mfdcca(x, y, SCALES, Q, order)
    np.testing.assert_allclose(found.coefficient, coefficient, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.cross.log_fluctuation, log_f, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.cross.h, reference.slopes(SCALES, log_f), rtol=0, atol=1e-10)


@pytest.mark.parametrize("factor", [1, -3.5])
def test_series_with_its_multiple(factor):
    x, _ = pair()
    found, alone = mfdcca(x, factor * x, scales=SCALES, q=Q), mfdfa(x, scales=SCALES, q=Q)
    np.testing.assert_allclose(found.coefficient, np.sign(factor), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        found.cross.log_fluctuation,
        np.asarray(alone.log_fluctuation) + np.log(abs(factor)) / 2,
        rtol=0,
        atol=1e-11,
    )


def test_coefficient_estimates_the_correlation_of_white_series():
    found = [mfdcca(*pair(seed), scales=SCALES, q=Q).coefficient[:3] for seed in range(8)]
    np.testing.assert_allclose(np.mean(found), 0.6, rtol=0, atol=0.03)


@functools.cache
def cut():
    x, y = pair()
    return jax.jit(lambda n: mfdcca(x, y, scales=SCALES, q=Q, length=n))


@pytest.mark.parametrize("length", [700, 90, 0])
def test_padded_equals_unpadded(length):
    x, y = pair()
    found = cut()(length)
    own = np.array(SCALES) <= length
    scales = [s for s in SCALES if s <= length]
    np.testing.assert_array_equal(found.coefficient[~own], 0)
    if scales:
        log_f, coefficient = reference.mfdcca(x[:length], y[:length], scales, Q, 1)
        np.testing.assert_allclose(found.coefficient[own], coefficient, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.cross.log_fluctuation[:, own], log_f, rtol=0, atol=1e-9)
    else:
        np.testing.assert_array_equal(found.cross.h, 0)


def test_constant_partner_gives_no_coefficient_and_no_nan():
    x, _ = pair()

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(y):
        found = mfdcca(x, y, scales=SCALES, q=Q)
        return found.coefficient.sum() + found.cross.h.sum(), found

    for constant in (0.0, 0.1):
        slope, found = gradient(jnp.full(N, constant))
        np.testing.assert_array_equal(found.coefficient, 0)
        np.testing.assert_array_equal(found.cross.dropped, 2 * (N // np.array(SCALES)))
        assert np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.ones(N - 1), r"y=float64\[1499\]: accepted is float64\[1500\], as of x"),
        (np.ones(N, np.float32), r"y=float32\[1500\]: accepted is float64\[1500\], as of x"),
        (np.full(N, np.nan), r"y=float64\[1500\] with NaN or infinity at sample 0"),
    ],
)
def test_bad_partner_is_named(y, message, unchecked):
    with pytest.raises(ValueError, match=message):
        mfdcca(np.ones(N), y)
