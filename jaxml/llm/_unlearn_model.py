"""Unlearning of a model of the user's, from texts to a model again."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import optax
from jaxtyping import Array, Key

from jaxml.llm._model import Model
from jaxml.llm._tokens import Texts, as_sequences
from jaxml.llm._unlearn import unlearn_decoder
from jaxml.training import Progress
from jaxml.unlearning import UnlearnConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UnlearnedModel:
    """Result of `unlearn`.

    Attributes:
      model: with the parameters after unlearning, and the configuration and tokenizer of before.
      history: "loss", "forget" and "retain" at every step, `[step]`.
    """

    model: Model
    history: dict[str, Any]


def unlearn(
    key: Key[Array, ""],
    model: Model,
    forget: Texts,
    retain: Texts,
    *,
    config: UnlearnConfig = UnlearnConfig(),  # noqa: B008
    alternative: Texts | None = None,
    length: int = 512,
    layer: int = 7,
    trained: str = "down",
    remat: bool = False,
    optimizer: optax.GradientTransformation | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> UnlearnedModel:
    """Return a language model that was made to forget some texts and to keep others.

    Each step draws `config.batch_size` rows of both sets. Memory holds no logits of a whole batch
    unless `config.retain` is "kl"; RMU runs the layers up to the steered one alone.

    Args:
      key: of the batches, and of RMU's direction; consumed.
      model: as of `load`; not consumed.
      forget: what to forget: `Sequences`, tokens `[row, time]`, or texts or chats as of
        `tokenize`.
      retain: what to keep, as `forget`, of any length of its own.
      config: what is minimised and for how long.
      alternative: for methods that need it, such as "dpo" and "idk": an answer such as "I don't
        know" to each row of `forget`.
      length: most tokens of a row, where texts are to be tokenized.
      layer: RMU steers the output of this layer, from 0.
      trained: RMU trains this matrix of the last three layers up to `layer`.
      remat: run each layer again for its gradient, for less memory.
      optimizer: instead of AdamW without decay; keep the object, as a compiled step is known by
        it.
      folder: of checkpoints; a run that was ended goes on from there.
      progress: as for `jaxml.training.fit`, such as what `jaxml.training.progress_bar` yields.

    Returns:
      The model after unlearning, and the losses of each step.

    Raises:
      ValueError: unknown method or retain term, a number out of range, tokens beyond the
        vocabulary, sets without a row, or `alternative` missing or not wanted; see also
        `tokenize` and `jaxml.training.fit`.
      FloatingPointError: the loss is not finite; the checkpoints before it stay.
    """
    rows = functools.partial(as_sequences, model, length=length)
    unlearned = unlearn_decoder(
        key,
        model.params,
        model.config,
        rows(forget),
        rows(retain),
        config=config,
        alternative=None if alternative is None else rows(alternative),
        layer=layer,
        trained=trained,
        remat=remat,
        optimizer=optimizer,
        folder=folder,
        progress=progress,
    )
    after = dataclasses.replace(model, params=unlearned.params)
    return UnlearnedModel(after, unlearned.history)
