"""Continuations with kept keys and values against running the whole text at every step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.models import llama
from jaxml.models.llama import LlamaConfig, Scaling

CONFIG = LlamaConfig(29, 16, 2, 4, 2, 6, 20, scaling=Scaling("llama3", 4.0, 1.0, 4.0, 16))
CONFIGS = {
    "llama": CONFIG,
    "mistral": dataclasses.replace(CONFIG, architecture="mistral", window=4, tie_embeddings=True),
}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 29, (3, 5)))
STEPS = 6


def parameters(config):
    rng = np.random.default_rng(3)
    shapes = llama.init(jax.random.key(0), config)
    return jax.tree.map(lambda leaf: jnp.asarray(0.7 * rng.normal(size=leaf.shape)), shapes)


@functools.partial(jax.jit, static_argnames="config")
def whole_text(params, tokens, config, mask):
    """Return the most likely continuation, the text run anew for every token."""
    prompt, room = tokens.shape[1], jnp.zeros((len(tokens), STEPS), tokens.dtype)
    mask = jnp.concatenate([mask, room == 0], axis=1)

    def add(step, text):
        logits = llama.apply(params, text, config, mask=mask)[:, prompt + step - 1]
        return text.at[:, prompt + step].set(jnp.argmax(logits, axis=-1))

    return jax.lax.fori_loop(0, STEPS, add, jnp.concatenate([tokens, room], axis=1))[:, prompt:]


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_running_the_whole_text(name):
    config, params = CONFIGS[name], parameters(CONFIGS[name])
    mask = jnp.arange(5) >= jnp.asarray([[0], [2], [3]])
    found = llama.generate(params, TOKENS, config, steps=STEPS, mask=mask)
    assert found.shape == (3, STEPS) and found.dtype == TOKENS.dtype
    assert len(np.unique(found)) > 3
    np.testing.assert_array_equal(found, whole_text(params, TOKENS, config, mask))


def test_a_row_that_has_ended_stays_so():
    params = parameters(CONFIG)
    free = np.asarray(llama.generate(params, TOKENS, CONFIG, steps=STEPS))
    end = int(free[0, 2])
    found = llama.generate(params, TOKENS, CONFIG, steps=STEPS, end=end)
    ended = np.cumsum(free == end, axis=1) > 0
    assert ended[0, 2:].all() and not ended.all()
    np.testing.assert_array_equal(found, np.where(ended, end, free))


def test_frequencies_of_samples_are_the_probabilities():
    params, config = parameters(CONFIG), CONFIG
    prompt = TOKENS[:1]
    rows = jnp.broadcast_to(prompt, (4000, 5))
    drawn = llama.sample(jax.random.key(1), params, rows, config, steps=1, temperature=2.0)
    logits = llama.apply(params, prompt, config)[0, -1]
    expected = jax.nn.softmax(logits / 2)
    found = np.bincount(drawn[:, 0], minlength=29) / 4000
    # Four standard deviations.
    np.testing.assert_array_less(
        np.abs(found - expected), 4 * np.sqrt(expected * (1 - expected) / 4000) + 1e-3
    )
    few = llama.sample(jax.random.key(1), params, rows, config, steps=1, temperature=9.0, top_k=3)
    assert set(np.unique(few)) == set(np.argsort(logits)[-3:].tolist())


def test_samples_follow_the_key_and_cold_ones_are_the_most_likely():
    params = parameters(CONFIG)
    draw = lambda seed, **more: np.asarray(
        llama.sample(jax.random.key(seed), params, TOKENS, CONFIG, steps=STEPS, **more)
    )
    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()
    greedy = llama.generate(params, TOKENS, CONFIG, steps=STEPS)
    np.testing.assert_array_equal(draw(0, temperature=1e-6), greedy)


def test_a_second_call_does_not_compile_again():
    from jaxml.models.llama.generation import _continue

    params = parameters(CONFIG)
    llama.generate(params, TOKENS, CONFIG, steps=STEPS)
    before = _continue._cache_size()
    llama.generate(params, TOKENS + 1 - 1, CONFIG, steps=STEPS)
    assert _continue._cache_size() == before


def test_mask_and_temperature_may_be_arrays_that_a_compiled_function_captures():
    mask, temperature = jnp.ones(TOKENS.shape, bool), jnp.asarray(0.5)
    params, key = parameters(CONFIG), jax.random.key(0)
    greedy = jax.jit(lambda p: llama.generate(p, TOKENS, CONFIG, steps=2, mask=mask))
    np.testing.assert_array_equal(
        greedy(params), llama.generate(params, TOKENS, CONFIG, steps=2, mask=mask)
    )
    draw = functools.partial(llama.sample, key, tokens=TOKENS, config=CONFIG, steps=2)
    drawn = jax.jit(lambda p: draw(p, temperature=temperature))(params)
    np.testing.assert_array_equal(drawn, draw(params, temperature=0.5))


def second_likeliest(logits, step):
    return jnp.argsort(logits, axis=-1)[:, -2]


def odd_steps_drawn(key, logits, step):
    """Return the likeliest tokens at even steps, else drawn ones."""
    drawn = jax.random.categorical(jax.random.fold_in(key, step), logits)
    return jnp.where(step % 2, drawn, jnp.argmax(logits, axis=-1))


def test_a_sampler_of_ones_own_is_followed():
    params = parameters(CONFIG)
    new = llama.generate(params, TOKENS, CONFIG, steps=4, choose=second_likeliest)
    tokens = TOKENS
    for step in range(4):
        logits = llama.apply(params, tokens, CONFIG)[:, -1]
        np.testing.assert_array_equal(new[:, step], second_likeliest(logits, step))
        tokens = jnp.concatenate([tokens, new[:, step, None]], axis=1)


def test_a_sampler_may_bring_its_key():
    params, key = parameters(CONFIG), jax.random.key(3)
    choose = lambda key: jax.tree_util.Partial(odd_steps_drawn, key)
    new = llama.generate(params, TOKENS, CONFIG, steps=2, choose=choose(key))
    greedy = llama.generate(params, TOKENS, CONFIG, steps=1)
    np.testing.assert_array_equal(new[:, 0], greedy[:, 0])
    logits = llama.apply(params, jnp.concatenate([TOKENS, greedy], axis=1), CONFIG)[:, -1]
    np.testing.assert_array_equal(new[:, 1], odd_steps_drawn(key, logits, jnp.asarray(1)))
    # Keys are traced: several at once.
    keys = jax.random.split(key, 3)
    draw = lambda key: llama.generate(params, TOKENS, CONFIG, steps=2, choose=choose(key))
    np.testing.assert_array_equal(jax.vmap(draw)(keys), jnp.stack([draw(key) for key in keys]))


@pytest.mark.parametrize(
    ("tokens", "more", "message"),
    [
        (TOKENS, dict(steps=0), "steps=0: accepted is a whole number, 1 or more"),
        (TOKENS[0], dict(steps=2), r"tokens=int\d+\[5\]: accepted is \[row, time\]"),
        (TOKENS[:, :0], dict(steps=2), r"tokens=int\d+\[3, 0\]"),
        (
            TOKENS,
            dict(steps=2, mask=jnp.ones((3, 4), bool)),
            r"mask=bool\[3, 4\]: accepted is bool\[3, 5\]",
        ),
        (
            TOKENS,
            dict(steps=2, mask=jnp.asarray([[True] * 4 + [False]] * 3)),
            r"mask=bool\[3, 5\] with False in the last column: accepted is padding left",
        ),
    ],
)
def test_bad_input_is_named(tokens, more, message, unchecked):
    with pytest.raises(ValueError, match=message):
        llama.generate(parameters(CONFIG), tokens, CONFIG, **more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(temperature=0.0), "temperature=0.0: accepted is a number above 0"),
        (dict(top_k=30), "top_k=30: accepted is 1 to 29"),
    ],
)
def test_bad_sampling_is_named(more, message, unchecked):
    with pytest.raises(ValueError, match=message):
        llama.sample(jax.random.key(0), parameters(CONFIG), TOKENS, CONFIG, steps=1, **more)
