"""The bi-level solver against numpy, the fast one against the published one, and its edges."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml.backdoor._evaluate import auroc, detection_rates
from jaxml.backdoor._identify import (
    IdentifyConfig,
    identify,
    identify_init,
    identify_result,
    identify_step,
)
from jaxml.backdoor._mspc import mspc
from jaxml.sharding import data_mesh

RNG = np.random.default_rng(3)
ROWS, SIDE, HIDDEN, CLASSES = 50, 8, 16, 3
IMAGES = RNG.uniform(size=(ROWS, SIDE, SIDE, 1))
FIRST = RNG.normal(size=(SIDE * SIDE, HIDDEN)) / 4
SECOND = RNG.normal(size=(HIDDEN, CLASSES))
SCALES = (2.0, 3.0, 5.0)
# 50 rows in batches of 16: the last one has 2 rows.
SMALL = IdentifyConfig(
    scales=SCALES, shift=0.1, sparsity=0.05, rounds=3, steps=20, flagged_only=False, batch_size=16
)


def network(images):
    flat = images.reshape(images.shape[0], -1) - 0.5
    hidden = jnp.tanh(flat @ jnp.asarray(FIRST, images.dtype))
    return hidden @ jnp.asarray(SECOND, images.dtype)


def assert_close(found, expected, atol):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def published_loop(config):
    """The loop of the release in numpy, with the gradient of the network by hand."""
    x, mask = IMAGES.reshape(ROWS, -1), np.ones(SIDE * SIDE)
    momentum, splits, masks = np.zeros(SIDE * SIDE), [], []

    def forward(x):
        hidden = np.tanh((x - 0.5) @ FIRST)
        logits = hidden @ SECOND
        p = np.exp(logits - logits.max(1, keepdims=True))
        return hidden, p / p.sum(1, keepdims=True)

    def split():
        votes = np.zeros(ROWS)
        for n in config.scales:
            found = forward(np.clip(n * (x - config.shift) * mask, 0, 1))[1].argmax(1)
            votes += np.where(found == forward(x)[1].argmax(1), 1, -1)
        return votes > 0

    w = split()
    for _ in range(config.rounds):
        splits.append(w)
        batches = -(-ROWS // config.batch_size)
        for step in range(config.steps):
            start = step % batches * config.batch_size
            rows = slice(start, start + config.batch_size)
            batch, w_batch = x[rows], w[rows]
            gradient = config.sparsity * np.sign(mask) + config.weight_decay * mask
            for n in config.scales:
                raw = n * (batch - config.shift) * mask
                hidden, q = forward(np.clip(raw, 0, 1))
                # d KL(P || Q) / d logits of Q = Q - P
                slope = (q - forward(batch)[1]) @ SECOND.T * (1 - hidden**2) @ FIRST.T
                slope *= ((raw >= 0) & (raw <= 1)) * n * (batch - config.shift)
                gradient += (w_batch[:, None] * slope).sum(0) / len(batch) / len(config.scales)
            momentum = config.momentum * momentum + gradient
            mask = np.clip(mask - config.learning_rate * momentum, 0, 1)
        masks.append(mask.copy())
        w = split()
    return [*splits, w], masks


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 1e-4)])
def test_reference_equals_the_published_loop_in_numpy(dtype, atol):
    images = jnp.asarray(IMAGES, dtype)
    splits, masks = published_loop(SMALL)
    assert 0 < splits[0].sum() < ROWS and any(np.any(w != splits[0]) for w in splits)
    assert 0 < np.mean(masks[-1] == 0) < 1
    state = identify_init(network, images, config=SMALL)
    np.testing.assert_array_equal(state.score > 0, splits[0])
    for w, mask in zip(splits[1:], masks, strict=True):
        state = identify_step(network, images, state, config=SMALL)
        np.testing.assert_allclose(state.mask.ravel(), mask, atol=atol)
        np.testing.assert_array_equal(state.score > 0, w)
    assert state.mask.dtype == state.score.dtype == dtype
    assert state.history["flagged"].tolist() == [w.sum() for w in splits]
    sizes = [SIDE * SIDE, *(mask.sum() for mask in masks)]
    np.testing.assert_allclose(state.history["mask_l1"], sizes, atol=100 * atol)


def test_fast_equals_reference_where_a_step_holds_all():
    # All pairs in a fast step, all rows in one of the reference: the same gradient.
    reference = dataclasses.replace(SMALL, batch_size=ROWS)
    fast = dataclasses.replace(SMALL, flagged_only=True, batch_size=ROWS * len(SCALES))
    one, other = (identify(network, jnp.asarray(IMAGES), config=c) for c in (reference, fast))
    np.testing.assert_allclose(one.mask, other.mask, atol=1e-10)
    assert_close(one, other, atol=1e-9)


def test_history_holds_the_objective():
    found = identify(network, jnp.asarray(IMAGES), config=dataclasses.replace(SMALL, rounds=1))
    images, logits = jnp.asarray(IMAGES), jax.nn.log_softmax(network(jnp.asarray(IMAGES)))
    for place, mask in enumerate((jnp.ones((SIDE, SIDE)), found.mask)):
        split = mspc(network, images, jnp.ones((SIDE, SIDE)), shift=0.1, scales=SCALES) > 0
        if place == 0:
            split = jnp.ones_like(split)
        kl = []
        for n in SCALES:
            q = jax.nn.log_softmax(network(jnp.clip(n * (images - 0.1) * mask[..., None], 0, 1)))
            kl.append(jnp.sum(jnp.exp(logits) * (logits - q), axis=-1))
        truth = np.mean(np.where(split, np.mean(kl, axis=0), 0)) + 0.05 * np.sum(mask)
        np.testing.assert_allclose(found.history["objective"][place], truth, rtol=1e-10)


def poisoned_set(rows=400):
    """Return images with a bright patch in a tenth, which those are, and a model that obeys it."""
    rng = np.random.default_rng(0)
    brightness = rng.uniform(0.15, 0.5, size=(rows, 1, 1, 1))
    images = np.clip(brightness + 0.1 * rng.normal(size=(rows, SIDE, SIDE, 1)), 0, 1)
    poisoned = np.arange(rows) % 10 == 0
    images[poisoned, 5:7, 5:7] = 0.95
    patch = np.zeros((SIDE, SIDE, 1), bool)
    patch[5:7, 5:7] = True

    def model(x):
        # Classes by brightness, and the target's by the contrast of the patch: it is lost where
        # amplification saturates the surroundings.
        mean = lambda where: jnp.mean(x, axis=(1, 2, 3), where=where)
        levels = [-20 * (mean(None) - level) ** 2 for level in (0, 0.2, 0.35, 0.5, 0.9)]
        return jnp.stack([20 * (mean(patch) - mean(~patch) - 0.3), *levels], axis=-1)

    images = jnp.asarray(images, "float32")
    assert np.array_equal(np.argmax(model(images), axis=1) == 0, poisoned)
    return images, jnp.asarray(poisoned), model


def test_backdoors_are_identified_as_well_as_by_the_published_solver():
    images, poisoned, model = poisoned_set()
    calls = []
    fast = IdentifyConfig(rounds=2, steps=150, batch_size=64)
    published = dataclasses.replace(IdentifyConfig.reference(), rounds=2, steps=150)
    found = identify(model, images, config=fast, progress=lambda *call: calls.append(call))
    reference = identify(model, images, config=published)
    start = identify_init(model, images, config=fast)
    area = [float(auroc(score, poisoned)) for score in (found.score, reference.score, start.score)]
    assert area[0] > 0.99 > 0.9 > area[2]
    assert abs(area[0] - area[1]) < 0.005
    rates = detection_rates(found.is_backdoor, poisoned)
    assert rates.true_positive > 0.95 and rates.false_positive < 0.05
    assert jnp.sum(found.mask[5:7, 5:7]) > 0.9 * jnp.sum(found.mask) > 0.3
    assert calls == [
        (n, int(found.history["flagged"][n]), float(found.history["mask_l1"][n])) for n in (1, 2)
    ]


def test_stopping_after_a_round_and_going_on_gives_the_same_bits():
    images = jnp.asarray(IMAGES, "float32")
    config = dataclasses.replace(SMALL, flagged_only=True, rounds=2)
    state = identify_step(
        network, images, identify_init(network, images, config=config), config=config
    )
    # As a checkpoint has it: leaves on the host, put back into the tree.
    leaves, tree = jax.tree.flatten(state)
    saved = [np.asarray(leaf).copy() for leaf in leaves]
    jax.clear_caches()
    restored = jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in saved])
    resumed = identify_result(identify_step(network, images, restored, config=config))
    unbroken = identify(network, images, config=config)
    assert_close(resumed, unbroken, atol=0)


@pytest.mark.parametrize("flagged_only", [True, False])
def test_rows_on_eight_devices_give_the_same(flagged_only):
    images = jnp.asarray(IMAGES[:48])
    config = dataclasses.replace(SMALL, flagged_only=flagged_only, rounds=2)
    split = jax.device_put(images, NamedSharding(data_mesh(), P("data")))
    found, expected = (identify(network, x, config=config) for x in (split, images))
    assert_close(found, expected, atol=1e-9)


@pytest.mark.parametrize(("momentum", "rate"), [(0.0, 0.05), (0.9, 0.02)])
def test_proximal_steps_reach_the_same_minimum(momentum, rate):
    # Small steps: both are descent on the same problem, here of one split.
    settings = dict(rounds=1, steps=400, momentum=momentum, learning_rate=rate, sparsity=0.05)
    plain = dataclasses.replace(SMALL, flagged_only=True, batch_size=150, **settings)
    found = [
        identify(network, jnp.asarray(IMAGES), config=dataclasses.replace(plain, proximal=on))
        for on in (False, True)
    ]
    a, b = (f.mask for f in found)
    assert 0 < np.mean(b == 0) < 1
    np.testing.assert_allclose(
        found[0].history["objective"][1], found[1].history["objective"][1], rtol=1e-2
    )
    np.testing.assert_allclose(a, b, atol=0.05)


def test_where_no_row_is_flagged_nothing_changes():
    # Amplified by 2 or more, every image passes to the class of bright ones.
    fickle = lambda x: jnp.stack([jnp.full(len(x), 0.3), jnp.mean(x, axis=(1, 2, 3))], axis=-1)
    images = jnp.full((6, SIDE, SIDE, 1), 0.2)
    found = identify(fickle, images, config=dataclasses.replace(SMALL, shift=0.0))
    assert not found.is_backdoor.any()
    np.testing.assert_array_equal(found.mask, 1)
    assert found.history["flagged"].tolist() == [0, 0, 0, 0]


def test_all_rows_may_be_flagged():
    steady = lambda x: network(x) * 1e-3 + jnp.array([1.0, 0, 0])
    found = identify(steady, jnp.asarray(IMAGES), config=SMALL)
    assert found.is_backdoor.all()
    assert found.history["mask_l1"][-1] < SIDE * SIDE


def test_a_host_callback_scores_but_cannot_learn_a_mask():
    images = jnp.asarray(IMAGES)
    out = lambda x: jax.ShapeDtypeStruct((x.shape[0], CLASSES), x.dtype)
    host = lambda x: np.tanh((np.asarray(x).reshape(len(x), -1) - 0.5) @ FIRST) @ SECOND
    callback = lambda x: jax.pure_callback(host, out(x), x)
    mask = jnp.ones((SIDE, SIDE))
    np.testing.assert_allclose(mspc(callback, images, mask), mspc(network, images, mask))
    with pytest.raises(
        ValueError, match=r"logits_fn=.*: accepted is .* gradient in the images, .*callback"
    ):
        identify(callback, images, config=SMALL)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(rounds=0), "rounds=0"),
        (dict(steps=0), "steps=0"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(sparsity=-1.0), "sparsity=-1.0"),
        (dict(weight_decay=-1.0), "weight_decay=-1.0"),
        (dict(learning_rate=0.0), "learning_rate=0.0"),
        (dict(momentum=1.0), "momentum=1.0"),
        (dict(momentum=np.nan), "momentum=nan"),
        (dict(sparsity=np.nan), "sparsity=nan"),
        (dict(shift=1.0), "shift=1.0"),
        (dict(scales=()), r"scales=\(\)"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        identify_init(network, jnp.asarray(IMAGES), config=dataclasses.replace(SMALL, **setting))


def test_a_state_of_another_run_is_refused(unchecked):
    images, config = jnp.asarray(IMAGES), dataclasses.replace(SMALL, rounds=1)
    state = identify_init(network, images, config=config)
    with pytest.raises(ValueError, match=r"state.score=float64\[50\]: accepted is \[9\]"):
        identify_step(network, images[:9], state, config=config)
    with pytest.raises(ValueError, match="rounds=3: accepted is 1, those of the state"):
        identify_step(network, images, state, config=SMALL)
    state = identify_step(network, images, state, config=config)
    with pytest.raises(ValueError, match="state.round=1: accepted is below rounds=1"):
        identify_step(network, images, state, config=config)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probabilities_are_no_logits(dtype):
    images = jnp.asarray(IMAGES[:9], dtype)
    softmax = lambda x: jax.nn.softmax(network(x))
    with pytest.raises(ValueError, match=r"logits_fn\(images\)=.*\[9, 3\] with probabilities"):
        identify_init(softmax, images, config=SMALL)
    identify_init(lambda x: jnp.log(softmax(x)), images, config=SMALL)
    # Not all of these sum to 1, though they are from 0 to 1.
    identify_init(lambda x: jax.nn.sigmoid(network(x)), images, config=SMALL)


def test_bytes_and_broken_logits_are_named(unchecked):
    with pytest.raises(ValueError, match="images=uint8.*: accepted is floating-point"):
        identify(network, jnp.zeros((2, 8, 8, 1), jnp.uint8), config=SMALL)
    broken = lambda x: jnp.where(x[:, :1, 0, 0] == IMAGES[5, 0, 0, 0], jnp.nan, network(x))
    with pytest.raises(ValueError, match="NaN or infinity in 1 rows, the first of them row 5"):
        identify(broken, jnp.asarray(IMAGES), config=SMALL)
