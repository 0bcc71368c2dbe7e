"""Scores of chunks under a Llama-type model, in batches, and where keywords stand in them."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Key, PyTree

from jaxml import checks
from jaxml.llm._model import Model
from jaxml.llm._tokens import Texts, as_sequences
from jaxml.models import llama
from jaxml.precision import at_least_single
from jaxml.sharding import map_host_batches
from jaxml.unlearning import Sequences, coreset, keywords
from jaxml.unlearning._sequences import check_texts

Score = Literal[
    "random",
    "el2n",
    "grand",
    "loss",
    "perplexity",
    "min_k",
    "moderate",
    "k_center",
    "keyword_density",
]
SCORES: tuple[Score, ...] = get_args(Score)
# Numbers in the gradients of a batch, 1 GiB in float32; one chunk's are the least.
_GRADIENTS = 2**28


def score(
    key: Key[Array, ""],
    name: Score,
    model: Model,
    texts: Texts,
    *,
    words: Sequence[str] = (),
    length: int = 512,
    batch_size: int = 8,
) -> Float[Array, " chunk"]:
    """Return a score of each chunk of the texts to forget, by the name of the score.

    `jaxml.unlearning.coreset.select` picks a coreset by the scores: of `chunks`, as of
    `tokenize`, it is `chunks[rows]`.

    Args:
      key: of "random" and of the clusters of "moderate"; consumed.
      name: "random", "el2n", "grand" (of the `down` matrices alone), "loss", "perplexity",
        "min_k", "moderate", "k_center" or "keyword_density".
      model: as of `load`.
      texts: `Sequences`, tokens `[row, time]`, or texts or chats as of `tokenize`: a chunk a row.
      words: keywords, such as of `jaxml.unlearning.keywords.extract`; for "keyword_density", and
        looked at only there.
      length: most tokens of a chunk, where texts are to be tokenized.
      batch_size: chunks at a time.

    Returns:
      `[chunk]`: in nats for "loss" and "min_k"; NaN, of "grand" 0, for a chunk of which no token
      counts.

    Raises:
      ValueError: unknown name, chunks that cannot be used or of tokens beyond the vocabulary,
        `batch_size` is not positive, no `words` for "keyword_density", or fewer than 4 chunks for
        "moderate"; see also `tokenize`.
    """
    checks.choice(SCORES, name=name)
    chunks = as_sequences(model, texts, length=length)
    hits = None
    if name == "keyword_density":
        if not words:
            raise checks.refused("words", words, "one keyword or more with name='keyword_density'")
        hits = keyword_hits(model.tokenizer, chunks, words)
    return chunk_scores(
        key, name, model.params, model.config, chunks, hits=hits, batch_size=batch_size
    )


def chunk_scores(
    key: Key[Array, ""],
    name: Score,
    params: PyTree,
    decoder: llama.LlamaConfig,
    texts: Sequences,
    *,
    hits: Bool[np.ndarray, "chunk time"] | None = None,
    batch_size: int = 8,
) -> Float[Array, " chunk"]:
    """Return a score of each chunk under a decoder, by the name of the score.

    The functions of `jaxml.unlearning.coreset` with their defaults, in batches: logits or
    gradients of all chunks are never in memory. "moderate" and "k_center" take the mean over the
    tokens that count of the last hidden states, after the last norm. "grand" is the norm of the
    gradient of the `down` matrices of all layers and no other parameter; at most 1 GiB of
    gradients exists at once, or that of one chunk. `coreset.select` picks by the scores.

    Args:
      key: of "random" and of the clusters of "moderate"; consumed.
      name: "random", "el2n", "grand", "loss", "perplexity", "min_k", "moderate", "k_center" or
        "keyword_density".
      params: of the decoder, as of `jaxml.models.llama.load`.
      decoder: shape of the network.
      texts: one chunk a row, padded at the right.
      hits: `[chunk, time]`, True for a token of a keyword, as of `keyword_hits`; for
        "keyword_density", else not looked at.
      batch_size: chunks at a time.

    Returns:
      `[chunk]`: in nats for "loss" and "min_k"; NaN, of "grand" 0, for a chunk of which no token
      counts.

    Raises:
      ValueError: unknown name, `texts` that cannot be used or of tokens beyond the vocabulary,
        `batch_size` is not positive, `hits` are missing or of another shape, or fewer than 4
        chunks for "moderate".
    """
    checks.choice(SCORES, name=name)
    check_texts("texts", texts, vocabulary=decoder.vocab_size)
    checks.counts(batch_size=batch_size)
    if name == "random":
        return coreset.random(key, len(texts))
    if name == "keyword_density":
        if hits is None:
            raise checks.refused("hits", hits, "[chunk, time] with name='keyword_density'")
        return coreset.keyword_density(hits, texts.mask)
    if name == "grand":
        at_once = max(1, _GRADIENTS // params["layers"]["down"].size)
        is_down = lambda path: path == "layers/down"
        return coreset.grand(
            _logits(decoder), params, texts, leaves=is_down, batch_size=min(batch_size, at_once)
        )
    if name not in ("moderate", "k_center"):
        one_batch = functools.partial(_difficulty, params, name=name, decoder=decoder)
        return map_host_batches(one_batch, texts, batch_size=batch_size)
    one_batch = functools.partial(_features, params, decoder=decoder)
    features = map_host_batches(one_batch, texts, batch_size=batch_size)
    return coreset.moderate(key, features) if name == "moderate" else coreset.k_center(features)


def chunk_texts(tokenizer: Any, texts: Sequences) -> tuple[str, ...]:
    """Return the text of each chunk, without special tokens and padding.

    Args:
      tokenizer: of Hugging Face, or with its `decode`.
      texts: one chunk a row, padded at the right.
    """
    return tuple(_decode(tokenizer, row.tolist()) for row in _unpadded(texts))


def keyword_hits(
    tokenizer: Any, texts: Sequences, words: Sequence[str]
) -> Bool[np.ndarray, "chunk time"]:
    """Return which tokens belong to a keyword, `[chunk, time]`.

    Args:
      tokenizer: as for `chunk_texts`.
      texts: one chunk a row, padded at the right.
      words: keywords, such as `keywords.extract` of `chunk_texts` and of the texts to keep.

    Raises:
      ValueError: no keyword, or one without a letter or digit.
    """
    hits = np.zeros(texts.tokens.shape, bool)
    decode = functools.partial(_decode, tokenizer)
    for chunk, row in enumerate(_unpadded(texts)):
        written, offsets = keywords.token_offsets(decode, row[None])
        hits[chunk, : len(row)] = keywords.token_hits(written, words, offsets)[0]
    return hits


@functools.partial(jax.jit, static_argnames=("name", "decoder"))
def _difficulty(params, texts: Sequences, *, name: str, decoder: llama.LlamaConfig) -> Array:
    if name == "el2n":
        hidden, head = llama.hidden_states(params, texts.tokens, decoder), llama.head(params)

        def chunk_el2n(chunk):
            hidden, tokens, mask = chunk
            return coreset.el2n(hidden @ head, tokens, mask)

        # The logits of one chunk at a time.
        return lax.map(chunk_el2n, (hidden, texts.tokens, texts.mask))
    score = {"loss": coreset.loss, "perplexity": coreset.perplexity, "min_k": coreset.min_k}[name]
    return score(llama.log_prob(params, texts.tokens, decoder), texts.mask[:, 1:])


@functools.partial(jax.jit, static_argnames="decoder")
def _features(params, texts: Sequences, *, decoder: llama.LlamaConfig) -> Array:
    hidden = llama.hidden_states(params, texts.tokens, decoder)
    hidden = hidden.astype(at_least_single(hidden.dtype))
    counted = texts.mask[:, :, None]
    count = jnp.sum(counted, axis=1).astype(hidden.dtype)
    return jnp.sum(jnp.where(counted, hidden, 0), axis=1) / count


# Kept, as `grand` knows its compiled loop by the object.
@functools.lru_cache(maxsize=32)
def _logits(decoder: llama.LlamaConfig):
    return functools.partial(llama.apply, config=decoder)


def _unpadded(texts: Sequences) -> list[np.ndarray]:
    tokens, mask = np.asarray(texts.tokens), np.asarray(texts.mask)
    lengths = mask.shape[1] - np.argmax(mask[:, ::-1], axis=1)
    return [row[:length] for row, length in zip(tokens, lengths, strict=True)]


def _decode(tokenizer: Any, row: list[int]) -> str:
    # "Clean" texts lack blanks before punctuation that the tokens have.
    return tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
