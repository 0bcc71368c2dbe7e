"""Unlearning of a tiny decoder: steps by hand, what moves, resume, bad input."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from llama_parameters import drawn

from jaxml import unlearning
from jaxml.files.errors import DataError
from jaxml.llm._unlearn import sequence_log_probs, unlearn_decoder
from jaxml.models import llama
from jaxml.models.llama import LlamaConfig
from jaxml.unlearning import Objective, Sequences, UnlearnConfig
from jaxml.unlearning._sequences import draw_rows

DECODER = LlamaConfig(
    vocab_size=23,
    hidden_size=8,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
)
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
PARAMS = drawn(DECODER, 1, matrices=10)


def sequences(rows, time=9, least=4):
    tokens = jnp.asarray(RNG.integers(0, 23, (rows, time)), jnp.int32)
    length = RNG.integers(least, time + 1, (rows, 1))
    return Sequences(tokens, jnp.asarray((np.arange(time) >= 1) & (np.arange(time) < length)))


FORGET, RETAIN, INSTEAD = sequences(5), sequences(7, 11), sequences(5, 6)


def logp(params, texts):
    """The sum over the tokens that count, from all logits."""
    logits = llama.apply(params, texts.tokens, DECODER)
    return unlearning.sequence_log_prob(logits, texts.tokens, texts.mask)


def run(method="npo", **settings):
    own = ("optimizer", "folder", "layer", "trained", "chunk")
    extra = {name: settings.pop(name) for name in own if name in settings}
    params = settings.pop("params", PARAMS)
    forget, kept = settings.pop("forget", FORGET), settings.pop("kept", RETAIN)
    config = UnlearnConfig(
        method, **{"steps": 20, "batch_size": 8, "learning_rate": 3e-3, **settings}
    )
    alternative = INSTEAD if method in ("dpo", "idk") else None
    return unlearn_decoder(
        KEY, params, DECODER, forget, kept, config=config, alternative=alternative, **extra
    )


def test_log_probs_equal_those_of_all_logits():
    found = sequence_log_probs(PARAMS, FORGET, DECODER, batch_size=2, chunk=3 * 2 * 23)
    np.testing.assert_allclose(found, logp(PARAMS, FORGET), rtol=1e-5)


@pytest.mark.parametrize("method", ["ga", "npo", "simnpo", "wga", "satimp", "dpo"])
def test_what_is_forgotten_gets_less_likely_and_what_is_kept_does_not(method):
    found = run(method, retain_weight=5.0)
    assert sequence_log_probs(found.params, FORGET, DECODER).mean() < logp(PARAMS, FORGET).mean()
    assert logp(found.params, RETAIN).mean() > logp(PARAMS, RETAIN).mean()
    assert {name: len(h) for name, h in found.history.items()} == dict(
        loss=20, forget=20, retain=20
    )


def test_alternatives_get_likelier():
    for method in ("dpo", "idk"):
        found = run(method)
        assert logp(found.params, INSTEAD).mean() > logp(PARAMS, INSTEAD).mean() + 0.5


# The losses are so steep that two steps in float32 agree to four digits.
DOUBLE = jax.tree.map(lambda leaf: leaf.astype("float64"), PARAMS)


def by_hand(method, retain, beta=0.1):
    """Loss of all rows, each term from all logits."""
    reference = logp(DOUBLE, FORGET)

    def forget_loss(params):
        own, count = logp(params, FORGET), FORGET.mask[:, 1:].sum(1)
        if method == "npo":
            return -2 / beta * jnp.mean(jax.nn.log_sigmoid(-beta * (own - reference)))
        return own.sum() / count.sum().astype(own.dtype)

    def retain_loss(params):
        if retain == "nll":
            return -logp(params, RETAIN).sum() / RETAIN.mask[:, 1:].sum().astype("float64")
        log_p, log_q = (
            jax.nn.log_softmax(llama.apply(p, RETAIN.tokens, DECODER)) for p in (params, DOUBLE)
        )
        divergence = jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)
        return jnp.mean(divergence, where=RETAIN.mask)

    return forget_loss, retain_loss


@pytest.mark.parametrize("rho", [0.0, 0.05])
@pytest.mark.parametrize(("method", "retain"), [("npo", "nll"), ("ga", "kl")])
def test_two_steps_equal_those_by_hand(method, retain, rho):
    found = run(
        method,
        retain=retain,
        retain_weight=0.7,
        rho=rho,
        steps=2,
        optimizer=optax.sgd(0.01),
        params=DOUBLE,
    )
    forget_loss, retain_loss = by_hand(method, retain)

    @jax.jit
    def step(params):
        gradient = jax.grad(forget_loss)
        first = gradient(params)
        if rho:
            shift = rho / optax.tree.norm(first)
            first = gradient(jax.tree.map(lambda p, g: p + shift * g, params, first))
        both = jax.tree.map(lambda a, b: a + 0.7 * b, first, jax.grad(retain_loss)(params))
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, both)

    expected = step(step(DOUBLE))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), found.params, expected
    )
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found.params, DOUBLE)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_rmu_moves_its_matrices_alone_towards_its_direction():
    found = run("rmu", layer=1, alpha=1.0, scale=3.0, steps=60)
    layers, before = found.params["layers"], PARAMS["layers"]
    for name in before:
        changed = [
            not np.array_equal(a, b) for a, b in zip(layers[name], before[name], strict=True)
        ]
        assert changed == ([True, True, False] if name == "down" else [False] * 3)
    for name in ("embed", "norm"):
        np.testing.assert_array_equal(found.params[name], PARAMS[name])
    control = unlearning.rmu_control(jax.random.split(KEY)[0], 8, scale=3.0)
    hidden = lambda p, texts: llama.apply(p, texts.tokens, DECODER, until_layer=2)
    distance = lambda p: np.square(hidden(p, FORGET) - control)[FORGET.mask].mean()
    np.testing.assert_allclose(found.history["forget"][0], distance(PARAMS), rtol=1e-4)
    assert found.history["retain"][0] == 0
    assert distance(found.params) < 0.7 * distance(PARAMS)
    kept = np.square(hidden(found.params, RETAIN) - hidden(PARAMS, RETAIN))[RETAIN.mask].mean()
    assert kept < distance(PARAMS) - distance(found.params)


def test_batches_are_drawn_independently_and_are_different_rows():
    found = run("npo", batch_size=2, steps=1)
    again = run("npo", batch_size=2, steps=1)
    jax.tree.map(np.testing.assert_array_equal, found.params, again.params)
    drawn = [draw_rows(key, jnp.arange(5), 3) for key in jax.random.split(KEY, 50)]
    assert all(len(set(np.asarray(rows).tolist())) == 3 for rows in drawn)
    assert len({tuple(np.asarray(rows).tolist()) for rows in drawn}) > 20


def test_goes_on_where_it_was(tmp_path):
    whole = run("npo", batch_size=2, steps=6)
    run("npo", batch_size=2, steps=3, folder=tmp_path)
    found = run("npo", batch_size=2, steps=6, folder=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, whole)


def own_ascent(batch, beta):
    return unlearning.gradient_ascent(batch.logp, lengths=batch.lengths)


def test_an_objective_of_the_callers_has_checkpoints_of_its_own(tmp_path):
    own = Objective(own_ascent)
    whole = run(own, batch_size=2, steps=6)
    jax.tree.map(np.testing.assert_array_equal, whole, run("ga", batch_size=2, steps=6))
    run(own, batch_size=2, steps=3, folder=tmp_path)
    for other in ("ga", Objective(lambda batch, beta: own_ascent(batch, beta))):
        with pytest.raises(ValueError, match=r"other settings: depends\['method'\] was"):
            run(other, batch_size=2, steps=6, folder=tmp_path)
    found = run(own, batch_size=2, steps=6, folder=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, whole)


def test_plain_tokens_all_count():
    whole = Sequences(FORGET.tokens, jnp.ones_like(FORGET.mask))
    found = sequence_log_probs(PARAMS, np.asarray(FORGET.tokens), DECODER)
    np.testing.assert_array_equal(found, sequence_log_probs(PARAMS, whole, DECODER))
    settings = dict(config=UnlearnConfig(steps=2))
    expected = unlearn_decoder(KEY, PARAMS, DECODER, whole, whole, **settings)
    plain = unlearn_decoder(KEY, PARAMS, DECODER, FORGET.tokens, FORGET.tokens, **settings)
    jax.tree.map(np.testing.assert_array_equal, plain, expected)


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path):
    huge = float(np.finfo(np.float32).max)
    rising = optax.adamw(lambda step: jnp.where(step < 2, 1e-3, huge), weight_decay=0.0)
    run("ga", steps=2, folder=tmp_path, optimizer=rising)
    with pytest.raises(FloatingPointError, match="step"):
        run("ga", steps=4, folder=tmp_path, optimizer=rising)
    kept = run("ga", steps=2, folder=tmp_path, optimizer=rising)
    assert kept.history["loss"].shape == (2,)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (dict(params=jax.tree.map(lambda leaf: leaf + 1e-3, PARAMS)), "params"),
        (dict(forget=Sequences(FORGET.tokens, FORGET.mask.at[0, 2].set(False))), "forget"),
        (dict(kept=RETAIN[::-1]), "retain"),
        (dict(learning_rate=2e-3), "learning_rate"),
        (dict(retain_weight=0.5), "retain_weight"),
    ],
)
def test_checkpoints_of_other_content_are_refused_by_its_name(tmp_path, changes, name):
    run("npo", steps=2, folder=tmp_path)
    with pytest.raises(DataError, match=rf"other settings: depends\['{name}'\] was .* and is"):
        run("npo", steps=4, folder=tmp_path, **changes)
    run("npo", steps=4, folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(steps=0), "steps=0"),
        (dict(rho=-1.0), "rho=-1.0"),
        (dict(learning_rate=0.0), "learning_rate=0.0"),
        (dict(method="rmu", layer=3), "layer=3: accepted is 0 to 2"),
        (dict(method="rmu", layer=1, trained="norm"), "trained='norm'"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(**change)


@pytest.mark.parametrize(
    ("forget", "alternative", "message"),
    [
        (
            Sequences(FORGET.tokens + 20, FORGET.mask),
            None,
            "does the tokenizer belong to the model",
        ),
        (Sequences(FORGET.tokens[:, :1], FORGET.mask[:, :1]), None, "of 2 tokens or more"),
        (FORGET[:0], None, "of 2 tokens or more"),
        (FORGET, INSTEAD, "accepted is None with method='npo'"),
    ],
)
def test_bad_texts_are_named(forget, alternative, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        unlearn_decoder(KEY, PARAMS, DECODER, forget, RETAIN, alternative=alternative)


@pytest.mark.parametrize("name", ["method", "retain"])
def test_an_unknown_name_is_told(name, unchecked):
    with pytest.raises(ValueError, match=f"{name}='some'"):
        run(**{name: "some"})


def test_a_mask_of_another_shape_is_named(unchecked):
    forget = Sequences(FORGET.tokens, FORGET.mask[:2])
    with pytest.raises(
        ValueError, match=re.escape("forget.mask=bool[2, 9]: accepted is bool[5, 9]")
    ):
        unlearn_decoder(KEY, PARAMS, DECODER, forget, RETAIN)


def test_alternatives_are_one_a_row():
    config = UnlearnConfig("dpo")
    for alternative, message in (
        (None, "alternative=None.* with method='dpo'"),
        (INSTEAD[:2], r"alternative=int32\[2, 6\]: accepted is 5 rows, one for each of forget"),
    ):
        with pytest.raises(ValueError, match=message):
            unlearn_decoder(
                KEY, PARAMS, DECODER, FORGET, RETAIN, config=config, alternative=alternative
            )


def test_results_are_trees_and_settings_are_frozen():
    assert len(jax.tree.leaves(FORGET)) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        UnlearnConfig().steps = 3


@pytest.mark.parametrize("method", ["npo", "rmu"])
def test_one_program_serves_any_number_of_steps(method):
    traces = []
    sgd = optax.sgd(1e-3)

    def update(*given):
        traces.append(given)
        return sgd.update(*given)

    counted = optax.GradientTransformation(sgd.init, update)
    for steps in (2, 3):
        found = run(method, steps=steps, optimizer=counted, layer=2)
        assert len(found.history["loss"]) == steps
    assert len(traces) == 1
