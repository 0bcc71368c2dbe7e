"""The measures of TOFU by hand and against scipy's means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxml.unlearning.metrics._truth import (
    model_utility,
    relative_probability,
    truth_ratio,
    truth_score,
)

RNG = np.random.default_rng(0)
RIGHT, WRONG = -RNG.exponential(size=8), -RNG.exponential(size=(8, 5))


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize(("mean", "average"), [("arithmetic", np.mean), ("geometric", stats.gmean)])
def test_ratio_is_of_means_of_probabilities(mean, average, dtype, rtol):
    right, wrong = jnp.asarray(RIGHT, dtype), jnp.asarray(WRONG, dtype)
    function = lambda *arrays: truth_ratio(*arrays, mean=mean)
    expected = average(np.exp(WRONG), axis=-1) / np.exp(RIGHT)
    found = jax.jit(function)(right, wrong)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=rtol)
    np.testing.assert_allclose(jax.vmap(function)(right, wrong), expected, rtol=rtol)


def test_default_is_arithmetic_and_unlikely_answers_keep_their_ratio():
    low = jnp.asarray(RIGHT - 500, "float32"), jnp.asarray(WRONG - 500, "float32")
    expected = np.exp(WRONG).mean(axis=-1) / np.exp(RIGHT)
    np.testing.assert_allclose(truth_ratio(*low), expected, rtol=1e-4)


def test_scores_by_hand():
    ratio = jnp.array([0.0, 0.25, 1.0, 2.0, np.inf])
    np.testing.assert_allclose(truth_score(ratio), (1 + 0.75) / 5)
    np.testing.assert_allclose(truth_score(ratio, forget=True), (0.25 + 1 + 0.5) / 5)


def test_relative_probability():
    expected = np.exp(RIGHT) / (np.exp(RIGHT) + np.exp(WRONG).sum(axis=-1))
    arrays = jnp.asarray(RIGHT), jnp.asarray(WRONG)
    np.testing.assert_allclose(relative_probability(*arrays), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(relative_probability)(*arrays), expected, rtol=1e-12)


def test_utility_is_the_harmonic_mean():
    scores = RNG.uniform(0.1, 1, 9)
    found = jax.jit(model_utility)(jnp.asarray(scores))
    np.testing.assert_allclose(found, stats.hmean(scores), rtol=1e-12)
    np.testing.assert_allclose(model_utility([0.5, 0.25]), 1 / 3, rtol=1e-6)
    assert model_utility(jnp.asarray(scores).at[4].set(0)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, w: truth_ratio(r, w[:2]), r"perturbed_logp=\w+\[2, 5\]: accepted is \[8, "),
        (lambda r, w: truth_ratio(r, r), r"perturbed_logp=\w+\[8\]"),
        (lambda r, w: truth_ratio(r, w[:, :0]), r"perturbed_logp=\w+\[8, 0\]"),
        (
            lambda r, w: truth_ratio(r, w, mean="harmonic"),
            "mean='harmonic': accepted is one of 'arith",
        ),
        (lambda r, w: truth_score(w), r"ratio=\w+\[8, 5\]"),
        (lambda r, w: relative_probability(r, r), r"false_logp=\w+\[8\]"),
        (lambda r, w: model_utility(r), "scores=.*accepted is 0 or more"),
        (lambda r, w: model_utility(r[:0]), r"scores=\w+\[0\]"),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(jnp.asarray(RIGHT), jnp.asarray(WRONG))
