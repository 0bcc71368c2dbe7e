"""The combined score against ranks of scipy, and what a useless score may do to a good one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxml.backdoor._combine_scores import combine_scores

SCORES = np.random.default_rng(0).normal(size=(2, 3, 50))
SCORES[:, 1] = np.round(SCORES[:, 1])


def test_it_is_fishers_sum_of_scipys_mid_ranks():
    rank = (stats.rankdata(SCORES[0], axis=1) - 0.5) / 50
    found = combine_scores(jnp.asarray(SCORES[0]))
    np.testing.assert_allclose(found, -np.log(1 - rank).mean(0), rtol=1e-12)


def test_names_and_monotone_scales_change_nothing():
    named = {"a": jnp.asarray(SCORES[0, 0]), "b": jnp.exp(jnp.asarray(SCORES[0, 1]))}
    np.testing.assert_allclose(combine_scores(named), combine_scores(jnp.asarray(SCORES[0, :2])))


@pytest.mark.parametrize("seed", range(3))
def test_two_good_scores_outlive_two_of_noise(seed):
    rng = np.random.default_rng(seed)
    poisoned = np.arange(2000) < 200
    scores = rng.normal(size=(4, 2000))
    scores[:2] += 4 * poisoned
    found = np.asarray(combine_scores(jnp.asarray(scores)))
    wins = stats.mannwhitneyu(found[poisoned], found[~poisoned]).statistic
    assert wins / (200 * 1800) > 0.95


def test_jit_vmap_and_float32():
    batch = jnp.asarray(SCORES)
    found = jax.jit(jax.vmap(combine_scores))(batch)
    np.testing.assert_allclose(found[1], combine_scores(batch[1]))
    assert combine_scores(batch[0].astype("float32")).dtype == "float32"


BAD = {
    "scores={}: accepted is one or more": {},
    r"scores=.*'b': 'float64\[2\]'.*: accepted is one or more, all \[row\]": {
        "a": jnp.ones(3),
        "b": jnp.ones(2),
    },
    r"scores=float64\[3\]: accepted is \[score, row\]": jnp.ones(3),
    "scores=int.*: accepted is floating-point numbers": jnp.ones((2, 3), int),
    "scores=.* with NaN or infinity: accepted is finite": jnp.full((2, 3), jnp.nan),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message, unchecked):
    with pytest.raises(ValueError, match=message):
        combine_scores(BAD[message])
