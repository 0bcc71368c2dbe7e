"""Prompting: a fixed text in front, such as solved examples or a role."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Integer

from jaxml.unlearning._unlearn_loss import Sequences
from jaxml.unlearning._validate import check_integers, check_mask


def prefix(
    tokens: Integer[Array, "*set row time"],
    mask: Bool[Array, "*set row time"],
    prefix_tokens: Integer[Array, " prefix"],
) -> Sequences:
    """Return texts with the same tokens put in front of each, which do not count themselves.

    The first token of a text counts afterwards, if its mask says so: there is now something to
    predict it from. A token that begins a sequence belongs into the prefix, not the texts.

    Args:
      tokens: of the texts, `[*set, row, time]`.
      mask: `[*set, row, time]`, True where a token counts.
      prefix_tokens: put in front, `[prefix]`.

    Returns:
      Tokens and mask `[*set, row, prefix + time]`.

    Raises:
      ValueError: the shapes differ, a wrong dtype, or a prefix of more than one axis.
    """
    check_mask(mask, tokens=tokens)
    check_integers(tokens=tokens, prefix_tokens=prefix_tokens)
    if prefix_tokens.ndim != 1:
        raise ValueError(f"prefix_tokens: shape {prefix_tokens.shape}; accepted is one axis")
    front = jnp.broadcast_to(
        prefix_tokens.astype(tokens.dtype), (*tokens.shape[:-1], prefix_tokens.size)
    )
    return Sequences(
        jnp.concatenate([front, tokens], axis=-1),
        jnp.concatenate([jnp.zeros(front.shape, bool), mask], axis=-1),
    )
