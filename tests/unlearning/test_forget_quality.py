"""Forget quality against scipy's exact Kolmogorov-Smirnov test."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxml.unlearning.metrics._forget_quality import forget_quality

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 2e-4)])
@pytest.mark.parametrize(
    ("m", "n", "shift"),
    [(1, 1, 0), (5, 3, 0.5), (40, 40, 0), (40, 25, 1), (200, 200, 0.3), (100, 150, 1)],
)
def test_equals_scipy(m, n, shift, dtype, rtol):
    one, other = RNG.normal(size=m), RNG.normal(shift, 1, n)
    expected = stats.ks_2samp(one, other, method="exact")
    found = jax.jit(forget_quality)(jnp.asarray(one, dtype), jnp.asarray(other, dtype))
    assert found.p_value.dtype == dtype
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-6)
    np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=rtol)


@pytest.mark.parametrize(("m", "n"), [(3, 4), (4, 4), (6, 2)])
def test_chance_is_the_share_of_all_orders(m, n):
    """Every order of the pooled sample is as likely as any other."""

    def distance(places):
        first = np.isin(np.arange(m + n), places)
        return np.abs(np.cumsum(first) / m - np.cumsum(~first) / n).max()

    compiled = jax.jit(forget_quality)
    every = np.array([distance(c) for c in itertools.combinations(range(m + n), m)])
    for places in itertools.combinations(range(m + n), m):
        first = np.isin(np.arange(m + n), places)
        values = np.arange(m + n) * 1.0
        found = compiled(jnp.asarray(values[first]), jnp.asarray(values[~first]))
        share = np.mean(every >= distance(places) - 1e-9)
        np.testing.assert_allclose(found.p_value, share, rtol=1e-12)
        if places[0] > 0:
            break


def test_small_chances_keep_their_digits():
    one, other = np.arange(60.0), np.arange(60.0) + 100
    found = forget_quality(jnp.asarray(one), jnp.asarray(other))
    # 2 of (120 over 60) orders.
    exact = 2 * np.exp(-np.sum(np.log(np.arange(61, 121) / np.arange(1, 61))))
    np.testing.assert_allclose(found.p_value, exact, rtol=1e-10)
    assert found.statistic == 1


def test_ties_count_together_and_equal_samples_are_not_told_apart():
    one, other = RNG.integers(0, 4, 30) * 1.0, RNG.integers(1, 5, 20) * 1.0
    expected = stats.ks_2samp(one, other, method="exact")
    found = forget_quality(jnp.asarray(one), jnp.asarray(other))
    np.testing.assert_allclose(
        [found.statistic, found.p_value], [expected.statistic, expected.pvalue], rtol=1e-10
    )
    same = forget_quality(jnp.asarray(one), jnp.asarray(one))
    assert (same.statistic, same.p_value) == (0, 1)


def test_monotone_maps_change_nothing_and_vmap_works():
    one, other = (jnp.asarray(RNG.normal(size=(3, n))) for n in (12, 9))
    found = jax.vmap(forget_quality)(one, other)
    for f in (jnp.exp, lambda x: -x):
        mapped = jax.vmap(forget_quality)(f(one), f(other))
        np.testing.assert_allclose(mapped.p_value, found.p_value, rtol=1e-12)
    expected = [forget_quality(*pair).p_value for pair in zip(one, other, strict=True)]
    np.testing.assert_allclose(found.p_value, expected, rtol=1e-12)


def test_missing_and_bad_ratios(unchecked):
    ratio = jnp.array([1.0, np.nan, 2.0])
    assert np.isnan(forget_quality(ratio, jnp.ones(3)).p_value)
    with pytest.raises(ValueError, match=r"ratio=\w+\[3, 1\]"):
        forget_quality(ratio[:, None], ratio)
    with pytest.raises(ValueError, match=r"retrained_ratio=\w+\[0\]"):
        forget_quality(ratio, ratio[:0])
    with pytest.raises(ValueError, match=r"below 2\^31 pairs"):
        jax.eval_shape(forget_quality, *(jax.ShapeDtypeStruct((50_000,), "float32"),) * 2)
