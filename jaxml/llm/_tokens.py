"""Texts as rows of tokens of one length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxml.unlearning import Sequences


def tokenised(texts: Sequence[str], tokenizer: Any, length: int, path: Path) -> Sequences:
    """Return texts as sequences of one length: long ones cut, short ones padded.

    Args:
      texts: of a file.
      tokenizer: of Hugging Face.
      length: tokens of a sequence, that of the beginning of a text included.
      path: of the file, for messages.

    Raises:
      ValueError: `length` is below 2, or no text has a token.
    """
    if length < 2:
        raise ValueError(f"length={length}: accepted is 2 or more")
    first = getattr(tokenizer, "bos_token_id", None)
    head = [] if first is None else [first]
    room = length - len(head)
    pieces = []
    for text in texts:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        pieces += [head + tokens[i : i + room] for i in range(0, len(tokens), room)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    if not pieces:
        raise ValueError(f"{path}: no text of 2 tokens or more")
    longest = max(map(len, pieces))
    tokens = np.zeros((len(pieces), longest), np.int32)
    mask = np.zeros((len(pieces), longest), bool)
    for row, piece in enumerate(pieces):
        tokens[row, : len(piece)] = piece
        mask[row, : len(piece)] = True
    return Sequences(jnp.asarray(tokens), jnp.asarray(mask))
