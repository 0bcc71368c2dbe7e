"""The split of classes against scikit-learn's mixture, and which side it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.backdoor._class_split import class_split

ROWS, WIDTH, CLASSES = 80, 12, 3
LABELS = np.tile(np.arange(CLASSES), ROWS)


def clouds(poisoned, seed=0):
    """Return features and flags: `poisoned` rows of class 0 lie in a cloud of their own."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(LABELS), WIDTH)) + 5 * LABELS[:, None]
    flags = (LABELS == 0) & (np.arange(len(LABELS)) < CLASSES * poisoned)
    features[flags] += 3
    return features, flags


def split(features, hint, **settings):
    return class_split(
        jnp.asarray(features), jnp.asarray(LABELS), jnp.asarray(hint), classes=CLASSES, **settings
    )


@pytest.mark.parametrize("tied", [True, False])
def test_size_is_sklearns_gain_of_a_second_gaussian(tied):
    from sklearn.mixture import GaussianMixture

    features, flags = clouds(30)
    found = np.asarray(split(features, flags * 1.0, components=5, tied=tied))[LABELS == 0]
    rows = features[LABELS == 0]
    rows = rows - rows.mean(0)
    rows = rows @ np.linalg.svd(rows)[2][:5].T
    rows = rows / rows.std(0)
    kind = "tied" if tied else "full"
    settings = dict(covariance_type=kind, reg_covar=1e-2, tol=1e-9, max_iter=500)
    fit = lambda n: GaussianMixture(n, n_init=10, random_state=0, **settings).fit(rows)
    np.testing.assert_allclose(np.abs(found), fit(2).score(rows) - fit(1).score(rows), rtol=1e-3)


@pytest.mark.parametrize("poisoned, hint", [(12, -1.0), (30, 0.3), (50, 0.3)])
def test_the_poisoned_cloud_ranks_first(poisoned, hint):
    """A small cloud whatever the hint says; a large one by a hint far within its noise."""
    features, flags = clouds(poisoned)
    noise = np.random.default_rng(1).normal(size=len(LABELS))
    noise[flags] += hint + noise[LABELS == 0].mean() - noise[flags].mean()
    found = split(features, noise, components=5)
    assert np.min(found[flags]) > np.max(found[~flags])


def test_jit_vmap_and_float32():
    features, flags = clouds(30)
    batch = jnp.asarray(np.stack([features, features[::-1]]))
    function = lambda x: split(x, flags * 1.0, components=2, iterations=5)
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(batch)[0], function(batch[0]), atol=1e-6)
    single = jax.ShapeDtypeStruct(features.shape, "float32")
    hint, labels = jax.ShapeDtypeStruct(flags.shape, "float32"), jnp.asarray(LABELS)
    one = lambda x, h: class_split(x, labels, h, classes=CLASSES)
    assert jax.eval_shape(one, single, hint).dtype == "float32"


BAD = {
    r"hint=float64\[3\]: accepted is \[4\], the shape of labels": lambda x, y: class_split(
        x, y, jnp.ones(3)
    ),
    "components=0": lambda x, y: class_split(x, y, jnp.ones(4), components=0),
    "labels=.* with values from 0 to 1: accepted is 0 to 0": lambda x, y: class_split(
        x, y, jnp.ones(4), classes=1
    ),
    "hint=.* with NaN or infinity: accepted is finite": lambda x, y: class_split(
        x, y, jnp.full(4, jnp.nan)
    ),
    "features=.* with NaN or infinity: accepted is finite": lambda x, y: class_split(
        x * jnp.nan, y, jnp.ones(4)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message, unchecked):
    with pytest.raises(ValueError, match=message):
        BAD[message](jnp.ones((4, 2)), jnp.asarray([0, 1, 0, 1]))
