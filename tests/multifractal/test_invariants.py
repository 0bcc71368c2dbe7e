"""What holds of MFDFA for every series, by hypothesis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxml.multifractal import mfdfa

N = 600
SCALES = (8, 11, 16, 32, 75)
Q = (-5.0, -2.0, -0.5, 0.0, 1.0, 2.0, 5.0)

few = settings(max_examples=15, deadline=None, derandomize=True)
orders = st.sampled_from([1, 2])


@st.composite
def series(draw):
    """Noise, its sum or its cube: rough, smooth and heavy-tailed."""
    x = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=N)
    return draw(st.sampled_from([lambda x: x, np.cumsum, lambda x: x**3]))(x)


@functools.partial(jax.jit, static_argnums=1)
def analyse(x, order):
    return mfdfa(x, scales=SCALES, q=Q, order=order)


@few
@given(series(), orders, st.floats(-9, 9), st.sampled_from([-1, 1]))
def test_scaling_x_scales_f(x, order, exponent, sign):
    plain, scaled = analyse(x, order), analyse(sign * 10**exponent * x, order)
    np.testing.assert_allclose(scaled.h, plain.h, rtol=0, atol=1e-11)
    shift = np.asarray(scaled.log_fluctuation) - plain.log_fluctuation
    np.testing.assert_allclose(shift, exponent * np.log(10), rtol=0, atol=1e-10)


@few
@given(series(), orders, st.floats(-5, 5))
def test_reversing_the_profile_leaves_f(x, order, first):
    """Its increments are those of x reversed and negated, one later; the first is free."""
    reversed_increments = np.concatenate([[first], -x[:0:-1]])
    np.testing.assert_allclose(
        analyse(reversed_increments, order).log_fluctuation,
        analyse(x, order).log_fluctuation,
        rtol=0,
        atol=1e-10,
    )


@few
@given(series(), orders, st.floats(-100, 100), st.floats(-100, 100))
def test_added_polynomial_of_lower_order_leaves_f(x, order, level, slope):
    time = np.linspace(-1, 1, N)
    trend = level + (slope * time if order == 2 else 0)
    np.testing.assert_allclose(
        analyse(x + trend, order).log_fluctuation,
        analyse(x, order).log_fluctuation,
        rtol=0,
        atol=1e-7,
    )


@few
@given(series(), orders)
def test_f_does_not_decrease_with_q(x, order):
    rises = np.diff(analyse(x, order).log_fluctuation, axis=0)
    assert rises.min() > -1e-12


@few
@given(series(), orders)
def test_second_moment_is_plain_dfa(x, order):
    profile = np.cumsum(x - x.mean())
    for s, found in zip(SCALES, analyse(x, order).log_fluctuation[Q.index(2.0)], strict=True):
        time, squares = np.linspace(-1, 1, s), []
        for y in (profile, profile[::-1]):
            for start in range(0, N - s + 1, s):
                segment = y[start : start + s]
                fit = np.polyval(np.polyfit(time, segment, order), time)
                squares.append((segment - fit) ** 2)
        np.testing.assert_allclose(found, np.log(np.mean(squares)) / 2, rtol=0, atol=1e-9)


@few
@given(series(), orders)
def test_every_exponent_has_its_definition(x, order):
    found = analyse(jnp.asarray(x), order)
    np.testing.assert_allclose(found.tau, found.q * found.h - 1)
    np.testing.assert_allclose(found.f, found.q * found.alpha - found.tau)
    assert (found.r_squared <= 1).all() and (found.h_stderr >= 0).all()
    np.testing.assert_allclose(found.width, np.ptp(found.alpha))
    assert -1 <= found.asymmetry <= 1
