"""The measures of MUSE and WMDP on the parameters of a decoder, in batches."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxml import checks
from jaxml.data.questions import ChoiceQuestion, Passage, Question
from jaxml.llm._tokens import encode, padded
from jaxml.llm._unlearn import sequence_log_probs
from jaxml.models import llama
from jaxml.sharding import map_host_batches
from jaxml.unlearning import Sequences, metrics
from jaxml.unlearning._counted import row_sums
from jaxml.unlearning._sequences import check_texts

# Prompts are padded to multiples of this, so that few shapes are compiled.
_PROMPT_STEP = 64


def verbatim(
    params: PyTree,
    decoder: llama.LlamaConfig,
    tokenizer: Any,
    passages: Sequence[Passage],
    *,
    tokens: int = 128,
    batch_size: int = 8,
) -> float:
    """Return how much of the passages a model recites: VerbMem of MUSE, 0 to 100.

    Args:
      params: of the decoder.
      decoder: shape of the network.
      tokenizer: of Hugging Face, or with its `encode` and `decode`.
      passages: starts and how they go on.
      tokens: length of the continuations, decoded greedily, and of the references.
      batch_size: prompts at a time.

    Returns:
      ROUGE-L of what is written against the references, their mean.

    Raises:
      ValueError: there is no passage, or a number is below 1.

    Source: Shi et al., "MUSE: machine unlearning six-way evaluation for language models" (2024).
    """
    written = continuations(
        params, decoder, tokenizer, [p.prompt for p in passages], tokens, batch_size
    )
    references = [encode(tokenizer, p.continuation, start=False)[:tokens] for p in passages]
    return metrics.verbatim_memorization(
        written, [_decode(tokenizer, reference) for reference in references]
    )


def knowledge(
    params: PyTree,
    decoder: llama.LlamaConfig,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    examples: Sequence[tuple[str, str]] = (),
    tokens: int = 32,
    batch_size: int = 8,
) -> float:
    """Return how well a model answers questions: KnowMem of MUSE, 0 to 100.

    Args:
      params: of the decoder.
      decoder: shape of the network.
      tokenizer: as for `verbatim`.
      questions: with their answers.
      examples: pairs of a question and its answer, before each prompt.
      tokens: length of an answer, decoded greedily.
      batch_size: prompts at a time.

    Returns:
      ROUGE-L of the answers written against the right ones, their mean.

    Raises:
      ValueError: there is no question, or a number is below 1.
    """
    prompts = [metrics.knowledge_prompt(q.question, examples=examples) for q in questions]
    written = continuations(params, decoder, tokenizer, prompts, tokens, batch_size)
    return metrics.knowledge_memorization(written, [q.answer for q in questions])


def continuations(
    params: PyTree,
    decoder: llama.LlamaConfig,
    tokenizer: Any,
    prompts: Sequence[str],
    tokens: int,
    batch_size: int = 8,
) -> list[str]:
    """Return what a model writes after each prompt, decoded greedily.

    Args:
      params: of the decoder.
      decoder: shape of the network.
      tokenizer: as for `verbatim`.
      prompts: texts.
      tokens: length of a continuation, up to the token of the end.
      batch_size: prompts at a time.

    Returns:
      A text a prompt, without the prompt and special tokens.

    Raises:
      ValueError: there is no prompt, or a number is below 1.
    """
    end = getattr(tokenizer, "eos_token_id", None)
    written = []
    for starts, mask in _batches(tokenizer, prompts, batch_size, decoder):
        rows = llama.generate(params, starts, decoder, steps=tokens, mask=mask, end=end)
        for row in np.asarray(rows).tolist():
            written.append(_decode(tokenizer, row[: row.index(end)] if end in row else row))
    return written[: len(prompts)]


def choices(
    params: PyTree,
    decoder: llama.LlamaConfig,
    tokenizer: Any,
    questions: Sequence[ChoiceQuestion],
    *,
    subject: str | None = None,
    batch_size: int = 8,
) -> metrics.ChoiceAccuracy:
    """Return the accuracy on multiple-choice questions: WMDP and MMLU, zero-shot.

    Args:
      params: of the decoder.
      decoder: shape of the network.
      tokenizer: as for `verbatim`; the letters " A", " B" are a token each.
      questions: all with as many choices.
      subject: see `jaxml.unlearning.metrics.choice_prompt`.
      batch_size: prompts at a time.

    Returns:
      Share of the questions whose likeliest letter is right, with its interval.

    Raises:
      ValueError: there is no question, their numbers of choices differ, or a letter is no token.
    """
    counts = {len(q.choices) for q in questions}
    if len(counts) != 1:
        numbers = f"{sorted(counts)} choices"
        raise checks.refused("questions", numbers, "one number of choices for all questions")
    letters = []
    for i in range(counts.pop()):
        letter = chr(ord("A") + i)
        token = encode(tokenizer, f" {letter}", start=False)
        if len(token) != 1:
            pieces = f"{letter!r} as {len(token)} tokens"
            raise checks.refused("tokenizer", pieces, "one with a token for each letter")
        letters += token
    _check_tokens(letters, decoder)
    prompts = [metrics.choice_prompt(q.question, q.choices, subject=subject) for q in questions]
    rows = []
    for tokens, mask in _batches(tokenizer, prompts, batch_size, decoder):
        rows.append(_last_log_probs(params, tokens, mask, jnp.asarray(letters), decoder=decoder))
    logp = jnp.concatenate(rows)[: len(questions)]
    return metrics.multiple_choice_accuracy(logp, jnp.asarray([q.answer for q in questions]))


def membership(
    params: PyTree,
    decoder: llama.LlamaConfig,
    texts: Sequences,
    *,
    fraction: float = 0.4,
    batch_size: int = 8,
) -> Float[Array, " row"]:
    """Return Min-K% of each text, the score behind `metrics.privacy_leakage`, `[row]`.

    Args:
      params: of the decoder.
      decoder: shape of the network.
      texts: rows of tokens.
      fraction: K, see `jaxml.unlearning.metrics.min_k_prob`.
      batch_size: rows at a time.
    """
    scores = text_scores(params, decoder, texts, fraction=fraction, batch_size=batch_size)
    return scores.min_k


class TextScores(NamedTuple):
    """What the log-probabilities of a text's tokens come to, `[row]`: their sum, and Min-K%."""

    logp: Float[Array, " row"]
    min_k: Float[Array, " row"]


