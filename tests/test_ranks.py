"""Ranks and the area under the ROC curve beside scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxml import ranks

RNG = np.random.default_rng(0)
SCORE = RNG.integers(0, 9, size=60) / 8
POSITIVE = RNG.uniform(size=60) < 0.4


def test_ranks_share_ties_as_in_scipy():
    np.testing.assert_array_equal(ranks.mid_ranks(jnp.asarray(SCORE)), stats.rankdata(SCORE))
    half = ranks.mid_ranks(jnp.asarray(SCORE, jnp.float16))
    assert half.dtype == jnp.float32
    np.testing.assert_array_equal(half, stats.rankdata(SCORE))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 5e-6), ("float64", 1e-14)])
def test_area_is_the_mann_whitney_statistic(dtype, tolerance):
    score = jnp.asarray(SCORE, dtype)
    area = jax.jit(ranks.auroc)(score, jnp.asarray(POSITIVE))
    u = stats.mannwhitneyu(SCORE[POSITIVE], SCORE[~POSITIVE]).statistic
    assert area.dtype == dtype
    assert abs(float(area) - u / (POSITIVE.sum() * (~POSITIVE).sum())) < tolerance
    rows = jnp.stack([score, -score])
    both = jax.vmap(ranks.auroc, (0, None))(rows, jnp.asarray(POSITIVE))
    np.testing.assert_allclose(both, [float(area), 1 - float(area)], atol=tolerance)


def test_integers_are_ranked_as_numbers():
    score, positive = np.arange(60) // 7, jnp.asarray(POSITIVE)
    rank = ranks.mid_ranks(jnp.asarray(score))
    assert rank.dtype == "float32"
    np.testing.assert_array_equal(rank, stats.rankdata(score))
    area = ranks.auroc(jnp.asarray(score), positive)
    assert area.dtype == "float32"
    np.testing.assert_allclose(
        area, ranks.auroc(jnp.asarray(score, "float64"), positive), rtol=1e-6
    )


def test_without_an_answer_it_is_nan():
    with_nan = jnp.asarray(SCORE).at[3].set(jnp.nan)
    assert jnp.isnan(ranks.auroc(with_nan, jnp.asarray(POSITIVE)))
    assert jnp.isnan(ranks.auroc(jnp.asarray(SCORE), jnp.ones(60, bool)))
