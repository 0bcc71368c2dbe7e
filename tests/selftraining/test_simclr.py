"""SimCLR's loss against a float64 double loop, over devices, and what a short training learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from jaxml import augment
from jaxml.selftraining import init_projection, nt_xent, project, simclr_loss
from jaxml.sharding import data_mesh
from jaxml.training import fit

PAIR = np.random.default_rng(0).normal(size=(2, 8, 5))


def reference(first, second, t):
    z = np.concatenate([first, second]).astype(float)
    n, terms = len(first), []
    cosine = lambda a, b: a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
    for i in range(2 * n):
        others = [np.exp(cosine(z[i], z[k]) / t) for k in range(2 * n) if k != i]
        terms.append(-np.log(np.exp(cosine(z[i], z[(i + n) % (2 * n)]) / t) / np.sum(others)))
    return np.mean(terms)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
def test_loss_is_that_of_a_double_loop(temperature, dtype, tolerance):
    first, second = jnp.asarray(PAIR, dtype)
    found = nt_xent(first, second, temperature=temperature)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, reference(*PAIR, temperature), rtol=tolerance)


def test_small_temperatures_do_not_overflow():
    first, second = jnp.asarray(PAIR, "float32")
    assert jnp.isfinite(nt_xent(first, second, temperature=1e-3))


def test_loss_of_one_pair_and_of_like_embeddings():
    first, second = jnp.asarray(PAIR)
    np.testing.assert_allclose(nt_xent(first[:1], second[:1]), 0, atol=1e-15)
    # All cosines are 1: each of the 15 others is as likely.
    np.testing.assert_allclose(nt_xent(jnp.ones((8, 5)), jnp.ones((8, 5))), np.log(15))


def test_gradient_is_that_of_finite_differences_and_finite_at_zero():
    loss = lambda *pair: nt_xent(*map(jnp.asarray, pair))
    check_grads(loss, tuple(jnp.asarray(PAIR)), order=1, modes=["rev"], rtol=1e-6)
    slope = jax.grad(nt_xent)(jnp.zeros((3, 4)), jnp.ones((3, 4)))
    assert jnp.all(jnp.isfinite(slope))


def test_loss_of_a_batch_over_eight_devices():
    rows = NamedSharding(data_mesh(), P("data"))
    value = jax.jit(jax.value_and_grad(nt_xent))
    alone, slope = value(*jnp.asarray(PAIR))
    found, spread = value(*jax.device_put(tuple(jnp.asarray(PAIR)), rows))
    np.testing.assert_allclose(found, alone, rtol=1e-13)
    np.testing.assert_allclose(spread, slope, atol=1e-14)


@pytest.mark.parametrize("shapes", [((2, 3), (3, 3)), ((0, 3), (0, 3)), ((3,), (3,))])
def test_bad_embeddings_are_named(shapes, unchecked):
    with pytest.raises(ValueError, match=r"(first|second)=float64\[.*: accepted is \["):
        nt_xent(*map(jnp.ones, shapes))


def test_bad_temperature_and_images_are_named(unchecked):
    with pytest.raises(ValueError, match="temperature=0"):
        nt_xent(*jnp.asarray(PAIR), temperature=0)
    with pytest.raises(ValueError, match="temperature=-1"):
        simclr_loss(lambda params, x: x, temperature=-1)
    with pytest.raises(ValueError, match=r"images=float64\[4, 4, 3\]: accepted is"):
        simclr_loss(lambda params, x: x)(None, jnp.ones((4, 4, 3)), jax.random.key(0))


def test_projection_is_a_network_of_two_layers():
    params = init_projection(jax.random.key(0), 5, width=3)
    params["bias"] = params["bias"] + 0.25
    h = PAIR[0].astype("float32")
    hidden, out = (np.asarray(params[name], float) for name in ("hidden", "out"))
    expected = np.maximum(h.astype(float) @ hidden + 0.25, 0) @ out
    np.testing.assert_allclose(project(params, jnp.asarray(h)), expected, atol=1e-5)


def flat(params, images):
    return images.reshape(len(images), -1) @ params


# An image has a color of its own, which views that move pixels keep.
GENERATOR = np.random.default_rng(1)
IMAGES = 0.8 * GENERATOR.uniform(size=(16, 1, 1, 3)) + 0.2 * GENERATOR.uniform(size=(16, 6, 6, 3))


def test_objective_is_the_loss_of_two_views_by_key():
    params = jnp.asarray(np.random.default_rng(2).normal(size=(108, 7)))
    key, images = jax.random.key(3), jnp.asarray(IMAGES)
    found, metrics = simclr_loss(flat, augment=augment.flip_crop)(params, images, key)
    keys = jax.random.split(key, (2, 16))
    first, second = (
        np.stack([augment.flip_crop(k, x) for k, x in zip(row, images, strict=True)])
        for row in keys
    )
    views = [v.reshape(16, -1) @ np.asarray(params) for v in (first, second)]
    np.testing.assert_allclose(found, reference(*views, 0.5), rtol=1e-12)
    assert 0 <= metrics["accuracy"] <= 1
    still = simclr_loss(flat, augment=augment.identity)(params, images, key)[1]
    assert still["accuracy"] == 1


def test_fit_lowers_it_on_bytes_and_goes_on_bit_by_bit(tmp_path):
    data = jnp.asarray(np.round(255 * IMAGES), jnp.uint8)
    params = jnp.asarray(np.random.default_rng(2).normal(size=(108, 7)), jnp.float32)
    loss, optimizer = simclr_loss(flat, augment=augment.flip_crop), optax.adam(1e-2)
    run = lambda steps, folder: fit(
        jax.random.key(4),
        loss,
        params,
        data,
        optimizer=optimizer,
        steps=steps,
        chunk=20,
        batch_size=8,
        folder=folder,
    )
    whole = run(60, None)
    assert whole.history["loss"][-20:].mean() < 0.9 * whole.history["loss"][:20].mean()
    run(20, tmp_path)
    np.testing.assert_array_equal(run(60, tmp_path).params, whole.params)
