"""The decoder against a second implementation by numpy, one token at a time."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.models import llama
from jaxml.models.llama import LlamaConfig, Scaling
from jaxml.models.llama.rope import frequencies

SIZES = dict(
    vocab_size=37,
    hidden_size=16,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    intermediate_size=20,
    rope_theta=100.0,
)
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "tied": LlamaConfig(**SIZES, tie_embeddings=True, scaling=Scaling("linear", 2.0)),
    "mistral": LlamaConfig(**SIZES, architecture="mistral", window=3),
    "qwen2": LlamaConfig(**SIZES, architecture="qwen2"),
}
every_config = pytest.mark.parametrize("name", CONFIGS)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 37, (2, 7)))


@functools.cache
def parameters(name, dtype="float64"):
    """Return parameters all of which matter; those of `init` are too small to tell apart."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(functools.partial(llama.init, config=CONFIGS[name]), jax.random.key(0))

    def draw(path, like):
        one = 1 if path[-1].key.endswith("norm") else 0
        return jnp.asarray(one + 0.4 * rng.normal(size=like.shape), dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def apply(name, params, tokens, **more):
    return jax.jit(functools.partial(llama.apply, config=CONFIGS[name], **more))(params, tokens)


def reference(params, tokens, config, until=None):
    """Logits, or hidden states, of one row."""
    params = jax.tree.map(np.asarray, params)
    norm = lambda x, scale: scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + config.epsilon)
    silu = lambda x: x / (1 + np.exp(-x))
    half = config.head_dim // 2

    def turned(x, time):
        """Pairs as complex numbers times exp(i angle)."""
        pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * time * frequencies(config))
        return np.concatenate([pairs.real, pairs.imag], axis=-1)

    hidden = params["embed"][tokens]
    for i in range(config.num_layers if until is None else until):
        layer = {name: leaf[i] for name, leaf in params["layers"].items()}
        x = norm(hidden, layer["attention_norm"])
        q, k, v = (x @ layer[n] + layer.get(f"{n}_bias", 0) for n in "qkv")
        q, k, v = (y.reshape(len(tokens), -1, config.head_dim) for y in (q, k, v))
        mixed = np.zeros_like(q)
        for t in range(len(tokens)):
            first = 0 if config.window is None else max(0, t - config.window + 1)
            for head in range(config.num_heads):
                own = head // (config.num_heads // config.num_kv_heads)
                score = [
                    turned(q[t, head], t) @ turned(k[s, own], s) / np.sqrt(config.head_dim)
                    for s in range(first, t + 1)
                ]
                weight = np.exp(score) / np.exp(score).sum()
                mixed[t, head] = weight @ v[first : t + 1, own]
        hidden = hidden + mixed.reshape(len(tokens), -1) @ layer["o"]
        x = norm(hidden, layer["mlp_norm"])
        hidden = hidden + (silu(x @ layer["gate"]) * (x @ layer["up"])) @ layer["down"]
    if until is not None:
        return hidden
    return norm(hidden, params["norm"]) @ params.get("head", params["embed"].T)


@every_config
def test_equals_a_second_implementation(name):
    params = parameters(name)
    expected = np.stack([reference(params, row, CONFIGS[name]) for row in TOKENS])
    assert expected.std() > 0.5
    found = apply(name, params, TOKENS)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    single = apply(name, parameters(name, "float32"), TOKENS)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=2e-4)


def test_until_layer_and_slices_of_layers_are_the_first_layers():
    params, config = parameters("mistral"), CONFIGS["mistral"]
    first = apply("mistral", params, TOKENS, until_layer=2)
    np.testing.assert_allclose(first[0], reference(params, TOKENS[0], config, 2), atol=1e-10)
    last = llama.select_layers(params["layers"], 2, 3)
    whole = apply("mistral", params, TOKENS, until_layer=3)
    np.testing.assert_allclose(llama.run_layers(last, first, config), whole, atol=1e-12)
    none = apply("mistral", params, TOKENS, until_layer=0)
    np.testing.assert_array_equal(none, llama.embed(params, TOKENS))


