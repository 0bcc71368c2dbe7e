"""Relearning: how soon training on some of what was forgotten brings it back."""

import dataclasses
import functools

import jax
import optax
from jaxtyping import Array, Float, Key, PyTree

from jaxml import checks
from jaxml.unlearning._log_prob import token_log_prob
from jaxml.unlearning._optimise import minimise, optimizer_or_adamw
from jaxml.unlearning._problem import OfTokens
from jaxml.unlearning._sequences import Texts, check_texts, check_vocabulary, draw_rows, sequences
from jaxml.unlearning._token_objectives import mean_nll


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Relearned:
    """Result of relearning.

    Attributes:
      params: of the model, all of them.
      history: loss of the batch at every step, `[step]`, in nats a token.
    """

    params: PyTree
    history: Float[Array, "*set step"]


def relearn(
    key: Key[Array, ""],
    apply: OfTokens,
    params: PyTree,
    texts: Texts,
    *,
    steps: int = 100,
    batch_size: int = 4,
    learning_rate: float = 1e-5,
    optimizer: optax.GradientTransformation | None = None,
) -> Relearned:
    """Return parameters that were trained again on some of what they had been made to forget.

    Each step draws `batch_size` different texts, or all if there are fewer, and lowers the mean
    of minus the log-probability over their tokens. All steps are one compiled scan.

    Args:
      key: of the batches; consumed.
      apply: function of parameters and tokens `[row, time]`, to logits of the next tokens
        `[row, time, vocabulary]`. Keep the object, as a compiled loop is known by it.
      params: pytree of what is trained.
      texts: those the attacker has, such as 20 rows of the forget set; `Sequences`, or plain
        tokens `[row, time]`, all of which count.
      steps: of the optimizer.
      batch_size: texts in a step.
      learning_rate: of AdamW, constant; the default is for large models, small ones need 1e-3.
      optimizer: instead of AdamW without decay; keep the object, as `apply`.

    Returns:
      Parameters and the loss of each step.

    Raises:
      ValueError: a number out of range, no text, tokens beyond the vocabulary of the logits, or a
        mask of another shape.

    Source: Fan et al., "Towards LLM unlearning resilient to relearning attacks" (ICML 2025).
    """
    checks.counts(steps=steps, batch_size=batch_size)
    checks.positive(learning_rate=learning_rate)
    texts = sequences(texts)
    check_texts("texts", texts)
    check_vocabulary(apply, params, texts=texts)
    return _relearn(
        key,
        params,
        texts,
        apply=apply,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer_or_adamw(optimizer, learning_rate, params=params),
    )


@functools.partial(jax.jit, static_argnames=("apply", "steps", "batch_size", "optimizer"))
def _relearn(key, params, texts, *, apply, steps, batch_size, optimizer) -> Relearned:
    def loss(params, key):
        batch = draw_rows(key, texts, batch_size)
        logp = token_log_prob(apply(params, batch.tokens), batch.tokens)
        return mean_nll(logp, batch.mask[:, 1:]), {}

    params, history = minimise(key, params, loss, steps=steps, optimizer=optimizer)
    return Relearned(params, history["loss"])
