"""Measures of detection against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from jaxml.backdoor._evaluate import auroc, detection_rates

RNG = np.random.default_rng(0)
# Twelve values for 500 rows: mostly ties, as the scores of eleven scales.
SCORE = RNG.integers(-6, 6, 500) / 6
TRUTH = RNG.uniform(size=500) < 0.1


@pytest.mark.parametrize("score", [SCORE, RNG.normal(size=500), SCORE * 0, TRUTH * 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_auroc_equals_scikit_learn(score, dtype):
    score, truth = jnp.asarray(score, dtype), jnp.asarray(TRUTH)
    for call in (auroc, jax.jit(auroc)):
        assert call(score, truth).dtype == dtype
        np.testing.assert_allclose(call(score, truth), roc_auc_score(TRUTH, score), rtol=2e-6)


def test_scores_in_half_precision_are_ranked_exactly():
    score = jnp.asarray(SCORE, jnp.bfloat16)
    expected = roc_auc_score(TRUTH, np.asarray(score, float))
    np.testing.assert_allclose(float(auroc(score, jnp.asarray(TRUTH))), expected, rtol=1e-2)


def test_a_truth_that_jit_captures_is_looked_at():
    score, truth = jnp.asarray(SCORE), jnp.asarray(TRUTH)
    expected = auroc(score, truth)
    np.testing.assert_allclose(jax.jit(lambda score: auroc(score, truth))(score), expected)


def test_rates_equal_scikit_learn():
    found = detection_rates(jnp.asarray(SCORE > 0), jnp.asarray(TRUTH))
    (tn, fp), (fn, tp) = confusion_matrix(TRUTH, SCORE > 0)
    np.testing.assert_allclose(found.true_positive, tp / (tp + fn))
    np.testing.assert_allclose(found.false_positive, fp / (fp + tn))


def test_a_set_without_poison_has_a_false_positive_rate():
    found = detection_rates(jnp.array([True, False, False, False]), jnp.zeros(4, bool))
    assert found.false_positive == 0.25
    assert np.isnan(found.true_positive)


@pytest.mark.parametrize(
    ("score", "truth", "message"),
    [
        (SCORE[:3], TRUTH, r"is_poisoned=bool\[500\]: accepted is \[3\], the shape of score"),
        (SCORE[:0], TRUTH[:0], r"score=float64\[0\]: accepted is \[row\]"),
        (SCORE, TRUTH | True, "is_poisoned=.* with rows of one kind alone: .* both kinds"),
        (SCORE, TRUTH & False, "is_poisoned=.* with rows of one kind alone: .* both kinds"),
        (SCORE > 0, TRUTH, r"score=bool\[500\]: accepted is floating-point"),
        (np.arange(500), TRUTH, r"score=int64\[500\]: accepted is floating-point"),
        (SCORE, TRUTH * 1, r"is_poisoned=int64\[500\]: accepted is bool"),
        (SCORE * np.nan, TRUTH, "score=.* with NaN: accepted is numbers"),
    ],
)
def test_bad_rows_are_named(score, truth, message, unchecked):
    with pytest.raises(ValueError, match=message):
        auroc(jnp.asarray(score), jnp.asarray(truth))


def test_flags_are_no_numbers(unchecked):
    # Of 1 and 2 the common bits are none.
    with pytest.raises(ValueError, match=r"is_backdoor=int64\[2\]: accepted is bool"):
        detection_rates(jnp.array([2, 2]), jnp.array([True, False]))
