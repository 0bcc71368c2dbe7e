"""The loop of unlearning on models of a few lines: equal to the decoder's, mapped, by hand."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from llama_parameters import drawn

from jaxml import unlearning
from jaxml.llm._unlearn import unlearn_decoder
from jaxml.models import llama
from jaxml.unlearning import Sequences, UnlearnConfig, unlearn

RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 3)
VOCABULARY = 11


def sequences(rows, time=7):
    tokens = jnp.asarray(RNG.integers(0, VOCABULARY, (rows, time)), jnp.int32)
    length = RNG.integers(3, time + 1, (rows, 1))
    return Sequences(tokens, jnp.asarray(np.arange(time) < length))


FORGET, RETAIN, INSTEAD = sequences(5), sequences(6, 8), sequences(5, 4)
BIGRAM = jnp.asarray(RNG.normal(size=(VOCABULARY, VOCABULARY)))
DECODER = llama.LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
)
LLAMA = drawn(DECODER, matrices=10, dtype="float64")


def bigram(table, tokens):
    """A model of a table: the logits of the next token given this one."""
    return table[tokens]


def decoder(params, tokens):
    return llama.apply(params, tokens, DECODER)


def hidden(down, tokens):
    layers = {**LLAMA["layers"], "down": down}
    return llama.apply({**LLAMA, "layers": layers}, tokens, DECODER, until_layer=2)


def config(method="npo", **settings):
    return UnlearnConfig(method, **{"steps": 4, "batch_size": 2, "learning_rate": 1e-2, **settings})


def alternative_of(method):
    return INSTEAD if method in ("dpo", "idk") else None


@pytest.mark.parametrize(
    ("method", "retain", "rho"),
    [("ga", "nll", 0.01), ("npo", "kl", 0.0), ("dpo", "none", 0.0)],
)
def test_equals_the_loop_of_a_decoder(method, retain, rho):
    settings = dict(
        config=config(method, retain=retain, rho=rho), alternative=alternative_of(method)
    )
    found = unlearn(KEYS[0], LLAMA, decoder, FORGET, RETAIN, **settings)
    expected = unlearn_decoder(KEYS[0], LLAMA, DECODER, FORGET, RETAIN, **settings)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    jax.tree.map(same, found, expected)


def test_rmu_equals_that_of_a_decoder():
    settings = dict(config=config("rmu", alpha=2.0, scale=3.0))
    down = LLAMA["layers"]["down"]
    found = unlearn(KEYS[0], down, hidden, FORGET, RETAIN, **settings)
    expected = unlearn_decoder(KEYS[0], LLAMA, DECODER, FORGET, RETAIN, layer=1, **settings)
    np.testing.assert_allclose(found.params, expected.params["layers"]["down"], rtol=1e-6)
    assert found.history.keys() == expected.history.keys()
    for name, values in found.history.items():
        np.testing.assert_allclose(values, expected.history[name], rtol=1e-6, atol=1e-9)


def test_one_step_on_a_table_by_hand():
    """The gradient of the log-probability of a bigram: counts less expected counts."""

    def slope(texts):
        expected = np.zeros((VOCABULARY, VOCABULARY))
        probability = np.exp(BIGRAM) / np.exp(BIGRAM).sum(1, keepdims=True)
        for row, counted in zip(np.asarray(texts.tokens), np.asarray(texts.mask), strict=True):
            for before, after, counts in zip(row[:-1], row[1:], counted[1:], strict=True):
                expected[before] -= counts * probability[before]
                expected[before, after] += counts
        return expected / np.asarray(texts.mask)[:, 1:].sum()

    found = unlearn(
        KEYS[0],
        BIGRAM,
        bigram,
        FORGET,
        RETAIN,
        config=config("ga", steps=1, batch_size=9, retain_weight=0.5),
        optimizer=optax.sgd(1.0),
    )
    by_hand = BIGRAM - slope(FORGET) + 0.5 * slope(RETAIN)
    np.testing.assert_allclose(found.params, by_hand, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["npo", "wga", "satimp"])
def test_maps_over_keys_models_and_forget_sets(method):
    run = functools.partial(unlearn, apply=bigram, config=config(method))
    one = lambda key, table, forget: run(key, table, forget=forget, retain=RETAIN)
    tables = BIGRAM + jnp.asarray(RNG.normal(size=(3, 1, 1)))
    forgets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(sequences(5) for _ in range(3)))
    found = jax.jit(jax.vmap(one))(KEYS, tables, forgets)
    for i in range(3):
        expected = one(KEYS[i], tables[i], jax.tree.map(lambda leaf: leaf[i], forgets))  # noqa: B023
        same = lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-9, atol=1e-12)  # noqa: B023
        jax.tree.map(same, found, expected)


def test_a_coreset_is_some_rows():
    coreset = jax.tree.map(lambda leaf: leaf[jnp.array([3])], FORGET)
    found = unlearn(
        KEYS[0], BIGRAM, bigram, coreset, RETAIN, config=config("ga", retain="none", steps=30)
    )
    logp = lambda table: unlearning.sequence_log_prob(
        bigram(table, FORGET.tokens), FORGET.tokens, FORGET.mask
    )
    fall = logp(BIGRAM) - logp(found.params)
    assert fall[3] > 0.5 and fall[3] == fall.max()
    untouched = np.setdiff1d(np.arange(VOCABULARY), np.asarray(coreset.tokens))
    np.testing.assert_array_equal(found.params[untouched], BIGRAM[untouched])


def test_a_loop_is_compiled_once():
    traces = []

    def counting(table, tokens):
        traces.append(tokens.shape)
        return table[tokens]

    run = functools.partial(unlearn, apply=counting, config=config())
    run(KEYS[0], BIGRAM, forget=FORGET, retain=RETAIN)
    first = len(traces)
    run(KEYS[1], BIGRAM + 1, forget=INSTEAD, retain=RETAIN)
    again = len(traces)
    run(KEYS[2], BIGRAM - 1, forget=INSTEAD, retain=RETAIN)
    # Another shape is another program; other keys and values are not.
    assert first < again == len(traces)


@pytest.mark.parametrize(
    ("settings", "alternative", "message"),
    [
        (dict(method="ga", steps=0), None, "steps=0"),
        (dict(method="dpo"), None, "alternative: None with method='dpo'"),
        (dict(method="npo"), INSTEAD, "alternative: given with method='npo'"),
        (dict(method="npo", alpha=-1.0), None, "alpha=-1.0"),
    ],
)
def test_bad_settings_are_named(settings, alternative, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        unlearn(
            KEYS[0],
            BIGRAM,
            bigram,
            FORGET,
            RETAIN,
            config=config(**settings),
            alternative=alternative,
        )


def test_an_empty_set_is_named():
    nothing = jax.tree.map(lambda leaf: leaf[:0], FORGET)
    with pytest.raises(ValueError, match=re.escape("forget: tokens (0, 7)")):
        unlearn(KEYS[0], BIGRAM, bigram, nothing, RETAIN)
