"""Privacy leakage against scikit-learn's area under the ROC curve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning.metrics._privacy import auroc, privacy_leakage

RNG = np.random.default_rng(0)
FORGET, HOLDOUT, RETRAINED_FORGET, RETRAINED_HOLDOUT = (
    RNG.normal(shift, 1, n) for shift, n in ((0.5, 40), (0, 30), (0.1, 40), (0, 35))
)


def area(forget, holdout):
    """As the code of MUSE has it: texts held out are labelled 1."""
    metrics = pytest.importorskip("sklearn.metrics")
    label = np.r_[np.zeros(len(forget)), np.ones(len(holdout))]
    return metrics.roc_auc_score(label, np.r_[forget, holdout])


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("digits", [None, 0])
def test_leakage_equals_scikit_learn(digits, dtype, rtol):
    # Scores without decimals are mostly ties.
    texts = [
        x if digits is None else np.round(x, digits)
        for x in (FORGET, HOLDOUT, RETRAINED_FORGET, RETRAINED_HOLDOUT)
    ]
    arrays = [jnp.asarray(x, dtype) for x in texts]
    unlearned, retrained = area(*texts[:2]), area(*texts[2:])
    np.testing.assert_allclose(auroc(arrays[1], arrays[0]), unlearned, rtol=rtol)
    found = jax.jit(privacy_leakage)(*arrays)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, 100 * (unlearned - retrained) / retrained, rtol=10 * rtol)


def test_leakage_at_its_ends():
    low, high = jnp.arange(3.0), jnp.arange(5.0) + 10
    # A model that knows the forget set; one that shuns it; one like the retrained one.
    assert privacy_leakage(high, low, low, low) == -100
    assert privacy_leakage(low, high, low, low) == 100
    assert privacy_leakage(low, low, high, high) == 0


def test_chance_of_ties_and_missing_scores():
    assert auroc(jnp.zeros(3), jnp.zeros(4)) == 0.5
    assert auroc(jnp.array([1.0, 2.0]), jnp.array([1.0])) == 0.75
    assert np.isnan(auroc(jnp.array([1.0, np.nan]), jnp.array([1.0])))
    assert np.isnan(auroc(jnp.array([1.0]), jnp.array([1.0, np.nan])))


def test_vmap_equals_one_by_one():
    high, low = jnp.asarray(FORGET.reshape(4, 10)), jnp.asarray(HOLDOUT[:20].reshape(4, 5))
    expected = [auroc(*pair) for pair in zip(high, low, strict=True)]
    np.testing.assert_allclose(jax.vmap(auroc)(high, low), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("high", "low", "message"),
    [
        (FORGET[None], HOLDOUT, r"positive=\w+\[1, 40\]: accepted is \[row\]"),
        (FORGET, HOLDOUT[:0], r"negative=\w+\[0\]"),
        (FORGET, HOLDOUT.astype(int), "negative=int64"),
    ],
)
def test_bad_input_is_named(high, low, message, unchecked):
    with pytest.raises(ValueError, match=message):
        auroc(jnp.asarray(high), jnp.asarray(low))