def text_scores(
    params: PyTree,
    decoder: llama.LlamaConfig,
    texts: Sequences,
    *,
    fraction: float = 0.4,
    batch_size: int = 8,
) -> TextScores:
    """Return the log-probability of each text, of the tokens that count, and its Min-K%.

    Args:
      params: of the decoder.
      decoder: shape of the network.
      texts: rows of tokens.
      fraction: K, see `jaxml.unlearning.metrics.min_k_prob`.
      batch_size: rows at a time.
    """
    check_texts("texts", texts, vocabulary=decoder.vocab_size)
    one_batch = functools.partial(_text_scores, params, decoder=decoder, fraction=fraction)
    return map_host_batches(one_batch, texts, batch_size=batch_size)


def token_mean(
    params: PyTree, decoder: llama.LlamaConfig, texts: Sequences, *, batch_size: int = 8
) -> float:
    """Return the mean log-probability of a token, in nats.

    Args:
      params: of the decoder.
      decoder: shape of the network.
      texts: rows of tokens.
      batch_size: rows at a time.
    """
    return per_token(sequence_log_probs(params, texts, decoder, batch_size=batch_size), texts)


def per_token(logp: Float[Array, " row"], texts: Sequences) -> float:
    """Return the mean log-probability of a token, in nats, from those of the texts.

    Args:
      logp: of each text, in nats.
      texts: rows of tokens.
    """
    return float(jnp.sum(logp)) / float(jnp.sum(texts.mask[:, 1:]))


@functools.partial(jax.jit, static_argnames=("decoder", "fraction"))
def _text_scores(params, texts: Sequences, *, decoder, fraction):
    logp, counted = llama.log_prob(params, texts.tokens, decoder), texts.mask[:, 1:]
    return TextScores(row_sums(logp, counted), metrics.min_k_prob(logp, counted, fraction=fraction))


@functools.partial(jax.jit, static_argnames="decoder")
def _last_log_probs(params, tokens, mask, letters, *, decoder):
    hidden = llama.hidden_states(params, tokens, decoder, mask=mask)[:, -1]
    logits = (hidden @ llama.head(params)).astype(jnp.float32)
    return jax.nn.log_softmax(logits)[:, letters]


def _batches(
    tokenizer, prompts: Sequence[str], batch_size: int, decoder: llama.LlamaConfig
) -> Iterator[tuple[Array, Array]]:
    """Yield tokens and masks of prompts at the right end, the last batch filled up."""
    if not prompts:
        raise checks.refused("prompts", list(prompts), "one prompt or more")
    checks.counts(batch_size=batch_size)
    encoded = [encode(tokenizer, prompt, start=True) for prompt in prompts]
    _check_tokens(itertools.chain(*encoded), decoder)
    size = min(batch_size, len(encoded))
    encoded += encoded[: -len(encoded) % size]
    for start in range(0, len(encoded), size):
        rows = encoded[start : start + size]
        length = -(-max(map(len, rows)) // _PROMPT_STEP) * _PROMPT_STEP
        tokens, mask = padded(rows, length, left=True)
        yield jnp.asarray(tokens), jnp.asarray(mask)


def _check_tokens(tokens: Iterable[int], decoder: llama.LlamaConfig) -> None:
    """Accept tokens of a prompt that the model has an embedding for."""
    beyond = next((token for token in tokens if not 0 <= token < decoder.vocab_size), None)
    if beyond is not None:
        accepted = f"one with tokens of 0 to {decoder.vocab_size - 1}, the model's vocabulary"
        raise checks.refused("tokenizer", f"token {beyond}", accepted)


def _decode(tokenizer, tokens: Sequence[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True)
