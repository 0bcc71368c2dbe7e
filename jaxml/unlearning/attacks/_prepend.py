"""Prompting: a fixed text in front, such as solved examples or a role."""

import jax.numpy as jnp
from jaxtyping import Array, Integer

from jaxml import checks
from jaxml.unlearning._sequences import Sequences, Texts, sequences


def prepend(texts: Texts, tokens: Integer[Array, " prefix"]) -> Sequences:
    """Return texts with the same tokens put in front of each, which do not count themselves.

    The first token of a text counts afterwards, if its mask says so: there is now something to
    predict it from. A token that begins a sequence belongs to what is put in front, not to the
    texts.

    Args:
      texts: `Sequences`, or plain tokens `[*set, row, time]`, all of which count.
      tokens: put in front, `[prefix]`.

    Returns:
      Tokens and mask `[*set, row, prefix + time]`.

    Raises:
      ValueError: a mask of another shape, a wrong dtype, or `tokens` of more than one axis.
    """
    texts = sequences(texts)
    checks.integers(texts=texts.tokens, tokens=tokens)
    checks.mask(texts.mask, texts=texts.tokens)
    if tokens.ndim != 1:
        raise checks.refused("tokens", tokens, "[position], of any length")
    shape = (*texts.tokens.shape[:-1], tokens.size)
    front = jnp.broadcast_to(tokens.astype(texts.tokens.dtype), shape)
    return Sequences(
        jnp.concatenate([front, texts.tokens], axis=-1),
        jnp.concatenate([jnp.zeros(shape, bool), texts.mask], axis=-1),
    )
