"""Sequences of which only the keywords count, or all but them, or as many tokens by chance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from jaxml.unlearning._unlearn_loss import Sequences
from jaxml.unlearning._validate import check_alike

Hits = Bool[Array | np.ndarray, "*set row time"]


def keyword_mask(sequences: Sequences, hits: Hits) -> Sequences:
    """Return the sequences with keywords alone to count, among the tokens that do.

    Args:
      sequences: of one set, or of several in front.
      hits: `[*set, row, time]`, True for a token of a keyword, as of `token_hits`.

    Raises:
      ValueError: `hits` of another shape than the mask, or not bool.
    """
    hits = _checked(sequences, hits)
    return dataclasses.replace(sequences, mask=sequences.mask & hits)


def complement_mask(sequences: Sequences, hits: Hits) -> Sequences:
    """Return the sequences with all to count that did, but the keywords.

    Args:
      sequences: of one set, or of several in front.
      hits: `[*set, row, time]`, as for `keyword_mask`.

    Raises:
      ValueError: `hits` of another shape than the mask, or not bool.
    """
    hits = _checked(sequences, hits)
    return dataclasses.replace(sequences, mask=sequences.mask & ~hits)


def random_mask(key: Key[Array, ""], sequences: Sequences, hits: Hits) -> Sequences:
    """Return the sequences with as many tokens to count as keywords would, drawn by chance.

    The control of `keyword_mask`: in each row the loss has the same number of terms. Any tokens
    that count may be drawn, keywords among them; but never the first of a row, which has no
    prediction, nor is one drawn for it. The draw is one for all steps that use the result.

    Args:
      key: consumed.
      sequences: of one set, or of several in front.
      hits: `[*set, row, time]`, as for `keyword_mask`.

    Raises:
      ValueError: `hits` of another shape than the mask, or not bool.
    """
    hits = _checked(sequences, hits)
    is_predicted = jnp.arange(hits.shape[-1], dtype=jnp.int32) > 0
    eligible = sequences.mask & is_predicted
    count = jnp.sum(eligible & hits, axis=-1, keepdims=True, dtype=jnp.int32)
    lot = jnp.where(eligible, jax.random.uniform(key, hits.shape), jnp.inf)
    rank = jnp.argsort(jnp.argsort(lot, axis=-1), axis=-1).astype(jnp.int32)
    return dataclasses.replace(sequences, mask=rank < count)


def _checked(sequences: Sequences, hits: Hits) -> Array:
    hits = jnp.asarray(hits)
    check_alike(mask=sequences.mask, hits=hits)
    if hits.dtype != jnp.bool_:
        raise ValueError(f"hits: dtype {hits.dtype}; accepted is bool")
    return hits
