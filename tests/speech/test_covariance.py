import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from jaxml.speech._covariance import pooled_covariance

compiled = jax.jit(pooled_covariance, static_argnums=2, static_argnames="shrinkage")


def classes(rows, width, count):
    rng = np.random.default_rng(rows + width)
    labels = rng.permutation(np.arange(rows) % count)
    mixing = rng.normal(size=(width, width))
    return rng.normal(size=(rows, width)) @ mixing + rng.normal(size=(count, width))[labels], labels


@pytest.mark.parametrize(
    ("rows", "width", "shrinkage"),
    [(200, 6, None), (30, 80, None), (40, 1, None), (200, 6, 0.2), (30, 80, 1.0)],
)
def test_equals_scikit_learn(rows, width, shrinkage):
    features, labels = classes(rows, width, 4)
    reference = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage="auto" if shrinkage is None else shrinkage
    ).fit(features, labels)
    found = compiled(jnp.asarray(features), jnp.asarray(labels), 4, shrinkage=shrinkage)
    scale = np.abs(reference.covariance_).max()
    np.testing.assert_allclose(found, reference.covariance_, atol=1e-12 * scale)


def test_feature_constant_in_one_class_equals_scikit_learn():
    features, labels = classes(60, 5, 3)
    features[labels == 1, 2] = 0.1
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features, labels)
    found = compiled(jnp.asarray(features), jnp.asarray(labels), 3)
    np.testing.assert_allclose(found, reference.covariance_, atol=1e-12)


def test_class_without_rows_counts_nothing():
    features, labels = (jnp.asarray(v) for v in classes(60, 5, 3))
    np.testing.assert_allclose(
        compiled(features, labels, 4),
        pooled_covariance(features, labels, 3),
        atol=1e-12,
    )
