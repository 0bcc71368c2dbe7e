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
from jaxml.unlearning import Objective, Sequences, UnlearnConfig, unlearn

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
    found = unlearn(KEYS[0], decoder, LLAMA, FORGET, RETAIN, **settings)
    expected = unlearn_decoder(KEYS[0], LLAMA, DECODER, FORGET, RETAIN, **settings)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    jax.tree.map(same, found, expected)


def test_rmu_equals_that_of_a_decoder():
    settings = dict(config=config("rmu", alpha=2.0, scale=3.0))
    down = LLAMA["layers"]["down"]
    found = unlearn(KEYS[0], hidden, down, FORGET, RETAIN, **settings)
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
        bigram,
        BIGRAM,
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
    one = lambda key, table, forget: run(key, params=table, forget=forget, retain=RETAIN)
    tables = BIGRAM + jnp.asarray(RNG.normal(size=(3, 1, 1)))
    forgets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(sequences(5) for _ in range(3)))
    found = jax.jit(jax.vmap(one))(KEYS, tables, forgets)
    for i in range(3):
        expected = one(KEYS[i], tables[i], jax.tree.map(lambda leaf: leaf[i], forgets))  # noqa: B023
        same = lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-9, atol=1e-12)  # noqa: B023
        jax.tree.map(same, found, expected)


def test_a_coreset_is_some_rows():
    coreset = FORGET[3]
    found = unlearn(
        KEYS[0], bigram, BIGRAM, coreset, RETAIN, config=config("ga", retain="none", steps=30)
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
    run(KEYS[0], params=BIGRAM, forget=FORGET, retain=RETAIN)
    first = len(traces)
    run(KEYS[1], params=BIGRAM + 1, forget=INSTEAD, retain=RETAIN)
    again = len(traces)
    run(KEYS[2], params=BIGRAM - 1, forget=INSTEAD, retain=RETAIN)
    # Another shape is another program; other keys and values are not.
    assert first < again == len(traces)


@pytest.mark.parametrize("method", ["npo", "dpo", "rmu"])
def test_of_plain_tokens_all_count(method):
    tokens, whole = FORGET.tokens, jnp.ones_like(FORGET.mask)
    other = INSTEAD.tokens if method == "dpo" else None
    run = functools.partial(unlearn, KEYS[0], bigram, BIGRAM, config=config(method))
    expected = run(
        Sequences(tokens, whole),
        Sequences(tokens[1:], whole[1:]),
        alternative=None if other is None else Sequences(other, jnp.ones_like(INSTEAD.mask)),
    )
    plain = run(np.asarray(tokens), tokens[1:], alternative=other)
    jax.tree.map(np.testing.assert_array_equal, plain, expected)


def unlearnt(method, alternative=None, **settings):
    return unlearn(
        KEYS[0], bigram, BIGRAM, FORGET, RETAIN, config=config(method, **settings),
        alternative=alternative,
    )  # fmt: skip


def own_npo(batch, beta):
    return unlearning.npo(batch.logp, batch.reference_logp, beta=beta)


@pytest.mark.parametrize("settings", [{}, {"beta": 0.7}, {"rho": 0.05}])
def test_an_objective_of_the_callers_equals_the_library_s(settings):
    own = Objective(own_npo, frozenset({"reference"}), 0.1)
    found, expected = unlearnt(own, **settings), unlearnt("npo", **settings)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_an_objective_may_read_tokens_and_takes_no_reference_unless_it_needs_it():
    def likely_tokens(batch, beta):
        assert batch.reference_logp is None and batch.alternative is None and beta is None
        return jnp.max(batch.token_logp, where=batch.counted, initial=-jnp.inf)

    found = unlearnt(Objective(likely_tokens))
    assert found.history["forget"][-1] < found.history["forget"][0]


def test_what_an_objective_needs_is_refused_unless_given(unchecked):
    prefer = Objective(lambda batch, beta: batch.alternative_logp.sum(), frozenset({"alternative"}))
    assert unlearnt(prefer, INSTEAD).history["loss"].shape == (4,)
    with pytest.raises(ValueError, match="alternative=None: accepted is texts.*<lambda>"):
        unlearnt(prefer)
    with pytest.raises(
        ValueError, match="alternative=int32.*: accepted is None with method=.*own_"
    ):
        unlearnt(Objective(own_npo, frozenset({"reference"}), 0.1), INSTEAD)
    for needs in (frozenset({"retain"}), {"reference"}):
        with pytest.raises(ValueError, match="method.needs=.*: accepted is a frozenset of some of"):
            unlearnt(Objective(own_npo, needs))


@pytest.mark.parametrize(
    ("settings", "alternative", "message"),
    [
        (dict(method="ga", steps=0), None, "steps=0"),
        (
            dict(method="dpo"),
            None,
            "alternative=None: accepted is texts, one a row of forget, with method='dpo'",
        ),
        (
            dict(method="npo"),
            INSTEAD,
            "alternative=int32[5, 4]: accepted is None with method='npo'",
        ),
        (dict(method="npo", alpha=-1.0), None, "alpha=-1.0"),
    ],
)
def test_bad_settings_are_named(settings, alternative, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        unlearn(
            KEYS[0],
            bigram,
            BIGRAM,
            FORGET,
            RETAIN,
            config=config(**settings),
            alternative=alternative,
        )


def test_an_empty_set_is_named():
    with pytest.raises(ValueError, match=re.escape("forget=int32[0, 7]: accepted is one row")):
        unlearn(KEYS[0], bigram, BIGRAM, FORGET[:0], RETAIN)
