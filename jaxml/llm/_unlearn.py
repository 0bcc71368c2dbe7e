"""Unlearning of a Llama-type model: RMU at the price of a few layers, checkpoints to go on from."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from jaxml.models import llama
from jaxml.models.llama.likelihood import CHUNK
from jaxml.training import Progress, fit
from jaxml.unlearning import Sequences, UnlearnConfig, Unlearned, rmu_control
from jaxml.unlearning._optimise import adamw
from jaxml.unlearning._unlearn import rmu_terms
from jaxml.unlearning._unlearn_loss import (
    check_unlearning,
    draw_batches,
    summed_log_prob,
    unlearning_data,
    unlearning_loss,
)
from jaxml.unlearning._validate import check_choice

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def unlearn_decoder(
    key: Key[Array, ""],
    params: PyTree,
    decoder: llama.LlamaConfig,
    forget: Sequences,
    retain: Sequences,
    *,
    config: UnlearnConfig = UnlearnConfig(),  # noqa: B008
    alternative: Sequences | None = None,
    layer: int = 7,
    trained: str = "down",
    remat: bool = False,
    chunk: int = CHUNK,
    optimizer: optax.GradientTransformation | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Unlearned:
    """Return a model that was made to forget some texts and to keep others.

    As `jaxml.unlearning.unlearn`, for decoders that are large: no logits of a whole batch in
    memory unless `config.retain` is "kl", and checkpoints. RMU runs the layers up to the steered
    one alone; those below the trained ones run once for both models, without gradient.

    Args:
      key: of the batches, and of RMU's direction; consumed.
      params: of the decoder, as of `jaxml.models.llama.load`; not consumed.
      decoder: its shape.
      forget: what to forget.
      retain: what to keep, of any length of its own.
      config: what is minimised and for how long.
      alternative: for "dpo" and "idk": an answer such as "I don't know" to each row of `forget`.
      layer: RMU steers the output of this layer, from 0.
      trained: RMU trains this matrix of the last three layers up to `layer`.
      remat: see `jaxml.models.llama.apply`.
      chunk: see `jaxml.models.llama.chunked_log_prob`.
      optimizer: instead of AdamW without decay; keep the object, as a compiled step is known by
        it.
      folder: of checkpoints; a run that was ended goes on from there.
      progress: as for `jaxml.training.fit`.

    Raises:
      ValueError: unknown method or retain term, a number out of range, tokens beyond the
        vocabulary, sets without a row or masks of another shape, or `alternative` missing or
        not wanted; see also `jaxml.training.fit`.
      FloatingPointError: the loss is not finite; the checkpoints before it stay.
    """
    check_unlearning(config, forget, retain, alternative, vocabulary=decoder.vocab_size)
    run = functools.partial(
        fit,
        optimizer=optimizer or adamw(config.learning_rate),
        steps=config.steps,
        folder=folder,
        progress=progress,
    )
    # A compiled step is known by the loss, and serves any number of steps.
    config = dataclasses.replace(config, steps=1)
    key_control, key_fit = jax.random.split(key)
    if config.method != "rmu":
        before = lambda texts: sequence_log_probs(params, texts, decoder, chunk=chunk)
        data = unlearning_data(config, params, forget, retain, alternative, before)
        found = run(key_fit, _loss(config, decoder, remat, chunk), params, data)
        return Unlearned(found.params, found.history)
    if not 0 <= layer < decoder.num_layers:
        raise ValueError(f"layer={layer}: accepted is 0 to {decoder.num_layers - 1}")
    check_choice(trained, MATRICES, "trained")
    control = rmu_control(
        key_control, decoder.hidden_size, scale=config.scale, dtype=params["norm"].dtype
    )
    data = {"forget": forget, "retain": retain, "frozen": params, "control": control}
    first, last = max(0, layer - 2), layer + 1
    whole = params["layers"][trained]
    loss = _rmu_loss(config, decoder, trained, first, last, remat)
    found = run(key_fit, loss, whole[first:last], data)
    layers = {**params["layers"], trained: whole.at[first:last].set(found.params)}
    return Unlearned({**params, "layers": layers}, found.history)


def sequence_log_probs(
    params: PyTree,
    sequences: Sequences,
    decoder: llama.LlamaConfig,
    *,
    batch_size: int = 8,
    chunk: int = CHUNK,
) -> Array:
    """Return the log-probability of each sequence, `[row]` in nats: of its tokens that count.

    Args:
      params: of the decoder.
      sequences: of any number.
      decoder: its shape.
      batch_size: rows at a time.
      chunk: see `jaxml.models.llama.chunked_log_prob`.
    """
    one_batch = functools.partial(_summed, params, decoder=decoder, chunk=chunk)
    return in_row_batches(one_batch, sequences, batch_size)


def in_row_batches(
    function: Callable[[Sequences], Array], texts: Sequences, batch_size: int
) -> Array:
    """Return a function of sequences for all rows, `batch_size` of them at a time.

    Args:
      function: to `[row, ...]`; each row has to be its own business.
      texts: of any number of rows above 0.
      batch_size: rows at a time; all calls are of one shape.
    """
    rows = len(texts.tokens)
    batch_size = min(batch_size, rows)
    parts = []
    for start in range(0, rows, batch_size):
        # The last batch starts early enough to be as long as the others.
        first = min(start, rows - batch_size)
        batch = jax.tree.map(lambda leaf: leaf[first : first + batch_size], texts)  # noqa: B023
        parts.append(function(batch)[start - first :])
    return jnp.concatenate(parts)


@functools.partial(jax.jit, static_argnames=("decoder", "chunk"))
def _summed(params, texts: Sequences, decoder, chunk):
    return summed_log_prob(llama.log_prob(params, texts.tokens, decoder, chunk=chunk), texts)


# Kept, as `fit` knows a compiled step by the object of the loss.
@functools.lru_cache(maxsize=32)
def _loss(config: UnlearnConfig, decoder, remat: bool, chunk: int) -> Callable[..., Any]:
    return functools.partial(
        unlearning_loss,
        config=config,
        log_prob=lambda params, tokens: llama.log_prob(
            params, tokens, decoder, remat=remat, chunk=chunk
        ),
        logits=lambda params, tokens: llama.apply(params, tokens, decoder, remat=remat),
    )


@functools.lru_cache(maxsize=32)
def _rmu_loss(
    config: UnlearnConfig, decoder, trained: str, first: int, last: int, remat: bool
) -> Callable[..., Any]:
    run = functools.partial(llama.run_layers, config=decoder)

    def loss(matrices, data, key):
        batch, retain = draw_batches(key, data, config.batch_size)
        forget, frozen = batch["forget"], data["frozen"]
        layers = llama.select_layers(frozen["layers"], first, last)
        below = lambda texts: jax.lax.stop_gradient(
            llama.apply(frozen, texts.tokens, decoder, until_layer=first)
        )
        own, kept_below = {**layers, trained: matrices}, below(retain)
        moved = run(own, below(forget), remat=remat)
        kept = run(own, kept_below, remat=remat)
        before = jax.lax.stop_gradient(run(layers, kept_below))
        return rmu_terms(moved, kept, before, data["control"], forget, retain, config)

    return loss
