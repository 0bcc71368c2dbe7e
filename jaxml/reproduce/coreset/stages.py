"""The stages of the study of coresets: choosing, unlearning, keywords, paths and attacks."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, PyTree

from jaxml.llm._measures import token_mean, verbatim
from jaxml.llm._score import chunk_scores, chunk_texts
from jaxml.llm._tokens import encode, padded
from jaxml.models import llama
from jaxml.models.llama.decoder import rms_norm
from jaxml.output.stages import Arrays, flat_arrays
from jaxml.reproduce.coreset.grid import Grid
from jaxml.reproduce.language.methods import METHODS, forgotten
from jaxml.reproduce.language.setting import Setting, steered_layer
from jaxml.reproduce.language.training import mean_loss, memorised
from jaxml.unlearning import Sequences, attacks, connectivity, coreset, keywords


def scored(setting: Setting, target: PyTree, grid: Grid, hits: np.ndarray, key) -> Arrays:
    """Return every score of every chunk of the forget set, `[chunk]` each."""
    scores = {}
    for name in grid.scores:
        key, key_score = jax.random.split(key)
        chunks = chunk_scores(
            key_score, name, target, setting.decoder, setting.library.forget, hits=hits
        )
        scores[name] = np.asarray(chunks)
    return scores


def chosen(setting: Setting, scores: np.ndarray, fraction: float) -> Sequences:
    """Return the chunks that a score picks, repeated to as many as all.

    So batches are as large as those of the whole set, and one compiled program serves all.
    """
    forget = setting.library.forget
    rows = coreset.select(jnp.asarray(scores), fraction)
    repeated = jnp.resize(rows, (len(forget),))
    return forget[repeated]


@dataclasses.dataclass(frozen=True)
class Unlearning:
    """A run: some chunks unlearned by an objective.

    Attributes:
      name: of the run.
      objective: one of `METHODS`.
      forget: the chunks.
      steps: of the optimizer.
      keep: whether the parameters are kept, for paths and attacks.
    """

    name: str
    objective: str
    forget: Sequences
    steps: int
    keep: bool = False


def unlearned(setting: Setting, plan: Unlearning, target: PyTree, key) -> Arrays:
    """Return what is measured after a run, and its parameters if they are to be kept."""
    params = forgotten(setting, METHODS[plan.objective], target, plan.forget, plan.steps, key)
    return {**measured(setting, params), **(flat_arrays("params", params) if plan.keep else {})}


def measured(setting: Setting, params: PyTree) -> Arrays:
    """Return what a model recites and answers of both books, and its loss on them, in nats."""
    books = setting.library
    nll = [
        -token_mean(params, setting.decoder, texts, batch_size=setting.scale.batch_size)
        for texts in (books.forget, books.retain)
    ]
    return {**memorised(setting, params), "nll": np.array(nll)}


def keyword_list(setting: Setting, words: int) -> tuple[str, ...]:
    """Return the keywords of the forget set against the retain set, best first."""
    books = setting.library
    texts = (chunk_texts(books.tokenizer, part) for part in (books.forget, books.retain))
    return keywords.extract(*texts, count=words)


def keyword_sets(
    setting: Setting, words: Sequence[str], hits: np.ndarray, key
) -> dict[str, Sequences]:
    """Return the forget set with a loss on some of its tokens, and its keywords as texts."""
    books = setting.library
    alone = keywords.keyword_texts(chunk_texts(books.tokenizer, books.forget), words)
    return {
        "keywords in their text": keywords.keyword_mask(books.forget, hits),
        "all but keywords": keywords.complement_mask(books.forget, hits),
        "as many random tokens": keywords.random_mask(key, books.forget, hits),
        "keywords alone as texts": _as_chunks(books.tokenizer, alone, books.forget),
    }


def path(setting: Setting, params_a: PyTree, params_b: PyTree, points: int) -> Arrays:
    """Return the loss on both books along the line between two models, in nats a token."""
    books = setting.library
    losses = Partial(_losses(setting.decoder), books.forget, books.retain)
    line = connectivity.linear_path(losses, params_a, params_b, points=points)
    return {"points": np.asarray(line.points), "nll": np.asarray(line.values)}


def attacked(setting: Setting, grid: Grid, name: str, target: PyTree, model: PyTree, key) -> Arrays:
    """Return what each attack brings out of a model: VerbMem of chunks the attacker lacks.

    "found tokens in front" is the loss on continuations, in nats a token, without and with them.
    """
    books, decoder = setting.library, setting.decoder
    key_learn, key_front = jax.random.split(key)
    known = books.forget[: grid.relearnt]
    relearned = attacks.relearn(
        key_learn,
        _logits(decoder),
        model,
        known,
        steps=grid.attack_steps,
        batch_size=setting.scale.batch_size,
        learning_rate=1e-3 * setting.scale.rates,
    ).params
    recited = functools.partial(_recited, setting, first=grid.relearnt)
    shown = books.forget_passages[0]
    example = f"{shown.prompt}{shown.continuation}\n"
    return {
        "nothing": recited(model),
        "solved example in front": recited(model, front=example),
        "4-bit weights": recited(attacks.quantize(model, bits=4)),
        "relearning": recited(relearned),
        "found tokens in front": _in_front(setting, grid, name == "RMU", target, model, key_front),
    }


def _recited(setting: Setting, params: PyTree, *, first: int, front: str = "") -> np.ndarray:
    books, scale = setting.library, setting.scale
    passages = [
        dataclasses.replace(passage, prompt=front + passage.prompt)
        for passage in books.forget_passages[first:]
    ]
    recited = verbatim(
        params,
        setting.decoder,
        books.tokenizer,
        passages,
        tokens=scale.continuation,
        batch_size=scale.batch_size,
    )
    return np.array(recited)


def _in_front(setting: Setting, grid: Grid, matched: bool, target, model, key) -> np.ndarray:
    """Search tokens in front of several prompts; of RMU also such as restore hidden states.

    Recitation goes on from the last words of a prompt, so that none may come behind them.
    """
    books, decoder, scale = setting.library, setting.decoder, setting.scale
    tokens = books.forget.tokens[: grid.relearnt]
    first, prompt, answer = jnp.split(tokens[:, : 17 + scale.prompt], [1, 1 + scale.prompt], axis=1)
    layer = steered_layer(decoder)
    apply = Partial(_from_embeddings(decoder, layer + 1), model)
    texts = [Sequences(part, jnp.ones(part.shape, bool)) for part in (first, answer, prompt)]
    build = functools.partial(
        attacks.attack_objective, apply, model["embed"], *texts[:2], behind=texts[2]
    )
    loss = build()
    objective = loss
    if matched:
        reference = Partial(_hidden(decoder, layer + 1), target)
        size = jnp.mean(jnp.sum(jnp.square(reference(target["embed"][prompt], None)), axis=-1))
        objective = build(reference=reference, weight=1 / size)
    the = books.tokenizer.encode(" the", add_special_tokens=False)[0]
    search = attacks.gcg(
        key,
        objective,
        model["embed"],
        jnp.full(grid.suffix, the, jnp.int32),
        steps=grid.attack_steps,
        candidates=grid.candidates,
        top_k=min(64, decoder.vocab_size),
    )
    before = loss(model["embed"][jnp.zeros(0, jnp.int32)])
    return np.array([before, loss(model["embed"][search.suffix])])


def _as_chunks(tokenizer, texts: Sequence[str], like: Sequences) -> Sequences:
    """Return texts as rows of the shape of others, repeated to as many; empty ones are left out."""
    rows, length = like.tokens.shape
    encoded = [encode(tokenizer, text, start=True)[:length] for text in texts if text]
    tokens, mask = padded(encoded, length)
    repeated = np.resize(np.arange(len(encoded)), rows)
    return Sequences(jnp.asarray(tokens[repeated]), jnp.asarray(mask[repeated]))


# Kept, as compiled programs are known by the object.
@functools.lru_cache(maxsize=8)
def _losses(decoder) -> Callable[..., Array]:
    def losses(forget: Sequences, retain: Sequences, params) -> Array:
        return jnp.stack([mean_loss(params, texts, decoder) for texts in (forget, retain)])

    return losses


@functools.lru_cache(maxsize=8)
def _logits(decoder) -> Callable[..., Array]:
    return lambda params, tokens: llama.apply(params, tokens, decoder)


@functools.lru_cache(maxsize=8)
def _hidden(decoder, layers: int) -> Callable[..., Array]:
    def hidden(params, embedded, mask):
        first = llama.select_layers(params["layers"], 0, layers)
        return llama.run_layers(first, embedded, decoder, mask=mask)

    return hidden


@functools.lru_cache(maxsize=8)
def _from_embeddings(decoder, layers: int) -> Callable[..., tuple[Array, Array]]:
    first = _hidden(decoder, layers)

    def apply(params, embedded, mask):
        hidden = first(params, embedded, mask)
        last = llama.select_layers(params["layers"], layers, decoder.num_layers)
        final = llama.run_layers(last, hidden, decoder, mask=mask)
        return rms_norm(final, params["norm"], decoder) @ llama.head(params), hidden

    return apply
