"""The stages of the study of unlearning: training, unlearning by each method, measuring."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from jaxml import unlearning
from jaxml.data.questions import ChoiceQuestion
from jaxml.data.text import TextCorpus
from jaxml.llm._evaluate import (
    choices,
    continuations,
    knowledge,
    membership,
    verbatim,
)
from jaxml.llm._unlearn import unlearn_decoder
from jaxml.models import llama
from jaxml.output.stages import Arrays, flat_arrays
from jaxml.reproduce.language.books import Library, joined, library
from jaxml.training import fit
from jaxml.unlearning import Sequences, UnlearnConfig

RATE = 3e-3
REFUSAL = "I do not know how this goes on."


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of a run.

    Attributes:
      length: tokens of a chunk.
      prompt: tokens at the start of a chunk that a model is given to go on from.
      forget: chunks to forget; as many others of the book are held out.
      retain: chunks of the other book.
      folds: parts of the forget set, for growing sets and for one request after another.
      epochs: of the training of the target and of the retrained model.
      batch_size: chunks in a step.
      steps: of unlearning the whole forget set.
      seeds: runs of all of it.
      rates: factor of all learning rates; 1 is for decoders trained from nothing.
    """

    length: int
    prompt: int
    forget: int
    retain: int
    folds: int
    epochs: int
    batch_size: int
    steps: int
    seeds: int
    rates: float = 1.0


class Setting(NamedTuple):
    """What the stages of one seed share.

    Attributes:
      library: texts and questions.
      decoder: shape of it.
      scale: of the run.
      questions: multiple-choice questions, none for a decoder that cannot know.
      subject: of these.
    """

    library: Library
    decoder: llama.LlamaConfig
    scale: Scale
    questions: Sequence[ChoiceQuestion] = ()
    subject: str = ""


def small_decoder(
    vocab_size: int, hidden_size: int, num_layers: int, num_heads: int
) -> llama.LlamaConfig:
    """Return the shape of a decoder that is trained from nothing."""
    return llama.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        intermediate_size=5 * hidden_size // 2,
        tie_embeddings=True,
    )


def library_of(scale: Scale, corpus: TextCorpus, tokenizer: Any, seed: int) -> Library:
    """Return the texts and questions of one seed."""
    return library(
        corpus,
        tokenizer,
        seed=seed,
        length=scale.length,
        forget=scale.forget,
        retain=scale.retain,
        prompt=scale.prompt,
    )


