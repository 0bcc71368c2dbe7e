"""Token ids and labels of another vocabulary: refused by name, and NaN where they are traced.

XLA takes the nearest row for an index that is too large, and JAX counts negative ones from the end.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile_calls import (
    DECODER,
    HOSTILE_CALLS,
    IMAGES,
    PARAMS,
    TABLES,
    TOKENS,
    UNLEARN,
    WEIGHTS,
    Classifier,
    Letters,
    classifier_params,
    key,
    network,
    next_logits,
    of_embeddings,
)
from jax.tree_util import Partial

from jaxml import backdoor, llm, models, unlearning
from jaxml.data.questions import ChoiceQuestion, Passage, Question
from jaxml.llm._measures import membership
from jaxml.models import llama
from jaxml.unlearning import Sequences, coreset, metrics

VOCABULARY = DECODER.vocab_size
MODEL = llm.Model(PARAMS, DECODER, Letters())
TABLE = jnp.asarray(TABLES[0])
EMBEDDING = PARAMS["embed"]
LABELS = jnp.arange(6, dtype=jnp.int32) % 3
CLASSIFIER = classifier_params(jnp.asarray(WEIGHTS[0]))


def texts(tokens):
    return Sequences(tokens, jnp.ones(tokens.shape, bool))


# name of the argument, call of tokens
OF_TOKENS = {
    "llama.embed": ("tokens", lambda t: llama.embed(PARAMS, t)),
    "llama.apply": ("tokens", lambda t: llama.apply(PARAMS, t, DECODER)),
    "llama.hidden_states": ("tokens", lambda t: llama.hidden_states(PARAMS, t, DECODER)),
    "llama.log_prob": ("tokens", lambda t: llama.log_prob(PARAMS, t, DECODER)),
    "llama.generate": ("tokens", lambda t: llama.generate(PARAMS, t, DECODER, steps=1)),
    "llama.sample": ("tokens", lambda t: llama.sample(key(), PARAMS, t, DECODER, steps=1)),
    "llm.evaluate": ("texts", lambda t: llm.evaluate(MODEL, texts=t)),
    "llm.membership": ("texts", lambda t: membership(PARAMS, DECODER, texts(t))),
    "llm.score": ("texts", lambda t: llm.score(key(), "loss", MODEL, t)),
    "llm.unlearn": ("forget", lambda t: llm.unlearn(key(), MODEL, t, TOKENS, config=UNLEARN)),
    "llm.unlearn, to keep": (
        "retain",
        lambda t: llm.unlearn(key(), MODEL, TOKENS, t, config=UNLEARN),
    ),
    "unlearn": (
        "forget",
        lambda t: unlearning.unlearn(key(), next_logits, TABLE, t, TOKENS, config=UNLEARN),
    ),
    "unlearn, to keep": (
        "retain",
        lambda t: unlearning.unlearn(key(), next_logits, TABLE, TOKENS, t, config=UNLEARN),
    ),
    "relearn": ("texts", lambda t: unlearning.attacks.relearn(key(), next_logits, TABLE, t)),
    "grand": ("texts", lambda t: coreset.grand(next_logits, TABLE, t)),
    "attack_objective": (
        "prompts",
        lambda t: unlearning.attacks.attack_objective(Partial(of_embeddings), EMBEDDING, t, TOKENS),
    ),
    "attack_objective, targets": (
        "targets",
        lambda t: unlearning.attacks.attack_objective(Partial(of_embeddings), EMBEDDING, TOKENS, t),
    ),
    "gcg": (
        "suffix",
        lambda t: unlearning.attacks.gcg(key(), jnp.sum, EMBEDDING, t[0], top_k=2),
    ),
}


@pytest.mark.parametrize("wrong", [-1, VOCABULARY])
@pytest.mark.parametrize("name", OF_TOKENS)
def test_a_token_beyond_the_vocabulary_is_refused_by_name(name, wrong, unchecked):
    argument, called = OF_TOKENS[name]
    with pytest.raises(ValueError, match=rf"{argument}=int32\[.*accepted is 0 to 29"):
        called(TOKENS.at[0, 1].set(wrong))


class Larger(Letters):
    """A tokenizer whose last tokens the model has no embedding for."""

    def encode(self, text, add_special_tokens=True):
        return [token + 20 for token in super().encode(text)]


@pytest.mark.parametrize(
    "asked",
    [
        dict(verbatim=[Passage("zzz", "abc")]),
        dict(knowledge=[Question("zzz", "abc", "abc", ())]),
        dict(choices=[ChoiceQuestion("zzz", ("a", "b"), 0)]),
    ],
)
def test_a_tokenizer_larger_than_the_embedding_is_refused(asked):
    model = llm.Model(PARAMS, DECODER, Larger())
    with pytest.raises(ValueError, match=r"tokenizer='token [34].': accepted is .* 0 to 29"):
        llm.evaluate(model, **asked)
    with pytest.raises(ValueError, match=r"texts=int32\[.*from 43 to 45: accepted is 0 to 29"):
        llm.score(key(), "loss", model, ["xyz"])


def test_letters_of_choices_have_a_token_of_the_model():
    class Capitals(Letters):
        def encode(self, text, add_special_tokens=True):
            return [90] if text.strip() in ("A", "B") else [1, 2]

    model = llm.Model(PARAMS, DECODER, Capitals())
    with pytest.raises(ValueError, match="tokenizer='token 90'"):
        llm.evaluate(model, choices=[ChoiceQuestion("xyz", ("a", "b"), 0)])


LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, VOCABULARY)), "float32")
COUNTED = jnp.ones(TOKENS.shape, bool)
TRACED = {
    "token_log_prob": lambda t: unlearning.token_log_prob(LOGITS, t)[:, :2].sum(1),
    "sequence_log_prob": lambda t: unlearning.sequence_log_prob(LOGITS, t, COUNTED),
    "el2n": lambda t: coreset.el2n(LOGITS, t, COUNTED),
    "min_k_plus_plus": lambda t: metrics.min_k_plus_plus(LOGITS, t, COUNTED),
    "chunked_log_prob": lambda t: llama.chunked_log_prob(LOGITS[..., :8], PARAMS["head"], t).sum(1),
    "log_prob": lambda t: llama.log_prob(PARAMS, t, DECODER).sum(1),
    "hidden_states": lambda t: llama.hidden_states(PARAMS, t, DECODER).sum((1, 2)),
}


@pytest.mark.parametrize("wrong", [-1, -VOCABULARY, VOCABULARY, 10**6])
@pytest.mark.parametrize("name", TRACED)
def test_where_it_is_traced_it_makes_its_row_nan(name, wrong):
    found = jax.jit(TRACED[name])(TOKENS.at[0, 1].set(wrong))
    np.testing.assert_array_equal(np.isnan(found), [True, False])


def test_a_token_that_does_not_count_may_be_anything():
    mask = COUNTED.at[0, 1].set(False)
    for score in (unlearning.sequence_log_prob, coreset.el2n, metrics.min_k_plus_plus):
        expected = score(LOGITS, TOKENS, mask)
        np.testing.assert_array_equal(score(LOGITS, TOKENS.at[0, 1].set(-100), mask), expected)
        # Its gradient is that of any other token, too.
        slope = jax.grad(lambda x, t: jnp.sum(score(x, t, mask)))  # noqa: B023
        found = slope(LOGITS, TOKENS.at[0, 1].set(-100))
        np.testing.assert_array_equal(found, slope(LOGITS, TOKENS))


OF_LABELS = {
    "classification_loss": lambda y: models.classification_loss(
        Classifier(), CLASSIFIER, jnp.asarray(IMAGES[0]), y
    ),
    "perturb": lambda y: backdoor.attacks.perturb(
        key(), network(WEIGHTS[0]), jnp.asarray(IMAGES[0]), y, iterations=1
    ),
    "attack_success_rate": lambda y: backdoor.attacks.attack_success_rate(
        network(WEIGHTS[0]), jnp.asarray(IMAGES[0]), y
    ),
}


@pytest.mark.parametrize("wrong", [-1, 3])
@pytest.mark.parametrize("name", OF_LABELS)
def test_a_label_that_is_no_class_is_refused_by_name(name, wrong, unchecked):
    with pytest.raises(ValueError, match=r"labels=int32\[6\] with values from .* accepted is 0 to"):
        OF_LABELS[name](LABELS.at[1].set(wrong))


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_traced_label_that_is_no_class_gives_nan(wrong):
    labels = LABELS.at[1].set(wrong)
    loss, terms = jax.jit(OF_LABELS["classification_loss"])(labels)
    assert np.isnan(loss) and np.isnan(terms["accuracy"])
    images = np.asarray(jax.jit(OF_LABELS["perturb"])(labels))
    np.testing.assert_array_equal(
        np.isnan(images).all((1, 2, 3)), [False, True, False, False, False, False]
    )


def test_a_target_and_an_answer_are_classes(unchecked):
    rate = functools.partial(backdoor.attacks.attack_success_rate, network(WEIGHTS[0]))
    with pytest.raises(ValueError, match="target=3: accepted is 0 to 2"):
        rate(jnp.asarray(IMAGES[0]), LABELS, target=3)
    answers = jnp.asarray([0, 4])
    with pytest.raises(ValueError, match=r"answer=.* with values from 0 to 4: accepted is 0 to 3"):
        metrics.multiple_choice_accuracy(jnp.zeros((2, 4)), answers)


def test_float16_has_no_epsilon_for_adamw():
    refused = r"params.*=float16\[.*accepted is bfloat16, float32 or float64"
    for name in ("unlearning.unlearn", "unlearning.attacks.relearn"):
        function, (keys, table) = HOSTILE_CALLS[name]
        with pytest.raises(ValueError, match=refused):
            function(keys[0], jnp.asarray(table[0], "float16"))
    half = jax.tree.map(lambda leaf: leaf.astype("float16"), PARAMS)
    with pytest.raises(ValueError, match=refused):
        llm.unlearn(key(), llm.Model(half, DECODER, None), TOKENS, TOKENS, config=UNLEARN)
    fit = unlearning.connectivity.bezier_fit
    with pytest.raises(ValueError, match=refused):
        fit(key(), lambda params, key: jnp.sum(params), *(jnp.ones(2, "float16"),) * 2)
