from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import toeplitz
from scipy.stats import cauchy, kstest, levy_stable, norm

from jaxml.multifractal import synthetic

KEY = jax.random.key(11)
GENERATORS = [synthetic.fgn, synthetic.fbm, synthetic.cascade, synthetic.levy_stable]
hursts = pytest.mark.parametrize("hurst", [0.05, 0.3, 0.5, 0.8, 0.95])


def covariance(lag, hurst):
    """Return (|k+1|^2H - 2 |k|^2H + |k-1|^2H) / 2 with 40 digits: it cancels at large lags."""
    with localcontext(prec=40):
        power = lambda k: abs(Decimal(k)) ** (2 * Decimal(hurst)) if k else Decimal(0)
        return float((power(lag + 1) - 2 * power(lag) + power(lag - 1)) / 2)


@pytest.mark.parametrize("generate", GENERATORS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_key_decides(generate, dtype):
    one, same, other = (generate(jax.random.key(i), 64, dtype=dtype) for i in (1, 1, 2))
    assert one.shape == (64,)
    assert one.dtype == dtype
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@hursts
@pytest.mark.parametrize("n", [32, 33])
def test_fgn_is_a_linear_map_with_the_exact_covariance(hurst, n, monkeypatch):
    """Fed with each unit vector in place of the normals, its rows give the covariance."""
    units = jnp.eye(2 * (n + 1)).reshape(-1, 2, n + 1)

    def respond(unit):
        monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: unit)
        return synthetic.fgn(KEY, n, hurst=hurst)

    rows = np.asarray(jax.vmap(respond)(units))
    expected = toeplitz([covariance(k, hurst) for k in range(n)])
    np.testing.assert_allclose(rows.T @ rows, expected, rtol=0, atol=1e-12)


@hursts
def test_fgn_covariance_keeps_its_digits_at_large_lags(hurst):
    lags = [0, 1, 2, 10, 1000, 10**6]
    found = synthetic._fgn_covariance(jnp.array(lags), jnp.asarray(hurst), jnp.float64)
    expected = [covariance(k, hurst) for k in lags]
    np.testing.assert_allclose(found[:5], expected[:5], rtol=1e-8, atol=1e-15)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-15)


@pytest.mark.parametrize("hurst", [0.3, 0.8])
def test_fgn_samples_have_the_covariance(hurst):
    keys = jax.random.split(KEY, 20_000)
    rows = np.asarray(jax.vmap(lambda key: synthetic.fgn(key, 8, hurst=hurst))(keys))
    expected = toeplitz([covariance(k, hurst) for k in range(8)])
    np.testing.assert_allclose(rows.T @ rows / len(rows), expected, rtol=0, atol=0.05)


def test_hurst_may_be_traced():
    exponents = jnp.array([0.2, 0.7])
    found = jax.vmap(lambda h: synthetic.fgn(KEY, 16, hurst=h))(exponents)
    for row, hurst in zip(found, (0.2, 0.7), strict=True):
        np.testing.assert_allclose(row, synthetic.fgn(KEY, 16, hurst=hurst), atol=1e-12)


def test_fbm_is_the_sum_of_fgn():
    noise = np.asarray(synthetic.fgn(KEY, 100, hurst=0.7))
    np.testing.assert_allclose(synthetic.fbm(KEY, 100, hurst=0.7), np.cumsum(noise), rtol=1e-12)


@pytest.mark.parametrize("a", [0.6, 0.9])
def test_cascade_without_key_is_the_popcount_formula(a):
    ones = np.array([i.bit_count() for i in range(256)])
    expected = a**ones * (1 - a) ** (8 - ones)
    np.testing.assert_allclose(synthetic.cascade(None, 256, a=a), expected, rtol=1e-13)


