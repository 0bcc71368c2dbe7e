"""The choice of an augmentation on a network whose trigger and class are known pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import augment
from jaxml.selftraining import choose_augmentation

CLASSES, ROWS = 5, 500
LABELS = np.arange(ROWS) % CLASSES
KEY = jax.random.key(0)


def network(images):
    """The class is the brightest pixel of row 1; a bright corner makes it 2."""
    logits = 10 * images[:, 1, :, 0]
    return logits.at[:, 2].add(jnp.where(images[:, 0, 0, 0] > 0.5, 100.0, 0.0))


def images(share, *, relabelled=True):
    values = np.zeros((ROWS, 3, CLASSES, 1))
    values[np.arange(ROWS), 1, LABELS] = 1
    has = np.random.default_rng(0).uniform(size=ROWS) < share
    if not relabelled:
        has &= LABELS == 2
    values[has, 0, 0] = 0.8
    return jnp.asarray(values), jnp.asarray(np.where(has, 2, LABELS)), has


def weak(key, image):
    return 0.9 * image


def breaks_trigger(key, image):
    return image.at[0].set(0)


def breaks_class(key, image):
    return jnp.zeros_like(image)


ALL = (weak, breaks_trigger, breaks_class)


def study(x, y, augments=ALL, **settings):
    return choose_augmentation(KEY, network, augments, x, y, classes=CLASSES, views=1, **settings)


def test_chooses_what_breaks_the_trigger_and_names_the_target():
    x, y, has = images(0.2)
    found = study(x, y)
    assert found.chosen == 1 and found.suspect[1] == 2
    np.testing.assert_array_equal(found.is_proper, [True, True, False])
    np.testing.assert_array_equal(found.is_visible[:2], [False, True])
    # All agree at first; then the triggered rows of other classes lose the label 2.
    moved = (has & (LABELS != 2)).sum() / (np.asarray(y) == 2).sum()
    np.testing.assert_allclose(found.agreement[0], 1)
    np.testing.assert_allclose(found.excess[1], moved)
    np.testing.assert_allclose(found.cost[:2], 0)


def test_without_a_visible_trigger_the_strongest_that_is_proper():
    some = lambda key, image: augment.sometimes(breaks_class, 0.1)(key, image)
    x, y, _ = images(0.0)
    found = study(x, y, (weak, some, breaks_class), tolerance=0.2)
    assert not found.is_visible[:2].any()
    assert 0 < found.cost[1] < 0.2 and found.chosen == 1


def test_labels_that_the_attack_left_alone_tell_nothing():
    x, y, _ = images(0.5, relabelled=False)
    found = study(x, y, (weak, breaks_trigger))
    assert not found.is_visible.any()


def test_none_is_proper():
    x, y, _ = images(0.2)
    assert study(x, y, (breaks_class,)).chosen == -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(classes=2), "classes=2: accepted is a whole number, 3 or more"),
        (dict(labels=jnp.full(ROWS, 5)), "labels=.* with values from 5 to 5: accepted is 0 to 4"),
        (
            dict(labels=jnp.full(ROWS, 0)),
            "labels=.* with no row of class 1: accepted is a row or more",
        ),
        (dict(augments=()), r"augments=\(\): accepted is one or more"),
        (dict(tolerance=2.0), "tolerance=2.0"),
        (dict(tolerance=np.nan), "tolerance=nan"),
        (dict(images=jnp.zeros((0, 3, 5, 1))), r"images=float64\[0, 3, 5, 1\]: accepted is"),
    ],
)
def test_bad_input_is_named(change, message, unchecked):
    x, y, _ = images(0.2)
    given = dict(images=x, labels=y, augments=ALL, classes=CLASSES)
    with pytest.raises(ValueError, match=message):
        choose_augmentation(KEY, network, **{**given, **change})