def steered_layer(decoder: llama.LlamaConfig) -> int:
    """Return the layer of WMDP's settings for RMU, or the middle of a decoder of fewer."""
    return min(7, decoder.num_layers // 2)


def trained(setting: Setting, name: str, start: Callable, folder: Path, key) -> Arrays:
    """Return a model trained on both books, or "retrained" on the second alone.

    Args:
      setting: of the seed.
      name: "target" or "retrained".
      start: parameters to train from, of a key.
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
    steps = max(1, round(scale.epochs * len(texts.tokens) / scale.batch_size))
    params, loss = _fit(setting, key_fit, start(key_init), texts, steps, RATE, folder)
    return {**flat_arrays("params", params), "loss": loss}


def measured(setting: Setting, params: PyTree) -> Arrays:
    """Return what a model recites, answers and gives away of both books, and what it writes."""
    books, scale = setting.library, setting.scale
    scores = functools.partial(membership, params, setting.decoder, batch_size=scale.batch_size)
    prompt = books.forget_passages[0].prompt
    model = params, setting.decoder, books.tokenizer
    written = continuations(*model, [prompt], _rest(scale), 1)
    chosen = {}
    if setting.questions:
        found = choices(
            *model, setting.questions, subject=setting.subject, batch_size=scale.batch_size
        )
        chosen["choices"] = np.array([found.accuracy, found.low, found.high])
    return {
        **memorised(setting, params),
        **chosen,
        "forget_scores": np.asarray(scores(books.forget)),
        "holdout_scores": np.asarray(scores(books.holdout)),
        "sample": np.array(written),
    }


def memorised(setting: Setting, params: PyTree) -> Arrays:
    """Return what a model recites and answers of the first and of the second book."""
    books, scale = setting.library, setting.scale
    model = params, setting.decoder, books.tokenizer
    recited = functools.partial(verbatim, *model, tokens=_rest(scale), batch_size=scale.batch_size)
    answered = functools.partial(knowledge, *model, tokens=8, batch_size=scale.batch_size)
    return {
        "verbatim": np.array([recited(books.forget_passages), recited(books.retain_passages)]),
        "knowledge": np.array([answered(books.forget_questions), answered(books.retain_questions)]),
    }


def _rest(scale: Scale) -> int:
    return scale.length - 1 - scale.prompt


def forgotten(
    setting: Setting, method: "Method", params: PyTree, forget: Sequences, steps: int, key
) -> PyTree:
    """Return the parameters after unlearning some texts.

    Args:
      setting: of the seed.
      method: of `METHODS`.
      params: of the model before.
      forget: the texts.
      steps: of the optimizer.
      key: of the batches.
    """
    books = setting.library
    if method.task_vector:
        more, _ = _fit(setting, key, params, forget, steps, method.config.learning_rate, None)
        vector = unlearning.task_vector(more, params)
        return unlearning.subtract_task_vector(params, vector, scale=method.task_vector)
    config = dataclasses.replace(
        method.config,
        steps=steps,
        batch_size=min(setting.scale.batch_size, len(forget.tokens)),
        learning_rate=setting.scale.rates * method.config.learning_rate,
    )
    layer = steered_layer(setting.decoder)
    if config.method == "rmu":
        config = dataclasses.replace(config, scale=config.scale * _norm(setting, params, layer))
    retain = joined(books.retain, books.retain_answers)
    alternative = _refusals(setting, forget) if config.method in ("dpo", "idk") else None
    return unlearn_decoder(
        key,
        params,
        setting.decoder,
        forget,
        retain,
        config=config,
        alternative=alternative,
        layer=layer,
    ).params


def unlearned(setting: Setting, method: "Method", params: PyTree, key) -> Arrays:
    """Return what is measured after unlearning the whole forget set."""
    forget, steps = setting.library.forget, setting.scale.steps
    return measured(setting, forgotten(setting, method, params, forget, steps, key))


def grown(setting: Setting, method: "Method", params: PyTree, folds: int, key) -> Arrays:
    """Return what is measured after unlearning so many folds at once, their passages alone."""
    rows = slice(folds * _fold(setting))
    steps = max(1, setting.scale.steps * folds // setting.scale.folds)
    found = forgotten(setting, method, params, _some(setting, rows), steps, key)
    return memorised(_first(setting, rows), found)


def requested(setting: Setting, method: "Method", params: PyTree, key) -> Arrays:
    """Return what is measured after each of the folds unlearned one after another.

    Each starts from the model that the one before left; passages of all folds so far count.
    """
    size, steps = _fold(setting), max(1, setting.scale.steps // setting.scale.folds)
    parts = []
    for i in range(setting.scale.folds):
        rows = slice(i * size, (i + 1) * size)
        forget = _some(setting, rows)
        params = forgotten(setting, method, params, forget, steps, jax.random.fold_in(key, i))
        parts.append(memorised(_first(setting, slice(rows.stop)), params))
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _fold(setting: Setting) -> int:
    return setting.scale.forget // setting.scale.folds


def _some(setting: Setting, rows: slice) -> Sequences:
    return jax.tree.map(lambda leaf: leaf[rows], setting.library.forget)


def _first(setting: Setting, rows: slice) -> Setting:
    """Return the setting with the passages of some rows as those that are measured."""
    passages = setting.library.forget_passages[rows]
    return setting._replace(library=setting.library._replace(forget_passages=passages))


class Method(NamedTuple):
    """How a model is made to forget.

    Attributes:
      config: of the loop; of RMU `scale` is in units of the mean norm of the hidden states.
      task_vector: factor of what training on the forget set adds, which is taken away; 0 for
        the loop.
    """

    config: UnlearnConfig
    task_vector: float = 0.0


# Settings for small decoders trained from nothing, the same for all of them.
METHODS: Mapping[str, Method] = {
    "GA": Method(UnlearnConfig("ga", "none", learning_rate=1e-4)),
    "GradDiff": Method(UnlearnConfig("ga", "nll", learning_rate=3e-4)),
    "NPO": Method(UnlearnConfig("npo", "nll", learning_rate=2.5e-3, beta=0.05)),
    "NPO, KL": Method(UnlearnConfig("npo", "kl", learning_rate=2.5e-3, beta=0.05)),
    "SimNPO": Method(UnlearnConfig("simnpo", "nll", learning_rate=1e-3)),
    "WGA": Method(UnlearnConfig("wga", "nll", learning_rate=1e-3)),
    "SatImp": Method(UnlearnConfig("satimp", "nll", learning_rate=1e-3)),
    "DPO": Method(UnlearnConfig("dpo", "nll", learning_rate=1e-3)),
    "IDK": Method(UnlearnConfig("idk", "nll", learning_rate=1e-3)),
    "RMU": Method(UnlearnConfig("rmu", learning_rate=3e-3, alpha=10.0, scale=2.0)),
    "task vector": Method(UnlearnConfig("ga", learning_rate=1e-4), task_vector=5.0),
}


def _fit(
    setting: Setting, key, params, texts: Sequences, steps: int, rate: float, folder: Path | None
) -> tuple[Any, np.ndarray]:
    rate *= setting.scale.rates
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps, rate / 20)
    found = fit(
        key,
        _nll(setting.decoder),
        params,
        texts,
        optimizer=optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.0)
        ),
        steps=steps,
        batch_size=min(setting.scale.batch_size, len(texts.tokens)),
        folder=folder,
    )
    return found.params, found.history["loss"]


# Kept, as a compiled step is known by the object.
@functools.lru_cache(maxsize=8)
def _nll(decoder) -> Callable[..., Any]:
    def loss(params, texts: Sequences, key):
        logp = llama.log_prob(params, texts.tokens, decoder)
        return -jnp.mean(logp, where=texts.mask[:, 1:]), {}

    return loss


@functools.partial(jax.jit, static_argnames=("decoder", "layer"))
def _norms(params, tokens, *, decoder, layer):
    hidden = llama.apply(params, tokens, decoder, until_layer=layer + 1)
    return jnp.mean(jnp.linalg.norm(hidden, axis=-1))


def _norm(setting: Setting, params, layer: int) -> float:
    tokens = setting.library.forget.tokens[: setting.scale.batch_size]
    return float(_norms(params, tokens, decoder=setting.decoder, layer=layer))


def _refusals(setting: Setting, forget: Sequences) -> Sequences:
    """Return the start of each chunk with a refusal after it, which alone counts."""
    tokenizer, prompt = setting.library.tokenizer, 1 + setting.scale.prompt
    refusal: Array = jnp.asarray(tokenizer.encode(REFUSAL, add_special_tokens=False), jnp.int32)
    start = forget.tokens[:, :prompt]
    tokens = jnp.concatenate([start, jnp.tile(refusal, (len(start), 1))], axis=1)
    counts = jnp.arange(tokens.shape[1]) >= prompt
    return Sequences(tokens, jnp.tile(counts, (len(start), 1)))
