"""Objectives by name: their losses from a batch, what they need, their defaults."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import unlearning
from jaxml.unlearning import METHODS, OBJECTIVES, ForgetBatch, Objective, Sequences
from jaxml.unlearning._methods import method_name, objective_of

RNG = np.random.default_rng(0)


def texts(time):
    tokens = jnp.asarray(RNG.integers(0, 9, (4, time)), jnp.int32)
    length = RNG.integers(2, time + 1, (4, 1))
    return Sequences(tokens, jnp.asarray(np.arange(time) < length))


def log_probs(*shape):
    return -jnp.asarray(RNG.uniform(0.1, 3, shape))


BATCH = ForgetBatch(
    texts(6), log_probs(4, 5), log_probs(4), texts(5), log_probs(4, 4), log_probs(4)
)
FIELDS = {"reference": "reference_logp", "alternative": "alternative_logp"}


def test_sums_and_numbers_of_terms():
    for texts, each, total, lengths in (
        (BATCH.texts, BATCH.token_logp, BATCH.logp, BATCH.lengths),
        (
            BATCH.alternative,
            BATCH.alternative_token_logp,
            BATCH.alternative_logp,
            BATCH.alternative_lengths,
        ),
    ):
        mask = np.asarray(texts.mask)[:, 1:]
        np.testing.assert_allclose(total, np.where(mask, each, 0).sum(1), rtol=1e-12)
        np.testing.assert_array_equal(lengths, mask.sum(1))
    np.testing.assert_array_equal(BATCH.counted, np.asarray(BATCH.texts.mask)[:, 1:])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_is_that_of_its_function(name):
    b = BATCH
    expected = {
        "ga": lambda: unlearning.gradient_ascent(b.logp, lengths=b.lengths),
        "npo": lambda: unlearning.npo(b.logp, b.reference_logp),
        "simnpo": lambda: unlearning.simnpo(b.logp, b.lengths),
        "wga": lambda: unlearning.wga(b.token_logp, b.counted),
        "satimp": lambda: unlearning.satimp(b.token_logp, b.counted),
        "dpo": lambda: unlearning.dpo(
            b.logp, b.alternative_logp, b.reference_logp, b.alternative_reference_logp
        ),
        "idk": lambda: unlearning.nll(b.alternative_logp, lengths=b.alternative_lengths),
    }[name]()
    objective = OBJECTIVES[name]
    found = jax.jit(objective.loss, static_argnums=1)(b, objective.beta)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_reads_what_it_needs_and_no_more(name):
    objective = OBJECTIVES[name]
    names = [field for field in BATCH.__dict__ if field.partition("_")[0] in FIELDS]
    read = {"reference", "alternative"} & {
        need
        for need in FIELDS
        if any(
            np.isnan(objective.loss(_without(field), objective.beta))
            for field in names
            if need in field and getattr(BATCH, field) is not BATCH.alternative
        )
    }
    assert read == objective.needs


def _without(name):
    """A batch in which something is not a number."""
    fields = {**BATCH.__dict__, name: BATCH.__dict__[name] * jnp.nan}
    return ForgetBatch(**fields)


def test_alternatives_that_are_not_there_are_named():
    for name in ("alternative_logp", "alternative_lengths"):
        with pytest.raises(
            ValueError, match="alternative=None: accepted is texts, of an objective"
        ):
            getattr(ForgetBatch(BATCH.texts, BATCH.token_logp), name)


def test_defaults_are_those_of_the_functions():
    for name, objective in OBJECTIVES.items():
        function = getattr(unlearning, name, None)
        parameters = inspect.signature(function).parameters if function else {}
        assert objective.beta == (parameters["beta"].default if "beta" in parameters else None)


def test_names():
    assert METHODS == (*OBJECTIVES, "rmu")
    own = Objective(log_probs)
    assert objective_of("ga") is OBJECTIVES["ga"] and objective_of(own) is own
    assert method_name("ga") == "ga" and method_name(own) == f"{__name__}.log_probs"
