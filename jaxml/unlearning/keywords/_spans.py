"""Where keywords stand in texts and among tokens, with strings and numpy."""

import os
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int, Integer

from jaxml import checks
from jaxml.unlearning.keywords._words import check_keywords, check_strings, occurrences

Decode = Callable[[list[int]], str]


def keyword_texts(texts: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Return what is left of each text without all but its keywords.

    They are as written, in order of appearance, with blanks between; "" where there are none.

    Args:
      texts: one a chunk.
      words: keywords, such as of `extract`; those of several words count where these follow each
        other. Case does not matter.

    Returns:
      One text a chunk.

    Raises:
      ValueError: no text, no keyword, or one without a letter or digit.
    """
    check_strings(texts=texts)
    check_keywords(words)
    return tuple(" ".join(match.group() for match in occurrences(text, words)) for text in texts)


def token_hits(
    texts: Sequence[str],
    words: Sequence[str],
    offsets: Integer[np.ndarray, "chunk time 2"],
) -> Bool[np.ndarray, "chunk time"]:
    """Return which tokens overlap an occurrence of a keyword.

    What a chunk holds of a word that its edge cuts is another word.

    Args:
      texts: one a chunk.
      words: keywords, as for `keyword_texts`.
      offsets: `[chunk, time, 2]`, first character of each token in its text and the first behind
        it, as of `token_offsets`, or of a fast tokenizer with `return_offsets_mapping`. An empty
        one, such as (0, 0), overlaps nothing.

    Returns:
      `[chunk, time]`.

    Raises:
      ValueError: no text, no keyword, one without a letter or digit, or offsets of another shape
        or outside their text.
    """
    check_strings(texts=texts)
    check_keywords(words)
    offsets = np.asarray(offsets)
    _check_offsets(offsets, texts)
    return np.stack([_hits(text, words, spans) for text, spans in zip(texts, offsets, strict=True)])


def token_offsets(
    decode: Decode, tokens: Integer[np.ndarray, "chunk time"]
) -> tuple[tuple[str, ...], Int[np.ndarray, "chunk time 2"]]:
    """Return the texts of chunks of tokens, and the characters that each token is part of.

    A character of several tokens belongs to all of them. Tokens are decoded one by one where
    the text is the pieces in a row, as of a byte-level BPE; else all that come before each
    token with it, which takes longer.

    Args:
      decode: function of the tokens of a text to the text, such as `tokenizer.decode`.
      tokens: `[chunk, time]`, such as of `jaxml.data.text.chunk_tokens`.

    Returns:
      One text a chunk, `decode` of it; and int32 `[chunk, time, 2]`, first character of each
      token and the first behind it.

    Raises:
      ValueError: `tokens` are not integers of two axes, or there are none.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or not tokens.size:
        raise checks.refused("tokens", tokens, "integers [chunk, time]")
    texts = tuple(decode(row) for row in tokens.tolist())
    spans = [_spans(decode, row, text) for row, text in zip(tokens.tolist(), texts, strict=True)]
    return texts, np.array(spans, np.int32)


def _hits(text: str, words: Sequence[str], spans: np.ndarray) -> np.ndarray:
    is_keyword = np.zeros(len(text) + 1, np.int32)
    for match in occurrences(text, words):
        is_keyword[match.start() + 1 : match.end() + 1] = 1
    before = np.cumsum(is_keyword)
    return before[spans[:, 1]] > before[spans[:, 0]]


def _spans(decode: Decode, row: list[int], text: str) -> list[tuple[int, int]]:
    spans, is_whole = _align(decode, row, text, in_pieces=True)
    return spans if is_whole else _align(decode, row, text, in_pieces=False)[0]


def _align(
    decode: Decode, row: list[int], text: str, *, in_pieces: bool
) -> tuple[list[tuple[int, int]], bool]:
    """Return the span of each token, and whether the pieces in a row are the text."""
    spans, first, base, done = [], 0, 0, 0
    for place in range(len(row)):
        # Bytes that are not yet a character decode to others than the text has there.
        so_far = decode(row[first : place + 1])
        agreed = base + len(os.path.commonprefix([so_far, text[base : base + len(so_far)]]))
        is_pending = base + len(so_far) > agreed
        before, done = done, max(done, agreed)
        spans.append((before, min(done + is_pending, len(text))))
        if in_pieces and not is_pending:
            first, base = place + 1, done
    return spans, base == len(text)


def _check_offsets(offsets: np.ndarray, texts: Sequence[str]) -> None:
    if offsets.ndim != 3 or offsets.shape[::2] != (len(texts), 2) or offsets.dtype.kind not in "iu":
        raise checks.refused("offsets", offsets, f"integers [{len(texts)}, time, 2]")
    for place, (text, spans) in enumerate(zip(texts, offsets, strict=True)):
        start, end = spans[:, 0], spans[:, 1]
        if np.any((start < 0) | (end < start) | (end > len(text))):
            raise checks.refused(
                f"offsets[{place}]",
                spans,
                f"spans in a text of {len(text)} characters",
                holds=f"values from {spans.min()} to {spans.max()}",
            )
