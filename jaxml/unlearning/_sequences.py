"""Sets of texts as tokens, with what of them counts."""

import dataclasses
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Integer, PyTree

from jaxml import checks
from jaxml.tracing import is_concrete, known

Rows = int | np.integer | slice | Sequence[int] | Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sequences:
    """A set of texts as tokens of one length; several sets for `jax.vmap`, in front.

    `len(texts)` is the number of rows, and `texts[rows]` are some of them, in each of several
    sets the same: a slice, indices or a boolean mask of numpy. `texts[3]` is a set of one row.

    Attributes:
      tokens: `[row, time]`, such as of `jaxml.data.text.chunk_tokens`.
      mask: `[row, time]`, True where a token counts; False for padding, at the right, and for a
        prompt that comes before what is to be learnt or forgotten.
    """

    tokens: Integer[Array, "*set row time"]
    mask: Bool[Array, "*set row time"]

    def __len__(self) -> int:
        return self.tokens.shape[-2]

    def __getitem__(self, rows: Rows) -> "Sequences":
        if isinstance(rows, Integral):
            # A range knows negative numbers, and where rows end.
            rows = np.array([range(len(self))[int(rows)]])
        elif not isinstance(rows, slice):
            rows = jnp.atleast_1d(rows) if isinstance(rows, Array) else np.atleast_1d(rows)
        return Sequences(self.tokens[..., rows, :], self.mask[..., rows, :])

    @property
    def lengths(self) -> Integer[Array, "*set row"]:
        """Number of the tokens of each row that count, after the first, which nothing predicts."""
        return jnp.sum(self.mask[..., 1:], axis=-1, dtype=jnp.int32)


# As functions take them: of plain tokens `[*set, row, time]` all count.
Texts = Sequences | Integer[Array | np.ndarray, "... _ _"]


def sequences(texts: Texts) -> Sequences:
    """Return texts as `Sequences`.

    Args:
      texts: such, or plain tokens `[*set, row, time]`, all of which count.
    """
    if isinstance(texts, Sequences):
        return texts
    tokens = jnp.asarray(texts)
    return Sequences(tokens, jnp.ones_like(tokens, bool))


def check_texts(
    name: str,
    texts: Sequences,
    *,
    vocabulary: int | None = None,
    shortest: int = 2,
    left_padding: bool = False,
) -> None:
    """Raise ValueError if sequences cannot be used.

    Args:
      name: of the argument.
      texts: rows of one set.
      vocabulary: number of tokens, where it is known.
      shortest: least length of a row.
      left_padding: accept it; networks take the padding for a start of the text.
    """
    tokens, mask = texts.tokens, texts.mask
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise checks.refused(name, tokens, "integers [row, time]")
    if not tokens.shape[0] or tokens.shape[1] < shortest:
        raise checks.refused(name, tokens, f"one row or more, of {shortest} tokens or more")
    if mask.shape != tokens.shape or mask.dtype != jnp.bool_:
        raise checks.refused(f"{name}.mask", mask, f"bool{list(tokens.shape)}")
    if not left_padding and is_concrete(tokens):
        if not known(mask, lambda mask: ~_is_left_padded(jnp.asarray(tokens), jnp.asarray(mask))):
            accepted = "rows padded at the right: a network takes padding in front for text"
            raise checks.refused(name, tokens, accepted, holds="padding at the left")
    if vocabulary is None:
        return
    if not known(tokens, lambda tokens: jnp.all((tokens >= 0) & (tokens < vocabulary))):
        with jax.ensure_compile_time_eval():
            ends = f"tokens from {jnp.min(tokens)} to {jnp.max(tokens)}"
        accepted = f"0 to {vocabulary - 1}: does the tokenizer belong to the model?"
        raise checks.refused(name, tokens, accepted, holds=ends)


def _is_left_padded(tokens: Array, mask: Array) -> Array:
    """Return whether rows start with copies of one token that do not count, and of various number.

    A prompt does not count either, but repeats no token as often as its row is short. Rows with
    the same number of copies have it in front of all texts, where it pads none.
    """
    is_copy = ~mask & (tokens == tokens[:, :1])
    copies = jnp.where(jnp.all(is_copy, axis=1), tokens.shape[1], jnp.argmin(is_copy, axis=1))
    counted = jnp.sum(mask, axis=1, dtype=copies.dtype)
    # Nothing but padding does not count.
    is_padded = (copies > 1) & (counted > 0) & (copies + counted == tokens.shape[1])
    # Or a prompt follows it: then most rows have padding, and none has it at the end.
    longest = jnp.argmax(copies)
    is_start = (copies > 0) & (tokens[:, 0] == tokens[longest, 0])
    are_most = 2 * jnp.sum(is_start, dtype=jnp.int32) >= tokens.shape[0]
    are_padded = (copies[longest] > 1) & are_most & jnp.all(mask[:, -1])
    return jnp.any(copies != copies[0]) & (jnp.any(is_padded) | are_padded)


def check_vocabulary(apply: Callable[..., Any], params: PyTree, **texts: Texts | None) -> None:
    """Raise ValueError if tokens are beyond the vocabulary of a model.

    Args:
      apply: function of parameters and tokens to logits.
      params: of the model.
      **texts: sets by the names of the arguments, as `check_texts` takes them.
    """
    sets = {name: each for name, each in texts.items() if isinstance(each, Sequences)}
    for name, each in sets.items():
        if is_concrete(each.tokens):
            logits = jax.eval_shape(apply, params, each.tokens)
            check_texts(name, each, vocabulary=logits.shape[-1])


def draw_rows(key: Array, rows: PyTree, batch_size: int) -> PyTree:
    """Return different rows of arrays `[row, ...]`, the same of each.

    Args:
      key: consumed.
      rows: arrays, such as `Sequences`.
      batch_size: number drawn; of fewer, all in their order.
    """
    count = len(jax.tree.leaves(rows)[0])
    if count <= batch_size:
        return rows
    index = jax.random.choice(key, jnp.arange(count, dtype=jnp.int32), (batch_size,), replace=False)
    return jax.tree.map(lambda leaf: leaf[index], rows)
