"""What every attack keeps: exact counts, untouched rows, right labels, one trigger."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxml.backdoor import attacks

ROWS, SHAPE, CLASSES = 57, (8, 8, 3), 5
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(0.1, 0.9, size=(ROWS, *SHAPE)), jnp.float32)
LABELS = jnp.asarray(RNG.permutation(np.arange(ROWS) % CLASSES), jnp.int32)
WEIGHTS = jnp.asarray(RNG.normal(size=(SHAPE[0] * SHAPE[1] * SHAPE[2], CLASSES)), jnp.float32)
KEY = jax.random.key(7)


def linear(images):
    return images.reshape(len(images), -1) @ WEIGHTS


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dimmed:
    """A trigger of one's own with an array: the left half is darker."""

    factor: jax.Array
    side: int = dataclasses.field(default=4, metadata={"static": True})

    def __call__(self, images):
        return images.at[:, :, : self.side].multiply(self.factor)


def inverted(images):
    """A trigger of one's own without any."""
    return 1 - images


SETTINGS = dict(ratio=0.3, target=2)
NOISE = dict(step=4 / 255, iterations=4, batch_size=3)
RELABELLED = {
    name: functools.partial(getattr(attacks, name), classes=CLASSES, **SETTINGS)
    for name in ("badnets", "blend", "trojan", "wanet")
}
ADVERSARIAL = {
    name: lambda key, *data, name=name, **settings: getattr(attacks, name)(
        key, linear, *data, **NOISE | SETTINGS | settings
    )
    for name in ("label_consistent", "clean_label")
}
KEPT = {"sig": functools.partial(attacks.sig, **SETTINGS), **ADVERSARIAL}
ADAPTIVE = functools.partial(attacks.adaptive_blend, ratio=0.1, target=2)
TO_ALL = functools.partial(attacks.all_to_all, ratio=0.3, classes=CLASSES)
OWN = {
    name: lambda key, *data, trigger=trigger, **settings: attacks.poison(
        key, trigger, *data, classes=CLASSES, **SETTINGS | settings
    )
    for name, trigger in {
        "function": inverted,
        "pytree": Dimmed(jnp.asarray(0.5)),
        "partial": Partial(lambda shift, images: images + shift, jnp.asarray(0.05)),
    }.items()
}
ALL = {**RELABELLED, **KEPT, **OWN, "adaptive_blend": ADAPTIVE, "all_to_all": TO_ALL}
every_attack = pytest.mark.parametrize("name", ALL)


@functools.cache
def run(name):
    return ALL[name](KEY, IMAGES, LABELS)


def changed(poisoned):
    return np.asarray(jnp.any(poisoned.images != IMAGES, axis=(1, 2, 3)))


@every_attack
def test_counts_are_exact_and_other_rows_as_given(name):
    poisoned = run(name)
    chosen = np.asarray(poisoned.is_poisoned)
    if name in KEPT:
        assert set(np.asarray(LABELS)[chosen]) == {2}
        count = round(0.3 * int(np.sum(LABELS == 2)))
    else:
        # Any class is drawn, the target's too.
        count = round(0.1 * ROWS) if name == "adaptive_blend" else round(0.3 * ROWS)
    assert chosen.sum() == count
    touched = changed(poisoned)
    if name == "adaptive_blend":
        assert touched[chosen].all() and touched.sum() == 2 * count
    else:
        np.testing.assert_array_equal(touched, chosen)
    np.testing.assert_array_equal(poisoned.labels[~chosen], LABELS[~chosen])
    assert poisoned.images.dtype == IMAGES.dtype and poisoned.labels.dtype == LABELS.dtype
    assert 0 <= poisoned.images.min() and poisoned.images.max() <= 1


@every_attack
def test_labels_of_poisoned_rows(name):
    poisoned = run(name)
    chosen = poisoned.is_poisoned
    expected = (LABELS + 1) % CLASSES if name == "all_to_all" else jnp.full_like(LABELS, 2)
    np.testing.assert_array_equal(poisoned.labels[chosen], expected[chosen])


