"""A decoder on a mesh of devices computes and learns what it does on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml.models import llama
from jaxml.models.llama import LlamaConfig

CONFIG = LlamaConfig(64, 16, 2, 4, 2, 8, 32)
TOKENS = np.random.default_rng(0).integers(0, 64, (8, 12)).astype("int32")


@functools.cache
def losses(model):
    """Return the loss at each of 20 steps on a mesh of 8 devices, or on one for None."""
    params = llama.init(jax.random.key(0), CONFIG)
    tokens, optimizer = TOKENS, optax.adamw(1e-2, weight_decay=0.0)
    if model is not None:
        mesh = llama.decoder_mesh(model=model)
        params = jax.device_put(params, llama.parameter_shardings(CONFIG, mesh))
        tokens = jax.device_put(TOKENS, NamedSharding(mesh, P("data")))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, tokens):
        chunk = 4 * len(TOKENS) * CONFIG.vocab_size
        loss = lambda p: -llama.log_prob(p, tokens, CONFIG, remat=True, chunk=chunk).mean()
        value, slope = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, updates), state, value

    found = []
    for _ in range(20):
        params, state, value = step(params, state, tokens)
        found.append(float(value))
    return np.array(found), params


@pytest.mark.parametrize("model", [1, 2])
def test_losses_of_20_steps_equal_those_of_one_device(model):
    expected, _ = losses(None)
    found, params = losses(model)
    assert expected[-1] < 0.8 * expected[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    gate = params["layers"]["gate"]
    assert len(gate.sharding.device_set) == 8
    assert gate.addressable_shards[0].data.size == gate.size // 8


@pytest.mark.parametrize("model", [1, 2])
def test_a_device_works_on_its_rows_alone(model):
    """Its hidden states, and what it sums with others, grow with its rows, not with all."""
    mesh = llama.decoder_mesh(model=model)
    params = jax.eval_shape(lambda: llama.init(jax.random.key(0), CONFIG))
    places = llama.parameter_shardings(CONFIG, mesh)
    put = lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    tokens = jax.ShapeDtypeStruct((24, 40), "int32", sharding=NamedSharding(mesh, P("data")))
    run = jax.jit(lambda params, tokens: llama.hidden_states(params, tokens, CONFIG))
    text = run.lower(jax.tree.map(put, params, places), tokens).compile().as_text()
    share = 24 * model // 8
    assert f"f32[{share},40,16]" in text
    # The lookup of embeddings that lie on several devices sums all rows once.
    layers = [line for line in text.splitlines() if "dot_general" in line]
    assert layers and not any("[24,40," in line for line in layers)


def test_rows_that_do_not_divide_and_vmap_on_a_mesh():
    mesh = llama.decoder_mesh(model=2)
    params = llama.init(jax.random.key(0), CONFIG)
    spread = jax.device_put(params, llama.parameter_shardings(CONFIG, mesh))
    run = lambda params, tokens: llama.apply(params, tokens, CONFIG)
    expected = jax.jit(run)(params, TOKENS)
    np.testing.assert_allclose(jax.jit(run)(spread, TOKENS[:3]), expected[:3], atol=1e-5)
    halves = TOKENS.reshape(2, 4, -1)
    found = jax.jit(jax.vmap(run, (None, 0)))(spread, halves)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)
    found = jax.vmap(llama.embed, (None, 0))(spread, halves)
    np.testing.assert_array_equal(found, np.asarray(params["embed"])[halves])


def test_an_axis_that_does_not_divide_is_whole():
    odd = LlamaConfig(63, 16, 2, 4, 2, 8, 32)
    places = llama.parameter_shardings(odd, llama.decoder_mesh(model=4))
    assert places["embed"].spec == P(None, "data")
    assert places["layers"]["down"].spec == P(None, "model", "data")
    assert places["norm"].spec == P()


def test_generation_on_a_mesh():
    params = llama.init(jax.random.key(0), CONFIG)
    tokens = jnp.asarray(TOKENS)
    expected = llama.generate(params, tokens, CONFIG, steps=3)
    mesh = llama.decoder_mesh(model=2)
    spread = jax.device_put(params, llama.parameter_shardings(CONFIG, mesh))
    rows = jax.device_put(tokens, NamedSharding(mesh, P("data")))
    np.testing.assert_array_equal(llama.generate(spread, rows, CONFIG, steps=3), expected)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(devices=9), "devices=9: accepted is 1 to 8, which this process sees"),
        (dict(model=3), "model=3: accepted is a divisor of devices=8"),
    ],
)
def test_bad_meshes_are_named(more, message, unchecked):
    with pytest.raises(ValueError, match=message):
        llama.decoder_mesh(**more)


def test_a_mesh_of_other_axes_is_named(unchecked):
    from jaxml.sharding import data_mesh

    with pytest.raises(ValueError, match=r"mesh=\('data',\): accepted is a mesh with axes"):
        llama.parameter_shardings(CONFIG, data_mesh())
