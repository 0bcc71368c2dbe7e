"""Unlearning in any language model, in memory: all steps of it are one compiled loop."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Key, PyTree

from jaxml.unlearning._config import UnlearnConfig, check_unlearning
from jaxml.unlearning._counted import row_sums
from jaxml.unlearning._log_prob import token_log_prob
from jaxml.unlearning._optimise import minimise, optimizer_or_adamw
from jaxml.unlearning._problem import (
    Likelihood,
    OfTokens,
    Problem,
    States,
    likelihood_problem,
    rmu_problem,
)
from jaxml.unlearning._sequences import Sequences, Texts, check_vocabulary, sequences


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unlearned:
    """Result of unlearning.

    Attributes:
      params: of the model, all of them.
      history: "loss", "forget" and "retain" at every step, `[step]`.
    """

    params: PyTree
    history: dict[str, Any]


def unlearn(
    key: Key[Array, ""],
    apply: OfTokens,
    params: PyTree,
    forget: Texts,
    retain: Texts,
    *,
    config: UnlearnConfig = UnlearnConfig(),  # noqa: B008
    alternative: Texts | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Unlearned:
    """Return parameters that were made to forget some texts and to keep others.

    Each step draws `batch_size` different sequences of both sets, independently; where a set has
    fewer, all of it. Steps are counted, not epochs, so that forget sets of any size get as many;
    a coreset is `forget[rows]`. Log-probabilities under the model before are computed once. All
    steps are one compiled scan, which `jax.vmap` runs for several keys, models or forget sets at
    once.

    Args:
      key: of the batches, and of RMU's direction; consumed.
      apply: function of parameters and tokens `[row, time]`, to logits of the next tokens
        `[row, time, vocabulary]`, or for "rmu" to the hidden states `[row, time, width]` that
        are steered. Keep the object, as a compiled loop is known by it.
      params: pytree of what is trained.
      forget: what to forget, `Sequences` or plain tokens `[row, time]`, all of which count.
      retain: what to keep, of any length of its own.
      config: what is minimised and for how long.
      alternative: for methods that need it, such as "dpo" and "idk": an answer such as "I don't
        know" to each row of `forget`.
      optimizer: instead of AdamW without decay; keep the object, as `apply`.

    Returns:
      Parameters and the loss of each step.

    Raises:
      ValueError: unknown method or retain term, a number out of range, tokens beyond the
        vocabulary of the logits, sets without a row or masks of another shape, or `alternative`
        missing or not wanted.
    """
    forget, retain = sequences(forget), sequences(retain)
    alternative = None if alternative is None else sequences(alternative)
    check_unlearning(config, forget, retain, alternative)
    if config.method != "rmu":
        check_vocabulary(apply, params, forget=forget, retain=retain, alternative=alternative)
    return _unlearn(
        key,
        params,
        forget,
        retain,
        alternative,
        apply=apply,
        config=config,
        optimizer=optimizer_or_adamw(optimizer, config.learning_rate, params=params),
    )


@functools.partial(jax.jit, static_argnames=("apply", "config", "optimizer"))
def _unlearn(key, params, forget, retain, alternative, *, apply, config, optimizer) -> Unlearned:
    key_control, key_steps = jax.random.split(key)
    if config.method == "rmu":
        problem = _rmu_problem(key_control, config, apply, params, forget, retain)
    else:
        model = _likelihood(apply)
        problem = likelihood_problem(
            config,
            model,
            params,
            forget,
            retain,
            alternative,
            before=functools.partial(_log_probs, model, params, batch_size=config.batch_size),
        )
    params, history = minimise(
        key_steps,
        problem.trained,
        lambda params, key: problem.loss(params, problem.data, key),
        steps=config.steps,
        optimizer=optimizer,
    )
    return Unlearned(params, history)


def _rmu_problem(key, config, hidden: OfTokens, params, forget, retain) -> Problem:
    width = jax.eval_shape(hidden, params, forget.tokens).shape[-1]
    dtype = jnp.result_type(*jax.tree.leaves(params))
    states = _states(hidden)
    return rmu_problem(
        key, config, states, params, params, forget, retain, width=width, dtype=dtype
    )


# Kept, as losses are known by these.
@functools.lru_cache(maxsize=32)
def _likelihood(apply: OfTokens) -> Likelihood:
    return Likelihood(
        log_prob=lambda params, tokens: token_log_prob(apply(params, tokens), tokens),
        logits=apply,
    )


@functools.lru_cache(maxsize=32)
def _states(hidden: OfTokens) -> States:
    def states(params, frozen, forget: Sequences, retain: Sequences):
        kept = hidden(params, retain.tokens)
        return hidden(params, forget.tokens), kept, hidden(frozen, retain.tokens)

    return states


def _log_probs(model: Likelihood, params, texts: Sequences, *, batch_size: int) -> Array:
    """Log-probability of each sequence, `[row]`: in batches, as logits of a set are too many."""

    def one(row):
        tokens, mask = (array[None] for array in row)
        return row_sums(model.log_prob(params, tokens), mask[:, 1:])[0]

    return lax.map(one, (texts.tokens, texts.mask), batch_size=batch_size)