def test_random_cascade_moves_mass_only_between_halves():
    plain, drawn = (np.asarray(synthetic.cascade(k, 1024, a=0.7)) for k in (None, KEY))
    np.testing.assert_allclose(np.sort(drawn), np.sort(plain), rtol=1e-12)
    np.testing.assert_allclose(drawn.sum(), 1, rtol=1e-12)
    for level in range(10):
        halves = drawn.reshape(2**level, 2, -1).sum(axis=2)
        share = halves.max(axis=1) / halves.sum(axis=1)
        np.testing.assert_allclose(share, 0.7, rtol=1e-12)


def test_random_cascade_takes_either_side_alike():
    shares = np.asarray(synthetic.cascade(KEY, 2**12)).reshape(-1, 2)
    right = np.mean(shares[:, 1] > shares[:, 0])
    assert abs(right - 0.5) < 4 * 0.5 / np.sqrt(2**11)


@pytest.mark.parametrize(
    ("alpha", "law"), [(1.0, cauchy.cdf), (2.0, norm(scale=np.sqrt(2)).cdf)], ids=["1", "2"]
)
def test_stable_laws_with_a_name(alpha, law):
    values = synthetic.levy_stable(KEY, 20_000, alpha=alpha)
    assert kstest(np.asarray(values), law).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.5, 1.2, 1.5, 1.9])
def test_stable_characteristic_function(alpha):
    """E cos(t X) = exp(-|t|^alpha)."""
    n, t = 100_000, np.array([0.1, 0.5, 1.0, 2.0, 4.0])
    values = np.asarray(synthetic.levy_stable(KEY, n, alpha=alpha))
    found = np.cos(t[:, None] * values).mean(axis=1)
    np.testing.assert_allclose(found, np.exp(-(t**alpha)), rtol=0, atol=4 / np.sqrt(2 * n))


def test_stable_quantiles():
    p = np.array([0.6, 0.75, 0.9, 0.99])
    values = np.asarray(synthetic.levy_stable(KEY, 100_000, alpha=1.5))
    np.testing.assert_allclose(np.quantile(values, p), levy_stable.ppf(p, 1.5, 0), rtol=0.05)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_stable_float32_is_finite(alpha):
    values = synthetic.levy_stable(KEY, 200_000, alpha=alpha, dtype="float32")
    assert np.isfinite(values).all()


Q = np.array([-5.0, -1.0, 0.0, 1e-6, 1.0, 1.5, 2.0, 5.0])


@pytest.mark.parametrize("a", [0.6, 0.75])
def test_cascade_exponents(a):
    found = synthetic.cascade_h(Q, a=a)
    # Exactly self-similar: box sums of size 2^-k have sum p^q = (a^q + (1-a)^q)^k, D = 1.
    safe = np.where(np.abs(Q) < 1e-3, 1, Q)
    expected = (1 - np.log2(a**safe + (1 - a) ** safe)) / safe
    at_zero = -np.log(a * (1 - a)) / (2 * np.log(2))
    expected = np.where(np.abs(Q) < 1e-3, at_zero, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found[2], at_zero, rtol=1e-14)


def test_exponents_of_noises():
    np.testing.assert_array_equal(synthetic.fgn_h(Q, hurst=0.3), 0.3)
    np.testing.assert_array_equal(synthetic.fbm_h(Q, hurst=0.3), 1.3)
    expected = [2 / 3] * 6 + [1 / 2, 1 / 5]
    np.testing.assert_allclose(synthetic.levy_stable_h(Q, alpha=1.5), expected)
    np.testing.assert_array_equal(synthetic.fgn_h(np.array([1, 2]), hurst=0.5), [0.5, 0.5])


@pytest.mark.parametrize("generate", GENERATORS)
def test_too_few_samples_are_rejected(generate, unchecked):
    with pytest.raises(ValueError, match="n=1: accepted is a whole number, 2 or more"):
        generate(KEY, 1)


def test_cascade_rejects_other_than_powers_of_two(unchecked):
    with pytest.raises(ValueError, match="n=96: accepted is a power of two"):
        synthetic.cascade(KEY, 96)
