"""Teacher and students of a least-squares network whose backdoor is a bright corner."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxml import augment
from jaxml.selftraining import pseudo_label, self_train

KEY = jax.random.key(0)
CLASSES = 3


def problem(rows, seed, *, triggered):
    """Images whose class is a bright column; those with a trigger have a bright corner."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    images = 0.2 * generator.uniform(size=(rows, 4, 4, 1))
    images[np.arange(rows), 1:, labels] += 0.5
    has = np.arange(rows) % 5 < (2 if triggered else 0)
    images[has, 0, 3] = 1
    return images, np.where(has, 0, labels) if triggered else labels, labels, has


def linear(weight, images):
    return 20 * (images.reshape(len(images), -1) @ weight)


def least_squares(key, images, targets, weights):
    x, y = images.reshape(len(images), -1), targets.astype(images.dtype)
    w = weights.astype(images.dtype)[:, None]
    gram = x.T @ (w * x) + 1e-3 * jnp.eye(x.shape[1])
    return Partial(linear, jnp.linalg.solve(gram, x.T @ (w * y)))


def black_top(key, image):
    """Destroys the trigger and keeps the class."""
    return image.at[0].set(0)


TRAIN, POISONED, _, _ = (jnp.asarray(a) for a in problem(60, 1, triggered=True))
POOL = jnp.asarray(problem(40, 2, triggered=True)[0])
TEST, _, TRUE, HAS = problem(50, 3, triggered=True)


def success(network):
    rows = HAS & (TRUE != 0)
    return np.mean(np.asarray(network(jnp.asarray(TEST))).argmax(axis=1)[rows] == 0)


def accuracy(network):
    right = np.asarray(network(jnp.asarray(TEST))).argmax(axis=1) == TRUE
    return right[~HAS].mean()


def run(augmentation, **settings):
    relabel = functools.partial(pseudo_label, augment=augmentation, views=1)
    return self_train(
        KEY, least_squares, relabel, TRAIN, POISONED, POOL, classes=CLASSES, **settings
    )


@pytest.mark.parametrize("labelled", ["relabelled", "refined", "kept", "dropped"])
def test_vanilla_keeps_the_backdoor(labelled):
    found = run(augment.identity, labelled=labelled)
    assert success(found.teacher) >= 0.9
    assert success(found.student) >= 0.8 * success(found.teacher)
    assert accuracy(found.student) >= 0.9


def test_an_augmentation_that_breaks_the_trigger_removes_it():
    found = run(black_top, rounds=2)
    assert success(found.teacher) >= 0.9 and success(found.student) == 0
    assert accuracy(found.student) == 1
    assert len(found.networks) == 3 and len(found.labels) == 2
    assert len(found.labels[0].labels) == 100


def test_own_labels_keep_the_backdoor_in_spite_of_it():
    assert success(run(black_top, labelled="kept").student) > 0


def test_refined_labels_are_surer_where_views_and_given_labels_agree():
    relabel = functools.partial(pseudo_label, augment=black_top, views=1, soft=True)
    found = self_train(
        KEY, least_squares, relabel, TRAIN, POISONED, POOL, classes=CLASSES, labelled="refined"
    )
    believed, refined = (np.asarray(found.labels[0].probabilities), found.labels[0].targets)
    expected = believed[:60].copy()
    for row, label in zip(expected, np.asarray(POISONED), strict=True):
        if row.argmax() == label:
            sure = row[label]
            row *= 1 - sure
            row[label] += sure
    assert 10 < (expected != believed[:60]).any(axis=1).sum() < 60
    np.testing.assert_allclose(refined[:60], expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(refined[60:], believed[60:])
    # The trigger spoke for the label of these alone.
    assert success(found.teacher) >= 0.9 and success(found.student) == 0
    assert accuracy(found.student) == 1


def test_a_given_teacher_is_taken_and_thresholds_become_weights():
    teacher, seen = run(augment.identity).teacher, []

    def watch(*arguments):
        seen.append(arguments)
        return least_squares(*arguments)

    relabel = functools.partial(
        pseudo_label, augment=augment.identity, views=1, threshold=0.9, soft=True
    )
    found = self_train(KEY, watch, relabel, TRAIN, POISONED, POOL, classes=CLASSES, teacher=teacher)
    ((_, images, targets, weights),) = seen
    np.testing.assert_array_equal(images, np.concatenate([TRAIN, POOL]))
    np.testing.assert_array_equal(targets, found.labels[0].probabilities)
    np.testing.assert_array_equal(weights, found.labels[0].confidence >= 0.9)
    assert found.teacher is teacher


def test_is_the_same_for_the_same_key():
    first, second = (run(augment.cutout) for _ in range(2))
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(pool=POOL[:0]), r"pool=float64\[0, 4, 4, 1\]: accepted is \[row"),
        (
            dict(pool=jnp.zeros((4, 5, 4, 1))),
            r"pool=float64\[4, 5, 4, 1\]: accepted is float64\[row, 4, 4, 1\]",
        ),
        (dict(pool=POOL.astype("float32")), r"pool=float32.*: accepted is float64"),
        (
            dict(labels=POISONED.at[3].set(3)),
            r"labels=.* with values from 0 to 3: accepted is 0 to 2",
        ),
        (dict(labels=POISONED.at[3].set(-1)), r"labels=.* with values from -1 to 2"),
        (dict(labels=POISONED[1:]), r"labels=int64\[59\]: accepted is integers \[60\]"),
        (dict(rounds=0), "rounds=0"),
        (dict(labelled="other"), "labelled='other'"),
        (dict(classes=4), r"targets=float64\[100, 3\]: accepted is \[100, classes=4\]"),
    ],
)
def test_bad_input_is_named(change, message, unchecked):
    relabel = functools.partial(pseudo_label, augment=augment.identity, views=1)
    given = dict(images=TRAIN, labels=POISONED, pool=POOL, relabel=relabel, classes=CLASSES)
    # A teacher of three classes serves all cases.
    teacher = Partial(linear, jnp.zeros((16, 3)))
    with pytest.raises(ValueError, match=message):
        self_train(KEY, least_squares, teacher=teacher, **{**given, **change})


def test_a_threshold_that_keeps_nothing_is_named():
    relabel = functools.partial(pseudo_label, augment=augment.identity, views=1, threshold=1.0)
    teacher = Partial(linear, jnp.zeros((16, 3)))
    with pytest.raises(
        ValueError, match="threshold=1.0: accepted is up to the highest confidence of 100 rows"
    ):
        self_train(
            KEY, least_squares, relabel, TRAIN, POISONED, POOL, classes=CLASSES, teacher=teacher
        )