@pytest.mark.parametrize("name", ["tied", "mistral"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(name, side):
    config, params, pad = CONFIGS[name], parameters(name), jnp.full((2, 2), 5)
    blocks = [pad, TOKENS] if side == "left" else [TOKENS, pad]
    real = slice(2, None) if side == "left" else slice(None, -2)
    mask = np.zeros((2, 9), bool)
    mask[:, real] = True
    found = llama.apply(params, jnp.concatenate(blocks, 1), config, mask=jnp.asarray(mask))
    np.testing.assert_allclose(found[:, real], apply(name, params, TOKENS), atol=1e-12)
    assert np.isfinite(found).all()


def test_later_tokens_change_nothing():
    changed = apply("llama", parameters("llama"), jnp.where(jnp.arange(7) < 5, TOKENS, 0))
    found = apply("llama", parameters("llama"), TOKENS)
    np.testing.assert_allclose(changed[:, :5], found[:, :5], atol=1e-12)
    assert np.abs(changed[:, 5:] - found[:, 5:]).max() > 0.1


@pytest.mark.parametrize("name", ["tied", "qwen2"])
def test_gradient_with_and_without_remat(name):
    config, params, rng = CONFIGS[name], parameters(name), np.random.default_rng(2)

    def loss(params, remat):
        return jnp.sum(jnp.sin(llama.apply(params, TOKENS, config, remat=remat)))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain, again = gradient(params, False), gradient(params, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), plain, again)
    way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    moved = jax.jit(lambda step: loss(jax.tree.map(lambda p, w: p + step * w, params, way), False))
    expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
    found = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (plain, way)), strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_maps_over_models():
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), parameters("llama"))
    found = jax.vmap(lambda params: llama.apply(params, TOKENS, CONFIGS["llama"]))(two)
    half = jax.tree.map(lambda leaf: 0.5 * leaf, parameters("llama"))
    for row, params in zip(found, (parameters("llama"), half), strict=True):
        np.testing.assert_allclose(row, apply("llama", params, TOKENS), atol=1e-11)


def test_bfloat16_is_near():
    found = apply("llama", parameters("llama", "bfloat16"), TOKENS)
    expected = np.asarray(apply("llama", parameters("llama"), TOKENS))
    assert found.dtype == jnp.bfloat16
    error = np.abs(np.asarray(found, "float64") - expected)
    assert error.mean() < 0.05 * np.abs(expected).mean()


def test_initial_parameters():
    config = LlamaConfig(32000, 288, 6, 6, 6, 48, 768, tie_embeddings=True)
    shapes = jax.eval_shape(functools.partial(llama.init, config=config), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 15_191_712
    qwen2 = dataclasses.replace(CONFIGS["qwen2"], intermediate_size=400)
    params = llama.init(jax.random.key(0), qwen2, dtype="float64")
    np.testing.assert_array_equal(params["layers"]["mlp_norm"], 1)
    np.testing.assert_array_equal(params["layers"]["k_bias"], 0)
    assert 0.018 < params["layers"]["gate"].std() < 0.022
    assert not np.allclose(params["layers"]["gate"], params["layers"]["up"])


def test_frequencies_of_llama3_by_hand():
    config = LlamaConfig(
        **SIZES | dict(head_dim=8, rope_theta=1e4), scaling=Scaling("llama3", 8.0, 1.0, 4.0, 1000)
    )
    # 159, 15.9, 1.59 and 0.159 turns in 1000 tokens.
    kept = (1000 / (200 * np.pi) - 1) / 3
    expected = [1, 0.1, 0.01 * (kept + (1 - kept) / 8), 0.001 / 8]
    np.testing.assert_allclose(frequencies(config), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(architecture="gpt2"),
            "architecture='gpt2': accepted is one of 'llama', 'mistral', 'qwen2'",
        ),
        (dict(num_kv_heads=3), "num_kv_heads=3: accepted is a divisor of num_heads=4"),
        (dict(head_dim=5), "head_dim=5: accepted is an even"),
        (dict(num_layers=0), "num_layers=0: accepted is a whole number, 1 or more"),
        (dict(window=0), "window=0"),
    ],
)
def test_bad_shapes_are_named(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        LlamaConfig(**{**SIZES, **change})


@pytest.mark.parametrize(
    ("tokens", "more", "message"),
    [
        (TOKENS[0], {}, r"tokens=int64\[7\]: accepted is integers \[row, time\]"),
        (TOKENS.astype("float64"), {}, r"tokens=float64\[2, 7\]: accepted is integers"),
        (TOKENS, dict(until_layer=4), "until_layer=4: accepted is 0 to 3"),
        (TOKENS, dict(mask=np.ones((2, 6), bool)), r"mask=bool\[2, 6\]: accepted is bool\[2, 7\]"),
        (TOKENS, dict(mask=np.ones((2, 7))), r"mask=float64\[2, 7\]"),
    ],
)
def test_bad_input_is_named(tokens, more, message, unchecked):
    with pytest.raises(ValueError, match=message):
        llama.apply(parameters("llama"), jnp.asarray(tokens), CONFIGS["llama"], **more)


def test_a_token_outside_of_the_vocabulary_makes_its_row_nan():
    tokens = (
        jnp.concatenate([TOKENS, TOKENS, TOKENS[:1]])
        .at[jnp.arange(2), 3]
        .set(jnp.asarray([37, -1]))
    )
    # Where it cannot be seen: it is refused else.
    logits = jax.jit(functools.partial(llama.apply, config=CONFIGS["llama"]))(
        parameters("llama"), tokens
    )
    np.testing.assert_array_equal(jnp.isnan(logits).all((1, 2)), [True, True, False, False, False])
    assert np.isfinite(logits[2:]).all()
