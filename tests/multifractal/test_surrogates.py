import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.multifractal import surrogates

KEY = jax.random.key(7)
kinds = pytest.mark.parametrize("kind", [surrogates.shuffle, surrogates.phase, surrogates.iaaft])
sizes = pytest.mark.parametrize("n", [500, 501])


def series(n):
    """Skewed and strongly correlated."""
    x = np.random.default_rng(n).normal(size=n)
    return np.exp(np.convolve(x, np.ones(8) / 3, "same"))


@kinds
@sizes
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_key_decides(kind, n, dtype):
    x = series(n).astype(dtype)
    found = kind(KEY, x)
    assert found.dtype == dtype
    assert found.shape == x.shape
    np.testing.assert_array_equal(found, kind(jax.random.key(7), x))
    assert np.mean(found != kind(jax.random.key(8), x)) > 0.9
    assert np.mean(found != x) > 0.9


@sizes
@pytest.mark.parametrize("kind", [surrogates.shuffle, surrogates.iaaft])
def test_values_are_kept_exactly(kind, n):
    x = series(n)
    np.testing.assert_array_equal(np.sort(kind(KEY, x)), np.sort(x))


def test_shuffle_destroys_correlation():
    x = series(4000)
    x = (x - x.mean()) / x.std()
    lag_one = lambda x: np.mean(x[1:] * x[:-1])
    assert lag_one(x) > 0.6
    assert abs(lag_one(np.asarray(surrogates.shuffle(KEY, x)))) < 4 / np.sqrt(4000)


@sizes
def test_phase_keeps_the_spectrum_exactly(n):
    x = series(n)
    found = surrogates.phase(KEY, x)
    np.testing.assert_allclose(np.abs(np.fft.rfft(found)), np.abs(np.fft.rfft(x)), atol=1e-10)
    np.testing.assert_allclose(found.mean(), x.mean())


def test_phases_are_uniform():
    x = series(501)
    turn = np.angle(np.fft.rfft(surrogates.phase(KEY, x)) / np.fft.rfft(x))[1:]
    assert abs(np.exp(1j * turn).mean()) < 4 / np.sqrt(turn.size)


def test_phase_makes_gaussian():
    skewness = lambda x: np.mean(((x - x.mean()) / x.std()) ** 3)
    x = series(4000)
    assert skewness(x) > 2
    assert abs(skewness(np.asarray(surrogates.phase(KEY, x)))) < 0.5


@sizes
def test_iaaft_nearly_keeps_the_spectrum(n):
    x = series(n)
    size = lambda x: np.abs(np.fft.rfft(x))[1:]
    distance = lambda y: np.linalg.norm(size(y) - size(x)) / np.linalg.norm(size(x))
    assert distance(surrogates.iaaft(KEY, x)) < 0.05
    assert distance(surrogates.shuffle(KEY, x)) > 0.3
    one, many = (surrogates.iaaft(KEY, x, max_iterations=k) for k in (1, 100))
    assert distance(many) < distance(one)


def test_iaaft_of_a_constant_is_the_constant():
    np.testing.assert_array_equal(surrogates.iaaft(KEY, jnp.full(64, 0.1)), 0.1)


@kinds
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([1.0]), r"x=float64\[1\]: accepted is a series of 2 samples or more"),
        (np.array([1.0, np.nan, 3.0]), r"x=float64\[3\] with NaN or infinity at sample 1"),
        (np.ones((2, 3)), r"x=float64\[2, 3\]: accepted is one series"),
    ],
)
def test_bad_input_is_named(kind, x, message, unchecked):
    with pytest.raises(ValueError, match=message):
        kind(KEY, x)