@pytest.mark.parametrize("name", [*RELABELLED, *OWN, "all_to_all", "sig"])
def test_training_and_test_have_one_trigger(name):
    poisoned = run(name)
    chosen = poisoned.is_poisoned
    triggered = poisoned.trigger(IMAGES)
    np.testing.assert_array_equal(poisoned.images[chosen], triggered[chosen])
    assert jnp.any(triggered != IMAGES, axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", ["badnets", "sig", "clean_label", "all_to_all"])
def test_every_attack_takes_a_trigger_of_ones_own(name):
    poisoned = ALL[name](KEY, IMAGES, LABELS, trigger=lambda images: jnp.zeros_like(images))
    np.testing.assert_array_equal(poisoned.is_poisoned, run(name).is_poisoned)
    np.testing.assert_array_equal(poisoned.images[poisoned.is_poisoned], 0)
    np.testing.assert_array_equal(poisoned.labels, run(name).labels)


def test_attacks_are_poison_with_the_trigger_that_they_draw():
    for name in RELABELLED:
        again = attacks.poison(KEY, run(name).trigger, IMAGES, LABELS, classes=CLASSES, **SETTINGS)
        for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(run(name)), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("broken", [lambda x: x[:, :4], lambda x: x.astype(jnp.float16)])
def test_a_trigger_that_returns_other_images_is_named(broken):
    with pytest.raises(ValueError, match=r"trigger\(images\)=float.*: accepted is float32\[17, 8"):
        attacks.poison(KEY, broken, IMAGES, LABELS, ratio=0.3)


def test_relabelling_to_all_and_to_wrong_labels():
    chosen = run("blend").is_poisoned
    call = functools.partial(RELABELLED["blend"], KEY, IMAGES, LABELS)
    to_all = call(relabel="all_to_all")
    np.testing.assert_array_equal(to_all.is_poisoned, chosen)
    np.testing.assert_array_equal(to_all.labels[chosen], (LABELS[chosen] + 1) % CLASSES)
    labels = jnp.zeros_like(LABELS).at[:30].set(CLASSES - 1)
    wrong = RELABELLED["blend"](KEY, IMAGES, labels, ratio=0.9, relabel="untargeted")
    assert not jnp.any((wrong.labels == labels) & wrong.is_poisoned)
    for label in (0, CLASSES - 1):
        drawn = wrong.labels[(labels == label) & wrong.is_poisoned]
        assert set(np.asarray(drawn).tolist()) == set(range(CLASSES)) - {label}


def test_badnets_patch_is_at_its_place_in_large_and_small_images():
    for side, corner in ((32, slice(24, 29)), (8, slice(5, 7))):
        x = jnp.full((2, side, side, 3), 0.5)
        trigger = attacks.badnets(KEY, x, jnp.zeros(2, int), ratio=0.5).trigger
        inside = np.zeros((side, side), bool)
        inside[corner, corner] = True
        np.testing.assert_array_equal((trigger(x)[0] != 0.5).any(-1), inside)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_noise_is_bounded_and_lowers_the_class(name):
    poisoned = run(name)
    chosen = np.asarray(poisoned.is_poisoned)
    x, before = (np.asarray(a)[chosen] for a in (poisoned.images, IMAGES))
    under = np.asarray(jnp.any(poisoned.trigger.keep == 0, axis=-1))
    at_test = np.asarray(poisoned.trigger(IMAGES))[chosen]
    np.testing.assert_array_equal(x[:, under], at_test[:, under])
    difference = abs(x - before)[:, ~under]
    assert difference.max() <= 8 / 255 + 1e-6
    # The gradient of a linear network is almost one direction: values end on the rim of the box.
    assert np.mean(difference > 7.9 / 255) > 0.8
    rest = np.where(under[..., None], before, x)
    logp = lambda x: np.asarray(jax.nn.log_softmax(linear(jnp.asarray(x))))[:, 2]
    assert (logp(rest) < logp(before)).all()


def test_checkerboard_of_label_consistent():
    corner = run("label_consistent").trigger(IMAGES)[0, -3:, -3:, 1]
    np.testing.assert_array_equal(corner, [[0, 0, 1], [0, 1, 0], [1, 1, 0]])


def test_checkerboard_in_four_corners():
    """Mirrored to the lower right each corner shows the same."""
    gray = jnp.full((1, 8, 8, 3), 0.5)
    one, four = (attacks.checkerboard_trigger((8, 8, 3), corners=n)(gray)[0] for n in (1, 4))
    np.testing.assert_array_equal((four != 0.5).sum(), 4 * 27)
    for axes in ((), (0,), (1,), (0, 1)):
        lower, expected = (np.asarray(x)[-3:, -3:] for x in (jnp.flip(four, axes), one))
        np.testing.assert_array_equal(lower, expected)
    with pytest.raises(ValueError, match="corners=2"):
        attacks.checkerboard_trigger((8, 8, 3), corners=2)


def test_perturb_takes_the_steps_of_its_definition():
    x, y = np.asarray(IMAGES[:3], np.float64), np.asarray(LABELS[:3])
    weights = np.asarray(WEIGHTS, np.float64)
    network = lambda x: x.reshape(len(x), -1) @ jnp.asarray(weights)
    found = attacks.perturb(
        KEY, network, jnp.asarray(x), jnp.asarray(y), epsilon=0.2, step=0.07, iterations=4
    )
    at = np.clip(x + np.asarray(jax.random.uniform(KEY, x.shape, x.dtype, -0.2, 0.2)), 0, 1)
    for _ in range(4):
        logits = at.reshape(3, -1) @ weights
        p = np.exp(logits - logits.max(1, keepdims=True))
        slope = (p / p.sum(1, keepdims=True) - np.eye(CLASSES)[y]) @ weights.T
        at = np.clip(at + 0.07 * np.sign(slope.reshape(x.shape)), x - 0.2, x + 0.2).clip(0, 1)
    np.testing.assert_allclose(found, at, atol=1e-12)


def test_adaptive_blend_shows_half_of_the_pieces():
    poisoned = run("adaptive_blend")
    # Pieces of 2 x 2 pixels
    shown = jnp.any(poisoned.images != IMAGES, axis=-1)[changed(poisoned)]
    pieces = np.asarray(shown).reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
    np.testing.assert_array_equal(pieces.all(-1), pieces.any(-1))
    assert set(pieces.any(-1).sum(1)) == {8}
    assert len({row.tobytes() for row in pieces.any(-1)}) > 1
    pattern = (poisoned.trigger(IMAGES) - 0.85 * IMAGES) / 0.15
    expected = jnp.where(shown[..., None], (0.8 * IMAGES + 0.2 * pattern)[changed(poisoned)], 0)
    found = jnp.where(shown[..., None], poisoned.images[changed(poisoned)], 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_captured_images_are_checked_under_jit():
    bright = 2 * IMAGES
    with pytest.raises(ValueError, match="images=.* with values from .*: accepted is 0 to 1"):
        jax.jit(lambda key: attacks.blend(key, bright, LABELS))(KEY)
    found = jax.jit(lambda key: RELABELLED["blend"](key, IMAGES, LABELS))(KEY)
    np.testing.assert_allclose(found.images, run("blend").images, atol=1e-6)


@every_attack
def test_jit_and_vmap_equal_plain_calls(name):
    keys = jnp.stack([KEY, jax.random.key(1)])
    many = jax.jit(jax.vmap(ALL[name], (0, None, None)))(keys, IMAGES, LABELS)
    first, second = (jax.tree.map(lambda a, i=i: a[i], many) for i in (0, 1))
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(run(name)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert jnp.any(first.is_poisoned != second.is_poisoned)


def test_attack_success_rate_counts_the_rows_it_should():
    found = jnp.asarray([2, 2, 1, 2, 0, 3])
    labels = jnp.asarray([2, 1, 1, 0, 4, 2], jnp.int32)
    logits_fn = lambda images: jax.nn.one_hot(found, CLASSES)
    images = jnp.full((6, *SHAPE), 0.5)
    rate = functools.partial(attacks.attack_success_rate, logits_fn, images, labels)
    assert rate(target=2) == 2 / 4
    assert rate(relabel="all_to_all") == pytest.approx(3 / 6)
    assert rate(relabel="untargeted") == pytest.approx(4 / 6)
    nobody = attacks.attack_success_rate(logits_fn, images, jnp.full_like(labels, 1))
    assert jnp.isnan(nobody)


BAD = {
    "ratio=0": dict(ratio=0.0),
    "ratio=1": dict(ratio=1.0),
    "ratio=0.001: .* leaves one of 57 rows": dict(ratio=0.001),
    "target=-1: accepted is a whole number, 0 or more": dict(target=-1),
    "images=uint8.*: accepted is floating-point": dict(images=IMAGES.astype(jnp.uint8)),
    "images=.* from nan to nan: accepted is 0 to 1": dict(
        images=IMAGES.at[0, 0, 0, 0].set(jnp.nan)
    ),
    "images=.* to 22.*: accepted is 0 to 1": dict(images=255 * IMAGES),
    r"images=float32\[8, 8, 3\]: accepted is \[row, height, width": dict(images=IMAGES[0]),
    "labels=float32": dict(labels=LABELS.astype(jnp.float32)),
    r"labels=int32\[3\]: accepted is integers \[57\]": dict(labels=LABELS[:3]),
}


@pytest.mark.parametrize("name", ["sig", "badnets"])
def test_labels_may_be_captured_by_a_compiled_function(name):
    found = jax.jit(lambda key, images: ALL[name](key, images, LABELS))(KEY, IMAGES)
    np.testing.assert_array_equal(found.is_poisoned, run(name).is_poisoned)


@pytest.mark.parametrize("settings", [dict(target=99), dict(ratio=0.02)], ids=str)
def test_a_class_without_rows_to_poison_is_named(settings):
    with pytest.raises(ValueError, match="ratio=.*: .* leaves a row of class target="):
        attacks.sig(KEY, IMAGES, LABELS, **settings)


@pytest.mark.parametrize("name", ["badnets", "label_consistent", "adaptive_blend"])
@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(name, message, unchecked):
    settings = {"images": IMAGES, "labels": LABELS, **BAD[message]}
    arrays = [settings.pop(n) for n in ("images", "labels")]
    if name == "label_consistent":
        arrays.insert(0, linear)
    with pytest.raises(ValueError, match=message):
        getattr(attacks, name)(KEY, *arrays, **settings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f("badnets", relabel="all"), "relabel='all': accepted is one of 'all_to_one'"),
        (lambda f: f("badnets", classes=4), "labels=.* from 0 to 4: accepted is 0 to 3"),
        (lambda f: f("badnets", target=10), "target=10: accepted is 0 to 9$"),
        (lambda f: f("sig", target=-1), "target=-1: accepted is a whole number, 0 or more$"),
        (lambda f: f("adaptive_blend", ratio=0.6), "ratio=0.6: accepted is below 0.5"),
        (lambda f: f("clean_label", linear, epsilon=0.0), "epsilon=0.0"),
        (lambda f: f("clean_label", linear, iterations=0), "iterations=0"),
        (lambda f: f("clean_label", linear, batch_size=0), "batch_size=0"),
    ],
)
def test_bad_settings_are_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(lambda name, *f, **s: getattr(attacks, name)(KEY, *f, IMAGES, LABELS, **s))
