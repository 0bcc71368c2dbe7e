"""Low-rank factors: what merging them adds, and training through it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from llama_parameters import drawn

from jaxml.models import llama
from jaxml.models.llama import LlamaConfig

CONFIG = LlamaConfig(19, 8, 3, 2, 1, 4, 12)
PARAMS = drawn(CONFIG, matrices=10, rest=10, dtype="float64")
TOKENS = jnp.arange(6)[None] + 3


def test_new_factors_change_nothing():
    factors = llama.lora_init(jax.random.key(1), PARAMS, rank=2, names=("q", "down"))
    assert factors["down"]["a"].shape == (3, 12, 2) and factors["down"]["b"].shape == (3, 2, 8)
    np.testing.assert_allclose(factors["down"]["a"].std(), 12**-0.5, rtol=0.3)
    merged = llama.lora_merge(PARAMS, factors, scale=4.0)
    jax.tree.map(np.testing.assert_array_equal, merged, PARAMS)


def test_merging_adds_the_products():
    rng = np.random.default_rng(0)
    factors = llama.lora_init(jax.random.key(1), PARAMS, rank=2, names=("o", "gate"))
    factors["o"]["b"] = jnp.asarray(rng.normal(size=(3, 2, 8)))
    merged = jax.jit(llama.lora_merge)(PARAMS, factors, scale=0.5)
    for name, leaf in merged["layers"].items():
        change = np.zeros_like(leaf)
        if name == "o":
            change = 0.5 * np.einsum("lir,lro->lio", factors["o"]["a"], factors["o"]["b"])
        np.testing.assert_allclose(leaf, PARAMS["layers"][name] + change, atol=1e-12)


def test_training_the_factors_leaves_the_rest_and_lowers_the_loss():
    factors = llama.lora_init(jax.random.key(1), PARAMS, rank=2)

    @jax.jit
    def loss(factors):
        merged = llama.lora_merge(PARAMS, factors)
        return -llama.log_prob(merged, TOKENS, CONFIG).mean()

    first = loss(factors)
    step = jax.jit(lambda f: jax.tree.map(lambda p, g: p - 0.1 * g, f, jax.grad(loss)(f)))
    for _ in range(30):
        factors = step(factors)
    assert loss(factors) < 0.7 * first
    assert all(np.abs(factor["b"]).max() > 0 for factor in factors.values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(rank=0), "rank=0: accepted is a whole number, 1 or more"),
        (dict(names=("q", "norm")), r"names=\('q', 'norm'\): accepted is some of q, k, v"),
        (dict(names=()), r"names=\(\)"),
    ],
)
def test_bad_input_is_named(more, message, unchecked):
    with pytest.raises(ValueError, match=message):
        llama.lora_init(jax.random.key(0), PARAMS, **more)


def test_factors_of_another_decoder_are_named(unchecked):
    factors = llama.lora_init(jax.random.key(1), PARAMS, names=("q",))
    with pytest.raises(
        ValueError, match=r"factors\['k'\]=\(3, 8, 8\): accepted is factors of a matrix"
    ):
        llama.lora_merge(PARAMS, {"k": factors["q"]})
