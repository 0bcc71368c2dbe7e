"""Training of a decoder on the books, and what it then recites and answers of them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from jaxml.llm._measures import knowledge, verbatim
from jaxml.models import llama
from jaxml.output.stages import Arrays, flat_arrays
from jaxml.reproduce.language.books import joined
from jaxml.reproduce.language.setting import Setting
from jaxml.training import fit
from jaxml.unlearning import Sequences

RATE = 3e-3
ANSWER_TOKENS = 8


def trained(setting: Setting, name: str, start: Callable, folder: Path, key) -> Arrays:
    """Return a model trained on both books, or "retrained" on the second alone.

    Args:
      setting: of the seed.
      name: "target" or "retrained".
      start: function of a key to the parameters to train from.
      folder: of checkpoints.
      key: of the parameters and batches.
    """
    books = setting.library
    sets = [books.retain, books.retain_answers]
    if name != "retrained":
        sets += [books.forget, books.forget_answers]
    texts = joined(*sets)
    key_init, key_fit = jax.random.split(key)
    scale = setting.scale
    steps = max(1, round(scale.epochs * len(texts) / scale.batch_size))
    params, loss = fit_texts(
        setting, key_fit, start(key_init), texts, steps=steps, rate=RATE, folder=folder
    )
    return {**flat_arrays("params", params), "loss": loss}


def fit_texts(
    setting: Setting,
    key: Array,
    params: PyTree,
    texts: Sequences,
    *,
    steps: int,
    rate: float,
    folder: Path | None = None,
) -> tuple[PyTree, np.ndarray]:
    """Return parameters trained to say texts, and the loss of each step.

    Args:
      setting: of the seed.
      key: of the batches.
      params: to train from.
      texts: to learn.
      steps: of the optimizer.
      rate: learning rate after the warm-up, in units of the scale's `rates`.
      folder: of checkpoints.
    """
    rate *= setting.scale.rates
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps, rate / 20)
    result = fit(
        key,
        _loss(setting.decoder),
        params,
        texts,
        optimizer=optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.0)
        ),
        steps=steps,
        batch_size=min(setting.scale.batch_size, len(texts)),
        folder=folder,
    )
    return result.params, result.history["loss"]


def memorised(setting: Setting, params: PyTree) -> Arrays:
    """Return what a model recites and answers of the first and of the second book.

    Args:
      setting: of the seed.
      params: of the decoder.
    """
    books, scale = setting.library, setting.scale
    model = params, setting.decoder, books.tokenizer
    recited = functools.partial(
        verbatim, *model, tokens=scale.continuation, batch_size=scale.batch_size
    )
    answered = functools.partial(
        knowledge, *model, tokens=ANSWER_TOKENS, batch_size=scale.batch_size
    )
    return {
        "verbatim": np.array([recited(books.forget_passages), recited(books.retain_passages)]),
        "knowledge": np.array([answered(books.forget_questions), answered(books.retain_questions)]),
    }


def mean_loss(params: PyTree, texts: Sequences, decoder: llama.LlamaConfig) -> Array:
    """Return the mean loss of the tokens that count, in nats.

    Args:
      params: of the decoder.
      texts: rows of tokens.
      decoder: shape of the network.
    """
    logp = llama.log_prob(params, texts.tokens, decoder)
    return -jnp.mean(logp, where=texts.mask[:, 1:])


# Kept, as a compiled step is known by the object.
@functools.lru_cache(maxsize=8)
def _loss(decoder: llama.LlamaConfig) -> Callable[..., Any]:
    def loss(params, texts: Sequences, key):
        return mean_loss(params, texts, decoder), {}

    return loss
