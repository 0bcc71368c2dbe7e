"""Sequences of which only the keywords count, or all but them, or as many tokens by chance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from jaxml import checks
from jaxml.unlearning._sequences import Sequences, Texts, sequences

Hits = Bool[Array | np.ndarray, "*set row time"]


def keyword_mask(texts: Texts, hits: Hits) -> Sequences:
    """Return the sequences with keywords alone to count, among the tokens that do.

    Args:
      texts: of one set, or of several in front; plain tokens `[*set, row, time]` all count.
      hits: `[*set, row, time]`, True for a token of a keyword, as of `token_hits`.

    Returns:
      The same tokens with another mask.

    Raises:
      ValueError: `hits` of another shape than the mask, or not bool.
    """
    texts, hits = _checked(texts, hits)
    return dataclasses.replace(texts, mask=texts.mask & hits)


def complement_mask(texts: Texts, hits: Hits) -> Sequences:
    """Return the sequences with all to count that did, but the keywords.

    Args:
      texts: of one set, or of several in front; plain tokens `[*set, row, time]` all count.
      hits: `[*set, row, time]`, as for `keyword_mask`.

    Returns:
      The same tokens with another mask.

    Raises:
      ValueError: `hits` of another shape than the mask, or not bool.
    """
    texts, hits = _checked(texts, hits)
    return dataclasses.replace(texts, mask=texts.mask & ~hits)


def random_mask(key: Key[Array, ""], texts: Texts, hits: Hits) -> Sequences:
    """Return the sequences with as many tokens to count as keywords would, drawn by chance.

    The control of `keyword_mask`: in each row the loss has the same number of terms. Any tokens
    that count may be drawn, keywords among them; but never the first of a row, which has no
    prediction, nor is one drawn for it. The draw is one for all steps that use the result.

    Args:
      key: consumed.
      texts: of one set, or of several in front; plain tokens `[*set, row, time]` all count.
      hits: `[*set, row, time]`, as for `keyword_mask`.

    Returns:
      The same tokens with another mask.

    Raises:
      ValueError: `hits` of another shape than the mask, or not bool.
    """
    texts, hits = _checked(texts, hits)
    is_predicted = jnp.arange(hits.shape[-1], dtype=jnp.int32) > 0
    eligible = texts.mask & is_predicted
    count = jnp.sum(eligible & hits, axis=-1, keepdims=True, dtype=jnp.int32)
    lot = jnp.where(eligible, jax.random.uniform(key, hits.shape), jnp.inf)
    rank = jnp.argsort(jnp.argsort(lot, axis=-1), axis=-1).astype(jnp.int32)
    return dataclasses.replace(texts, mask=rank < count)


def _checked(texts: Texts, hits: Hits) -> tuple[Sequences, Array]:
    texts, hits = sequences(texts), jnp.asarray(hits)
    checks.same_shape(mask=texts.mask, hits=hits)
    checks.boolean(hits=hits)
    return texts, hits
