"""Pseudo-labels against float64 numpy, and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import Partial

from jaxml import augment
from jaxml.selftraining import pseudo_label
from jaxml.sharding import data_mesh

IMAGES = np.random.default_rng(0).uniform(size=(16, 6, 6, 3))
WEIGHT = np.random.default_rng(1).normal(size=(108, 4))
KEY = jax.random.key(2)


def linear(weight, images):
    return images.reshape(len(images), -1) @ weight.astype(images.dtype)


NETWORK = Partial(linear, jnp.asarray(WEIGHT))


def views(count):
    """Views of every row as documented: the key of a row is that of its number."""
    rows = [jax.random.split(jax.random.fold_in(KEY, i), count) for i in range(16)]
    one = jax.jit(jax.vmap(augment.flip_crop, (0, None)))
    return np.stack([one(keys, jnp.asarray(x)) for keys, x in zip(rows, IMAGES, strict=True)])


@pytest.mark.parametrize("batch_size", [5, 64])
def test_labels_are_those_of_the_mean_probability(batch_size):
    found = pseudo_label(
        KEY, NETWORK, augment.flip_crop, jnp.asarray(IMAGES), views=3, batch_size=batch_size
    )
    logits = views(3).reshape(16, 3, -1) @ WEIGHT
    p = scipy.special.softmax(logits, axis=-1).mean(axis=1)
    np.testing.assert_allclose(found.probabilities, p, rtol=1e-12)
    np.testing.assert_array_equal(found.labels, p.argmax(axis=1))
    np.testing.assert_array_equal(found.targets, np.eye(4)[p.argmax(axis=1)])
    np.testing.assert_allclose(found.confidence, p.max(axis=1), rtol=1e-12)
    agree = (logits.argmax(axis=-1) == p.argmax(axis=1)[:, None]).mean(axis=1)
    np.testing.assert_allclose(found.agreement, agree)
    assert len(np.unique(agree)) > 1 and found.kept.all()


def test_vanilla_labels_are_those_of_the_network():
    found = pseudo_label(KEY, NETWORK, augment.identity, jnp.asarray(IMAGES), views=1, soft=True)
    p = scipy.special.softmax(IMAGES.reshape(16, -1) @ WEIGHT, axis=-1)
    np.testing.assert_allclose(found.targets, p, rtol=1e-12)
    assert (found.agreement == 1).all()


def test_threshold_and_the_best_of_each_class():
    found = pseudo_label(
        KEY, NETWORK, augment.identity, jnp.asarray(IMAGES), views=1, threshold=0.6, per_class=2
    )
    confidence, labels = np.asarray(found.confidence), np.asarray(found.labels)
    expected = np.zeros(16, bool)
    for c in range(4):
        rows = np.flatnonzero(labels == c)
        expected[rows[np.argsort(-confidence[rows])][:2]] = True
    assert expected.sum() < 16
    np.testing.assert_array_equal(found.kept, expected & (confidence >= 0.6))


def test_bytes_single_precision_and_devices():
    data = jnp.asarray(np.round(255 * IMAGES), jnp.uint8)
    label = lambda x: pseudo_label(KEY, NETWORK, augment.identity, x, views=1)
    found = label(data)
    assert found.probabilities.dtype == "float32"
    expected = scipy.special.softmax(
        np.asarray(data, float).reshape(16, -1) / 255 @ WEIGHT, axis=-1
    )
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    spread = label(jax.device_put(data, NamedSharding(data_mesh(), P("data"))))
    np.testing.assert_allclose(spread.probabilities, found.probabilities, atol=1e-6)


def test_the_next_network_is_not_traced_again():
    traces = []

    def network(weight, images):
        traces.append(images.shape)
        return linear(weight, images)

    for scale in (1, 2):
        given = Partial(network, scale * jnp.asarray(WEIGHT))
        found = pseudo_label(KEY, given, augment.identity, jnp.asarray(IMAGES), views=1)
        expected = scipy.special.softmax(scale * IMAGES.reshape(16, -1) @ WEIGHT, axis=-1)
        np.testing.assert_allclose(found.probabilities, expected, rtol=1e-11)
    assert len(traces) == 1


def test_jit_equals_plain_call():
    run = lambda key, x: pseudo_label(key, NETWORK, augment.flip_crop, x, views=2)
    plain, found = run(KEY, jnp.asarray(IMAGES)), jax.jit(run)(KEY, jnp.asarray(IMAGES))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (np.zeros((0, 6, 6, 3)), {}, r"images=float64\[0, 6, 6, 3\]: accepted is"),
        (
            np.zeros((2, 6, 6, 3), int),
            {},
            r"images=int64\[2, 6, 6, 3\]: accepted is uint8 or floating-point",
        ),
        (
            IMAGES,
            dict(threshold=1.0),
            "threshold=1.0: accepted is up to the highest confidence of 16 rows, 0",
        ),
        (IMAGES, dict(threshold=1.5), "threshold=1.5: accepted is 0 to 1"),
        (IMAGES, dict(threshold=np.nan), "threshold=nan: accepted is 0 to 1"),
        (IMAGES, dict(views=0), "views=0"),
        (IMAGES, dict(per_class=0), "per_class=0"),
        (IMAGES, dict(batch_size=0), "batch_size=0"),
        (np.where(np.arange(16)[:, None, None, None] == 3, np.nan, IMAGES), {}, "row 3 of images"),
    ],
)
def test_bad_input_is_named(images, settings, message, unchecked):
    with pytest.raises(ValueError, match=message):
        pseudo_label(KEY, NETWORK, augment.identity, jnp.asarray(images), **settings)


def test_a_network_of_other_shape_is_named(unchecked):
    with pytest.raises(
        ValueError, match=r"logits_fn\(images\)=float64\[16, 6, 6, 3\]: accepted is \[16, class"
    ):
        pseudo_label(KEY, lambda x: x, augment.identity, jnp.asarray(IMAGES), views=1)
