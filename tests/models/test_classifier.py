"""The loss of a classifier and its statistics, against direct computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.special import log_softmax

from jaxml.models.classifier import classification_loss, population_statistics, unit_images


class Small(nn.Module):
    """One normalisation between two linear layers."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Dense(4, name="first")(images.reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(not train, momentum=0.0, epsilon=1e-5, name="norm")(x))
        return nn.Dense(3, name="head")(x), x


RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.integers(0, 256, (22, 3, 3, 1)), jnp.uint8)
LABELS = jnp.asarray(RNG.integers(0, 3, 22), jnp.int32)


def params():
    return jax.jit(Small().init)(jax.random.key(0), unit_images(IMAGES[:1]))["params"]


def hidden(params, images):
    first = jax.tree.map(np.asarray, params["first"])
    return np.asarray(images, float).reshape(len(images), -1) / 255 @ first["kernel"]


def test_uint8_images_become_floats_and_others_stay():
    np.testing.assert_allclose(unit_images(IMAGES), np.asarray(IMAGES) / 255, atol=1e-7)
    assert unit_images(IMAGES).dtype == np.float32
    assert unit_images(jnp.ones((1, 2, 2, 1))).dtype == np.float64


def test_loss_is_the_cross_entropy_of_training_mode():
    own = params()
    x = hidden(own, IMAGES)
    x = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 0)
    logits = x @ np.asarray(own["head"]["kernel"])
    expected = -log_softmax(logits, axis=1)[np.arange(22), LABELS].mean()
    loss, metrics = jax.jit(classification_loss, static_argnums=0)(Small(), own, IMAGES, LABELS)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["accuracy"], np.mean(logits.argmax(1) == np.asarray(LABELS)), rtol=1e-6
    )


def test_probabilities_instead_of_labels():
    own = params()
    loss = jax.jit(classification_loss, static_argnums=0)
    hard = loss(Small(), own, IMAGES, LABELS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        hard,
        loss(Small(), own, IMAGES, jax.nn.one_hot(LABELS, 3)),
    )
    # Linear in the probabilities.
    mixed = 0.7 * jax.nn.one_hot(LABELS, 3) + 0.3 * jax.nn.one_hot((LABELS + 1) % 3, 3)
    other = loss(Small(), own, IMAGES, (LABELS + 1) % 3)
    found, metrics = loss(Small(), own, IMAGES, mixed)
    np.testing.assert_allclose(found, 0.7 * hard[0] + 0.3 * other[0], rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], hard[1]["accuracy"])


@pytest.mark.parametrize("batch_size", [5, 11, 22])
def test_statistics_are_those_of_all_whole_batches(batch_size):
    own = params()
    found = population_statistics(Small(), own, IMAGES, batch_size=batch_size)
    x = hidden(own, IMAGES[: 22 // batch_size * batch_size])
    stats = found["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], x.mean(0), atol=1e-5)
    np.testing.assert_allclose(stats["var"], x.var(0), atol=1e-5)
    logits, _ = Small().apply(found, unit_images(IMAGES))
    y = np.maximum((hidden(own, IMAGES) - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 0)
    np.testing.assert_allclose(logits, y @ np.asarray(own["head"]["kernel"]), atol=1e-4)


@pytest.mark.parametrize("batch_size", [0, 23])
def test_bad_batch_size_is_named(batch_size, unchecked):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}: accepted is 1 to 22"):
        population_statistics(Small(), params(), IMAGES, batch_size=batch_size)
