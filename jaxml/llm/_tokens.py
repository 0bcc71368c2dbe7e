"""Texts and chats as rows of tokens of one length."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from jaxml import checks
from jaxml.llm._model import Model
from jaxml.unlearning import Sequences
from jaxml.unlearning._sequences import Texts as Tokens
from jaxml.unlearning._sequences import sequences

Chat = Sequence[Mapping[str, str]]
# As the functions of this package take them.
Texts = Tokens | Sequence[str] | Sequence[Chat]


def tokenize(model: Any, texts: Sequence[str] | Sequence[Chat], *, length: int = 512) -> Sequences:
    """Return texts or chats as rows of tokens of one length.

    Of a text all tokens count, and it starts with the tokenizer's token of the beginning, if it
    has one; a longer text is cut into rows that all start so. Of a chat the answers of the
    assistant count alone, up to the token that ends them, and its form is that of the tokenizer's
    chat template.

    Args:
      model: a `Model`, or a tokenizer of Hugging Face.
      texts: strings, or chats: lists of messages `{"role": ..., "content": ...}`.
      length: most tokens of a row.

    Returns:
      Rows in the order of the texts, padded at the right to the longest; a text of fewer than 2
      tokens has none.

    Raises:
      ValueError: `length` is below 2, no text has 2 tokens, texts and chats are mixed, a chat is
        longer than `length` or without an answer, or the tokenizer has no chat template or one
        that does not take the chat.
    """
    checks.counts(least=2, length=length)
    tokenizer = model.tokenizer if isinstance(model, Model) else model
    if isinstance(texts, str):
        raise checks.refused("texts", texts, "a list of texts or chats")
    if all(isinstance(text, str) for text in texts):
        rows = [piece for text in texts for piece in _pieces(tokenizer, str(text), length)]
        counted = [[True] * len(row) for row in rows]
    else:
        pairs = [_chat_row(tokenizer, chat, f"texts[{i}]") for i, chat in enumerate(texts)]
        for i, (row, _) in enumerate(pairs):
            if len(row) > length:
                most = f"a chat of at most length={length} tokens"
                raise checks.refused(f"texts[{i}]", len(row), most)
        rows, counted = [row for row, _ in pairs], [counts for _, counts in pairs]
    if not rows:
        raise checks.refused("texts", texts, "a text of 2 tokens or more")
    longest = max(map(len, rows))
    tokens, _ = padded(rows, longest)
    mask, _ = padded(counted, longest)
    return Sequences(jnp.asarray(tokens), jnp.asarray(mask.astype(bool)))


def as_sequences(model: Any, texts: Texts, *, length: int) -> Sequences:
    """Return sequences as they are, plain tokens as sequences, and texts tokenized.

    Args:
      model: as for `tokenize`.
      texts: of one of these kinds.
      length: as for `tokenize`.

    Raises:
      ValueError: as for `tokenize`.
    """
    if isinstance(texts, Sequences | jax.Array | np.ndarray):
        return sequences(texts)
    return tokenize(model, texts, length=length)


def encode(tokenizer: Any, text: str, *, start: bool) -> list[int]:
    """Return the tokens of a text.

    Args:
      tokenizer: of Hugging Face, or with its `encode`.
      text: to encode.
      start: put the token of the beginning in front, where there is one.

    Raises:
      ValueError: the tokenizer does not take the text.
    """
    try:
        tokens = tokenizer.encode(text, add_special_tokens=False)
    # Those in Rust raise what they like, for a word that they lack among others.
    except Exception as error:
        accepted = f"a text that the tokenizer takes: {' '.join(str(error).split())}"
        raise checks.refused("text", text, accepted) from error
    first = getattr(tokenizer, "bos_token_id", None)
    return [first, *tokens] if start and first is not None else tokens


def padded(
    rows: Sequence[Sequence[int]], length: int, *, left: bool = False
) -> tuple[Int[np.ndarray, "row time"], Bool[np.ndarray, "row time"]]:
    """Return rows filled up with 0 to one length, and True where they are not.

    Args:
      rows: of tokens, at most `length` each.
      length: of all of them.
      left: fill up in front of the tokens instead of behind them.

    Returns:
      int32 `[row, time]` and bool `[row, time]`.
    """
    tokens = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(len(row))
        tokens[i, place], mask[i, place] = row, True
    return tokens, mask


def _pieces(tokenizer: Any, text: str, length: int) -> list[list[int]]:
    """Return a text cut into rows of 2 tokens or more, that of the beginning at their start."""
    tokens = encode(tokenizer, text, start=True)
    head = tokens[: len(tokens) - len(encode(tokenizer, text, start=False))]
    body, room = tokens[len(head) :], length - len(head)
    pieces = [head + body[i : i + room] for i in range(0, len(body), room)]
    return [piece for piece in pieces if len(piece) > 1]


def _chat_row(tokenizer: Any, chat: Any, name: str) -> tuple[list[int], list[bool]]:
    """Return the tokens of a chat, and which of them the assistant says."""
    if not _is_chat(chat):
        raise checks.refused(name, chat, 'messages {"role": ..., "content": ...}, in all texts')
    if not getattr(tokenizer, "chat_template", None):
        raise checks.refused("tokenizer", type(tokenizer).__name__, "one with a chat template")
    try:
        tokens = _rendered(tokenizer, chat)
        answers = [
            (
                # Not all templates take a chat of no message.
                _rendered(tokenizer, chat[:i], prompt=True) if i else [],
                _rendered(tokenizer, chat[: i + 1]),
            )
            for i, message in enumerate(chat)
            if message["role"] == "assistant"
        ]
    # A template is a program that raises what it likes.
    except Exception as error:
        accepted = f"a chat that the tokenizer's template takes: {' '.join(str(error).split())}"
        raise checks.refused(name, chat, accepted) from error
    if not answers:
        raise checks.refused(name, chat, "a chat with a message of the assistant")
    counted = [False] * len(tokens)
    for before, until in answers:
        if tokens[: len(before)] != before or tokens[: len(until)] != until:
            growing = "a chat whose start the tokenizer's template does not change later on"
            raise checks.refused(name, chat, growing)
        counted[len(before) : len(until)] = [True] * (len(until) - len(before))
    return tokens, counted


def _rendered(tokenizer: Any, chat: Chat, *, prompt: bool = False) -> list[int]:
    return tokenizer.apply_chat_template(
        list(chat), tokenize=True, add_generation_prompt=prompt, return_dict=False
    )


def _is_chat(chat: Any) -> bool:
    return (
        isinstance(chat, Sequence)
        and not isinstance(chat, str)
        and all(
            isinstance(message, Mapping)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in chat
        )
    )
