"""Scores of chunks from what a model says of their tokens, in one forward pass.

`logp` is `[*chunk, token]`, as of `token_log_prob`: the log-probability of every token but the
first, in nats; `mask` tells which of them count, `mask[..., 1:]` of the chunk. A chunk of which
no token counts has the score NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.tracing import nan_unless
from jaxml.unlearning._counted import row_means
from jaxml.unlearning._log_prob import checked_logits
from jaxml.unlearning.metrics._membership import loss_score, min_k_prob


def el2n(
    logits: Float[Array, "*chunk time vocabulary"],
    tokens: Integer[Array, "*chunk time"],
    mask: Bool[Array, "*chunk time"],
) -> Float[Array, " *chunk"]:
    """Return the mean distance of the predicted distributions from the tokens (EL2N).

    The mean over tokens of ||softmax(logits[t]) - onehot(tokens[t + 1])||, the Euclidean norm:
    the norm of the gradient of a token's loss with respect to its logits.

    Args:
      logits: `[*chunk, time, vocabulary]`; half precision is converted to float32.
      tokens: `[*chunk, time]`, 0 to vocabulary - 1; others that count give NaN.
      mask: `[*chunk, time]`, True where a token counts; the first never does.

    Returns:
      `[*chunk]`, 0 to sqrt(2).

    Raises:
      ValueError: the shapes do not fit, there are fewer than 2 tokens, or a wrong dtype.

    Source: Paul et al., "Deep learning on a data diet: finding important examples early in
    training" (NeurIPS 2021), there for classes.
    """
    logits = checked_logits(logits, tokens)[..., :-1, :]
    checks.mask(mask, tokens=tokens)
    number = jax.lax.broadcasted_iota(tokens.dtype, logits.shape, logits.ndim - 1)
    is_token = number == tokens[..., 1:, None]
    others = jnp.where(is_token, 0, jax.nn.softmax(logits))
    # The token's own term 1 - p is the sum of the others: the difference would lose its digits.
    square = jnp.sum(jnp.square(others), axis=-1) + jnp.square(jnp.sum(others, axis=-1))
    distance = jnp.where(jnp.any(is_token, axis=-1), jnp.sqrt(square), jnp.nan)
    return row_means(distance, mask[..., 1:])


def loss(
    logp: Float[Array, "*chunk token"], mask: Bool[Array, "*chunk token"]
) -> Float[Array, " *chunk"]:
    """Return the mean negative log-likelihood of the tokens of each chunk, in nats.

    Args:
      logp: log-probability of each token, `[*chunk, token]`.
      mask: `[*chunk, token]`, True where a token counts.

    Returns:
      `[*chunk]`, in nats a token.

    Raises:
      ValueError: the shapes differ or a wrong dtype.
    """
    return -loss_score(logp, mask)


@half_as_single
def perplexity(
    logp: Float[Array, "*chunk token"], mask: Bool[Array, "*chunk token"]
) -> Float[Array, " *chunk"]:
    """Return the perplexity of each chunk: exp of its `loss`, which orders chunks alike.

    Args:
      logp: log-probability of each token, `[*chunk, token]`.
      mask: `[*chunk, token]`, True where a token counts.

    Returns:
      `[*chunk]`, 1 or more.

    Raises:
      ValueError: the shapes differ or a wrong dtype.
    """
    of_chunk = loss(logp, mask)
    return jnp.exp(nan_unless(of_chunk > -jnp.inf, of_chunk))


def min_k(
    logp: Float[Array, "*chunk token"], mask: Bool[Array, "*chunk token"], *, fraction: float = 0.4
) -> Float[Array, " *chunk"]:
    """Return the mean over the least likely tokens of each chunk (Min-K% Prob).

    As `min_k_prob` of the metrics: high for what the model has memorised. The method keeps the
    most memorised chunks: `select(..., keep="top")`.

    Args:
      logp: log-probability of each token, `[*chunk, token]`.
      mask: `[*chunk, token]`, True where a token counts.
      fraction: of the tokens, above 0, 1 at most; 0.4 in MUSE.

    Returns:
      `[*chunk]`, in nats a token.

    Raises:
      ValueError: the shapes differ, a wrong dtype, or `fraction` is out of range.

    Source: Shi et al., "Detecting pretraining data from large language models" (ICLR 2024).
    """
    return min_k_prob(logp, mask, fraction=fraction)


def keyword_density(
    hits: Bool[Array | np.ndarray, "*chunk time"], mask: Bool[Array, "*chunk time"]
) -> Float[Array, " *chunk"]:
    """Return the share of the tokens of each chunk that belong to keywords.

    Args:
      hits: `[*chunk, time]`, True for a token of a keyword, as of `keywords.token_hits`.
      mask: `[*chunk, time]`, True where a token counts.

    Returns:
      `[*chunk]`, 0 to 1.

    Raises:
      ValueError: the shapes differ or a wrong dtype.
    """
    hits = jnp.asarray(hits)
    checks.boolean(hits=hits)
    checks.mask(mask, hits=hits)
    return row_means(hits.astype(float), mask)
