"""A run of unlearning as a problem: what is minimised, over which data, and what is trained.

A loop in memory and one with checkpoints solve it alike.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxml.unlearning._config import UnlearnConfig
from jaxml.unlearning._forget_batch import ForgetBatch
from jaxml.unlearning._methods import method_name, objective_of
from jaxml.unlearning._rmu import rmu, rmu_control
from jaxml.unlearning._sequences import Sequences, draw_rows
from jaxml.unlearning._sharpness import shifted_to_worst
from jaxml.unlearning._token_objectives import kl_retain, mean_nll

# Of parameters and tokens `[row, time]`.
OfTokens = Callable[[PyTree, Array], Array]
# Of what is trained, of data and of the key of a step, to a scalar and terms by name.
StepLoss = Callable[[PyTree, Any, Array], tuple[Array, dict[str, Array]]]
# Of what is trained, of the model before and of texts to forget and to keep, to the hidden states
# `[row, time, width]` of the first, of the second, and of the second in the model before.
States = Callable[[PyTree, PyTree, Sequences, Sequences], tuple[Array, Array, Array]]


class Problem(NamedTuple):
    """What a loop of unlearning solves.

    Attributes:
      loss: of a step, with the terms "forget" and "retain".
      data: of all steps, a pytree of arrays.
      trained: parameters to start from, those alone that are trained.
    """

    loss: StepLoss
    data: PyTree
    trained: PyTree


class Likelihood(NamedTuple):
    """What objectives ask of a language model. Keep the object: losses are known by it.

    Attributes:
      log_prob: of tokens, to the log-probabilities `[row, time - 1]` of all but the first.
      logits: of tokens, to `[row, time, vocabulary]`, for the retain term "kl".
    """

    log_prob: OfTokens
    logits: OfTokens


class ForgetSet(NamedTuple):
    """What is drawn from by rows: the forget set with what belongs to each row."""

    texts: Sequences
    reference_logp: Float[Array, " row"] | None = None
    alternative: Sequences | None = None
    alternative_reference_logp: Float[Array, " row"] | None = None


def likelihood_problem(
    config: UnlearnConfig,
    model: Likelihood,
    params: PyTree,
    forget: Sequences,
    retain: Sequences,
    alternative: Sequences | None,
    *,
    before: Callable[[Sequences], Array],
) -> Problem:
    """Return the problem of an objective on log-probabilities.

    Args:
      config: its method is not "rmu".
      model: functions of parameters.
      params: of the model before, all of which are trained.
      forget: what to forget.
      retain: what to keep.
      alternative: for objectives that need it.
      before: function of texts to their log-probabilities under the model before, `[row]`.
    """
    needs = objective_of(config.method).needs
    reference, alternative_reference = None, None
    if "reference" in needs:
        reference = before(forget)
        alternative_reference = None if alternative is None else before(alternative)
    rows = ForgetSet(forget, reference, alternative, alternative_reference)
    data = {"forget": _under_name(rows, config), "retain": retain}
    if config.retain == "kl":
        data["frozen"] = params
    return Problem(_likelihood_loss(_of_a_step(config), model), data, params)


def rmu_problem(
    key: Key[Array, ""],
    config: UnlearnConfig,
    states: States,
    trained: PyTree,
    frozen: PyTree,
    forget: Sequences,
    retain: Sequences,
    *,
    width: int,
    dtype: jax.typing.DTypeLike,
) -> Problem:
    """Return the problem of RMU.

    Args:
      key: of the direction; consumed.
      config: its method is "rmu".
      states: hidden states; keep the object, as the loss is known by it.
      trained: parameters to start from.
      frozen: parameters of the model before, all of them.
      forget: what to forget.
      retain: what to keep.
      width: components of a hidden state.
      dtype: of the direction.
    """
    control = rmu_control(key, width, scale=config.scale, dtype=dtype)
    data = {
        "forget": _under_name(ForgetSet(forget), config),
        "retain": retain,
        "frozen": frozen,
        "control": control,
    }
    return Problem(_rmu_loss(_of_a_step(config), states), data, trained)


def _of_a_step(config: UnlearnConfig) -> UnlearnConfig:
    """Return a configuration that is the same for any number of steps: so is the loss."""
    return dataclasses.replace(config, steps=1)


def _under_name(rows: ForgetSet, config: UnlearnConfig) -> dict[str, ForgetSet]:
    """Return the forget set under the name of the method, which checkpoints are known by.

    `jaxml.training.fit` goes on from those alone whose data had the same names and shapes.
    """
    return {method_name(config.method): rows}


# Losses are kept, as `jaxml.training.fit` knows a compiled step by the object.
@functools.lru_cache(maxsize=32)
def _likelihood_loss(config: UnlearnConfig, model: Likelihood) -> StepLoss:
    objective = objective_of(config.method)
    beta = objective.beta if config.beta is None else config.beta

    def forget_term(params, rows: ForgetSet):
        texts, other = rows.texts, rows.alternative
        batch = ForgetBatch(
            texts=texts,
            token_logp=model.log_prob(params, texts.tokens),
            reference_logp=rows.reference_logp,
            alternative=other,
            alternative_token_logp=None if other is None else model.log_prob(params, other.tokens),
            alternative_reference_logp=rows.alternative_reference_logp,
        )
        return objective.loss(batch, beta)

    def retain_term(params, frozen, texts: Sequences):
        if config.retain == "nll":
            return mean_nll(model.log_prob(params, texts.tokens), texts.mask[:, 1:])
        before = jax.lax.stop_gradient(model.logits(frozen, texts.tokens))
        return kl_retain(model.logits(params, texts.tokens), before, mask=texts.mask)

    def loss(params, data, key):
        rows, retain = _draw(key, data, config.batch_size)
        forget_loss = functools.partial(forget_term, rows=rows)
        place = shifted_to_worst(forget_loss, params, config.rho) if config.rho else params
        first = forget_loss(place)
        if config.retain == "none":
            second = jnp.zeros_like(first)
        else:
            second = retain_term(params, data.get("frozen"), retain).astype(first.dtype)
        return first + config.retain_weight * second, {"forget": first, "retain": second}

    return loss


@functools.lru_cache(maxsize=32)
def _rmu_loss(config: UnlearnConfig, states: States) -> StepLoss:
    def loss(trained, data, key):
        rows, retain = _draw(key, data, config.batch_size)
        steered, kept, before = states(trained, data["frozen"], rows.texts, retain)
        weighted = functools.partial(
            rmu,
            steered,
            data["control"],
            kept,
            jax.lax.stop_gradient(before),
            forget_mask=rows.texts.mask,
            retain_mask=retain.mask,
        )
        forgotten, total = weighted(alpha=0.0), weighted(alpha=config.alpha)
        return total, {"forget": forgotten, "retain": total - forgotten}

    return loss


def _draw(key: Array, data: dict[str, Any], batch_size: int) -> tuple[ForgetSet, Sequences]:
    """Draw different rows of both sets, independently; all of a set that has fewer."""
    key_forget, key_retain = jax.random.split(key)
    (rows,) = data["forget"].values()
    return draw_rows(key_forget, rows, batch_size), draw_rows(
        key_retain, data["retain"], batch_size
    )
