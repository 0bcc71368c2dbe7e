"""Training of one classifier, and of several in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxml.models.classifier import unit_images
from jaxml.reproduce.images import classifier
from jaxml.reproduce.images.classifier import train_classifier


class Small(nn.Module):
    """A normalisation between two linear layers, for three classes."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Dense(8)(images.reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(not train, momentum=0.0, name="norm")(x))
        return nn.Dense(3)(x), x


def stripes(seed):
    """Images whose class is the bright row, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 120)
    images = rng.integers(0, 150, (120, 4, 4, 1))
    images[np.arange(120), labels] += 100
    return jnp.asarray(images, jnp.uint8), jnp.asarray(labels, jnp.int32)


def accuracy(model, variables, images, labels):
    logits, _ = jax.jit(model.apply)(variables, unit_images(images))
    return np.mean(np.argmax(np.asarray(logits), axis=1) == np.asarray(labels))


SETTINGS = dict(steps=60, batch_size=32, learning_rate=0.1)


def test_learns_and_is_repeatable():
    data = stripes(0)
    runs = [train_classifier(jax.random.key(0), Small(), *data, **SETTINGS) for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *runs)
    assert accuracy(Small(), runs[0], *stripes(1)) > 0.9
    assert set(runs[0]) == {"params", "batch_stats"}


def test_goes_on_from_its_checkpoints(tmp_path):
    data, settings = stripes(0), {**SETTINGS, "steps": 6, "decay_at": ()}
    train = lambda **s: train_classifier(jax.random.key(0), Small(), *data, **settings | s)
    train(steps=3, folder=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, train(folder=tmp_path), train())


def test_augmented_images_and_a_given_start():
    images, labels = stripes(0)
    dark = lambda key, image: image * 0.5
    halves = {**SETTINGS, "steps": 4, "batch_size": 120}
    trained = train_classifier(jax.random.key(0), Small(), images, labels, augment=dark, **halves)
    even = 2 * (images // 2)
    expected = train_classifier(jax.random.key(0), Small(), even // 2, labels, **halves)
    found = train_classifier(jax.random.key(0), Small(), even, labels, augment=dark, **halves)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        found["params"],
        expected["params"],
    )
    # A step at rate 0 without momentum stays at the start, but for the decay of weights.
    still = {**SETTINGS, "steps": 1, "learning_rate": 0.0}
    again = train_classifier(
        jax.random.key(5), Small(), images, labels, params=trained["params"], **still
    )
    jax.tree.map(np.testing.assert_array_equal, again["params"], trained["params"])
    with pytest.raises(ValueError, match="images=.*: accepted is .* one network, where params"):
        both = jnp.stack([images] * 2), jnp.stack([labels] * 2)
        train_classifier(jax.random.key(0), Small(), *both, params=trained["params"], **still)


def test_probabilities_as_labels():
    images, labels = stripes(0)
    few = {**SETTINGS, "steps": 3}
    hard = train_classifier(jax.random.key(0), Small(), images, labels, **few)
    soft = train_classifier(jax.random.key(0), Small(), images, jax.nn.one_hot(labels, 3), **few)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), hard, soft)


def test_the_rate_falls_as_that_of_optax():
    decays = {2: 0.1, 4: 0.1}
    schedule = optax.piecewise_constant_schedule(0.3, decays)
    peer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(schedule, momentum=0.9))
    found = expected = jnp.linspace(-1, 1, 5, dtype=jnp.float32)
    own = classifier._sgd(0.3, tuple(decays))
    states = own.init(found), peer.init(found)
    for step in range(6):
        slope = jnp.cos(jnp.float32(step) + found)
        with jax.numpy_dtype_promotion("standard"):
            change, state = own.update(slope, states[0], found)
            peers, other = peer.update(slope, states[1], expected)
        found, expected, states = found + change, expected + peers, (state, other)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_one_program_serves_any_number_of_rows_and_steps_and_any_rate():
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images, *, train=False):
            traces.append(images.shape)
            x = nn.relu(nn.Conv(2, (3, 3))(images)).reshape(len(images), -1)
            return nn.Dense(3)(x), x

    images, labels = stripes(0)
    first = dict(steps=4, batch_size=30, learning_rate=0.1)
    train_classifier(jax.random.key(0), Counted(), images, labels, **first)
    compiled = len(traces)
    other = {**first, "steps": 6, "learning_rate": 0.3}
    train_classifier(jax.random.key(1), Counted(), images[:90], labels[:90], **other)
    # The loss is looked at once, for its shapes.
    assert compiled > 1 and len(traces) == compiled + 1


def test_several_in_one_program_equal_each_on_its_own():
    """The second set is poisoned: each network follows its own labels."""
    images, labels = stripes(0)
    poisoned = images.at[:40, 3, 3].set(255), labels.at[:40].set(2)
    both = [jnp.stack(pair) for pair in zip((images, labels), poisoned, strict=True)]
    steps = {**SETTINGS, "steps": 3}
    found = train_classifier(jax.random.key(0), Small(), *both, **steps)
    # The same start and the same order of rows, by gradient descent written out.
    assert jax.tree.leaves(found)[0].shape[0] == 2
    alone = alone_from_the_same_start(Small(), both, steps)
    for i, expected in enumerate(alone):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], found["params"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), own, expected)


def alone_from_the_same_start(model, both, steps):
    """Return parameters after SGD with momentum, one network after the other."""
    from jaxml.models.classifier import classification_loss
    from jaxml.training import batch_indices
    from jaxml.training.batches import ORDER

    key_init, key_fit = jax.random.split(jax.random.key(0))
    gradient = jax.jit(jax.grad(classification_loss, 1, has_aux=True), static_argnums=0)
    results = []
    for images, labels, key in zip(*both, jax.random.split(key_init, 2), strict=True):
        params = jax.jit(model.init)(key, unit_images(images[:1]))["params"]
        velocity = jax.tree.map(jnp.zeros_like, params)
        for i in range(steps["steps"]):
            rows = batch_indices(jax.random.fold_in(key_fit, ORDER), i, 120, 32)
            slope = gradient(model, params, images[rows], labels[rows])[0]
            # decays at half and three quarters of 3 steps: after 1 and 2
            rate = 0.1 * 0.1 ** (i >= 1) * 0.1 ** (i >= 2)
            velocity = jax.tree.map(lambda v, g, p: 0.9 * v + g + 5e-4 * p, velocity, slope, params)
            params = jax.tree.map(lambda p, v, r=rate: p - r * v, params, velocity)
        results.append(params)
    return results
