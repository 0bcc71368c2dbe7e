"""The loop of unlearning for any language model: one for all objectives, over two sets of texts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Key, PyTree

from jaxml.unlearning._log_prob import token_log_prob
from jaxml.unlearning._optimise import adamw, minimise
from jaxml.unlearning._rmu import rmu, rmu_control
from jaxml.unlearning._unlearn_loss import (
    OfTokens,
    Sequences,
    UnlearnConfig,
    check_unlearning,
    draw_batches,
    summed_log_prob,
    unlearning_data,
    unlearning_loss,
)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "history"], meta_fields=[]
)
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
    params: PyTree,
    apply: OfTokens,
    forget: Sequences,
    retain: Sequences,
    *,
    config: UnlearnConfig = UnlearnConfig(),  # noqa: B008
    alternative: Sequences | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Unlearned:
    """Return parameters that were made to forget some texts and to keep others.

    Each step draws `batch_size` different sequences of both sets, independently; where a set has
    fewer, all of it. Steps are counted, not epochs, so that forget sets of any size get as many;
    a coreset is `jax.tree.map(lambda leaf: leaf[rows], forget)`. Log-probabilities under the
    model before are computed once. All steps are one compiled scan, which `jax.vmap` runs for
    several keys, models or forget sets at once.

    Args:
      key: of the batches, and of RMU's direction; consumed.
      params: pytree of what is trained.
      apply: function of parameters and tokens `[row, time]`, to logits of the next tokens
        `[row, time, vocabulary]`, or for "rmu" to the hidden states `[row, time, width]` that
        are steered. Keep the object, as a compiled loop is known by it.
      forget: what to forget.
      retain: what to keep, of any length of its own.
      config: what is minimised and for how long.
      alternative: for "dpo" and "idk": an answer such as "I don't know" to each row of `forget`.
      optimizer: instead of AdamW without decay; keep the object, as `apply`.

    Raises:
      ValueError: unknown method or retain term, a number out of range, sets without a row or
        masks of another shape, or `alternative` missing or not wanted.
    """
    check_unlearning(config, forget, retain, alternative)
    return _unlearn(
        key,
        params,
        forget,
        retain,
        alternative,
        apply=apply,
        config=config,
        optimizer=optimizer or adamw(config.learning_rate),
    )


@functools.partial(jax.jit, static_argnames=("apply", "config", "optimizer"))
def _unlearn(key, params, forget, retain, alternative, *, apply, config, optimizer):
    key_control, key_steps = jax.random.split(key)
    if config.method == "rmu":
        loss = functools.partial(_rmu_loss, config=config, hidden=apply)
        width = jax.eval_shape(apply, params, forget.tokens).shape[-1]
        dtype = jnp.result_type(*jax.tree.leaves(params))
        control = rmu_control(key_control, width, scale=config.scale, dtype=dtype)
        data = {"forget": forget, "retain": retain, "frozen": params, "control": control}
    else:
        log_prob = lambda params, tokens: token_log_prob(apply(params, tokens), tokens)
        loss = functools.partial(unlearning_loss, config=config, log_prob=log_prob, logits=apply)
        before = functools.partial(
            _sequence_log_probs, params, log_prob=log_prob, batch_size=config.batch_size
        )
        data = unlearning_data(config, params, forget, retain, alternative, before)
    params, history = minimise(
        key_steps,
        params,
        lambda params, key: loss(params, data, key),
        steps=config.steps,
        optimizer=optimizer,
    )
    return Unlearned(params, history)


def _sequence_log_probs(params, texts: Sequences, *, log_prob, batch_size: int) -> Array:
    """Log-probability of each sequence, `[row]`: in batches, as logits of a set are too many."""

    def one(row):
        texts = Sequences(*(array[None] for array in row))
        return summed_log_prob(log_prob(params, texts.tokens), texts)[0]

    return lax.map(one, (texts.tokens, texts.mask), batch_size=batch_size)


def _rmu_loss(params, data, key, *, config: UnlearnConfig, hidden: OfTokens):
    batch, retain = draw_batches(key, data, config.batch_size)
    forget = batch["forget"]
    steered, kept = hidden(params, forget.tokens), hidden(params, retain.tokens)
    before = lax.stop_gradient(hidden(data["frozen"], retain.tokens))
    return rmu_terms(steered, kept, before, data["control"], forget, retain, config)


def rmu_terms(
    steered: Array,
    kept: Array,
    before: Array,
    control: Array,
    forget: Sequences,
    retain: Sequences,
    config: UnlearnConfig,
) -> tuple[Array, dict[str, Array]]:
    """Return the loss of RMU and its terms "forget" and "retain", of positions that count.

    Args:
      steered: hidden states of the forget set, `[row, time, width]`.
      kept: hidden states of the retain set.
      before: the same under the model before.
      control: as of `rmu_control`.
      forget: what to forget.
      retain: what to keep.
      config: with `alpha`.
    """
    of = functools.partial(
        rmu, steered, control, kept, before, forget_mask=forget.mask, retain_mask=retain.mask
    )
    forgotten, loss = of(alpha=0.0), of(alpha=config.alpha)
    return loss, {"forget": forgotten, "retain": loss - forgotten}
