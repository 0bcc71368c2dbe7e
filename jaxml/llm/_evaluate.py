"""What a model still knows of texts and questions: the measures of MUSE and WMDP on a decoder."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxml.data.questions import ChoiceQuestion, Passage, Question
from jaxml.llm._unlearn import in_row_batches, sequence_log_probs
from jaxml.models import llama
from jaxml.unlearning import Sequences, metrics

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
      decoder: its shape.
      tokenizer: of Hugging Face, or with its `encode` and `decode`.
      passages: starts and how they go on.
      tokens: length of the continuations, decoded greedily, and of the references.
      batch_size: prompts at a time.

    Raises:
      ValueError: there is no passage, or a number is below 1.

    Source: Shi et al., "MUSE: machine unlearning six-way evaluation for language models" (2024).
    """
    written = continuations(
        params, decoder, tokenizer, [p.prompt for p in passages], tokens, batch_size
    )
    cut = lambda text: _decode(tokenizer, _encode(tokenizer, text, start=False)[:tokens])
    return metrics.verbatim_memorization(written, [cut(p.continuation) for p in passages])


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
      decoder: its shape.
      tokenizer: as for `verbatim`.
      questions: with their answers.
      examples: pairs of a question and its answer, before each prompt.
      tokens: length of an answer, decoded greedily.
      batch_size: prompts at a time.

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
      decoder: its shape.
      tokenizer: as for `verbatim`.
      prompts: texts.
      tokens: length of a continuation, up to the token of the end.
      batch_size: prompts at a time.

    Raises:
      ValueError: there is no prompt, or a number is below 1.
    """
    end = getattr(tokenizer, "eos_token_id", None)
    written = []
    for starts, mask in _batches(tokenizer, prompts, batch_size):
        found = llama.generate(params, starts, decoder, steps=tokens, mask=mask, end=end)
        for row in np.asarray(found).tolist():
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
      decoder: its shape.
      tokenizer: as for `verbatim`; the letters " A", " B" are a token each.
      questions: all with as many choices.
      subject: see `jaxml.unlearning.metrics.choice_prompt`.
      batch_size: prompts at a time.

    Raises:
      ValueError: there is no question, their numbers of choices differ, or a letter is no token.
    """
    counts = {len(q.choices) for q in questions}
    if len(counts) != 1:
        raise ValueError(f"questions: of {sorted(counts)} choices; accepted is one number")
    letters = []
    for i in range(counts.pop()):
        letter = _encode(tokenizer, f" {chr(ord('A') + i)}", start=False)
        if len(letter) != 1:
            raise ValueError(f"tokenizer: {chr(ord('A') + i)!r} is {len(letter)} tokens, not one")
        letters += letter
    prompts = [metrics.choice_prompt(q.question, q.choices, subject=subject) for q in questions]
    rows = []
    for tokens, mask in _batches(tokenizer, prompts, batch_size):
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
      decoder: its shape.
      texts: rows of tokens.
      fraction: K, see `jaxml.unlearning.metrics.min_k_prob`.
      batch_size: rows at a time.
    """
    one_batch = functools.partial(_min_k, params, decoder=decoder, fraction=fraction)
    return in_row_batches(one_batch, texts, batch_size)


def token_mean(params: PyTree, texts: Sequences, decoder: llama.LlamaConfig) -> float:
    """Return the mean log-probability of a token, in nats.

    Args:
      params: of the decoder.
      texts: rows of tokens.
      decoder: its shape.
    """
    total = float(jnp.sum(sequence_log_probs(params, texts, decoder)))
    return total / float(jnp.sum(texts.mask[:, 1:]))


@functools.partial(jax.jit, static_argnames=("decoder", "fraction"))
def _min_k(params, texts: Sequences, *, decoder, fraction):
    logp = llama.log_prob(params, texts.tokens, decoder)
    return metrics.min_k_prob(logp, texts.mask[:, 1:], fraction=fraction)


@functools.partial(jax.jit, static_argnames="decoder")
def _last_log_probs(params, tokens, mask, letters, *, decoder):
    hidden = llama.hidden_states(params, tokens, decoder, mask=mask)[:, -1]
    logits = (hidden @ llama.head(params)).astype(jnp.float32)
    return jax.nn.log_softmax(logits)[:, letters]


def _batches(tokenizer, prompts: Sequence[str], batch_size: int):
    """Yield tokens and masks of prompts at the right end, the last batch filled up."""
    if not prompts:
        raise ValueError("no prompt; accepted is one or more")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: accepted is 1 or more")
    encoded = [_encode(tokenizer, prompt, start=True) for prompt in prompts]
    size = min(batch_size, len(encoded))
    encoded += encoded[: -len(encoded) % size]
    for start in range(0, len(encoded), size):
        rows = encoded[start : start + size]
        length = -(-max(map(len, rows)) // _PROMPT_STEP) * _PROMPT_STEP
        tokens = np.zeros((size, length), np.int32)
        mask = np.zeros((size, length), bool)
        for i, row in enumerate(rows):
            tokens[i, length - len(row) :] = row
            mask[i, length - len(row) :] = True
        yield jnp.asarray(tokens), jnp.asarray(mask)


def _encode(tokenizer, text: str, *, start: bool) -> list[int]:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    first = getattr(tokenizer, "bos_token_id", None)
    return [first, *tokens] if start and first is not None else tokens


def _decode(tokenizer, tokens: Sequence[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True)
