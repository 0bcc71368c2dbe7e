"""Scores of membership: how much a text looks as if the model had been trained on it.

All are high for texts that the model knows. `logp` is `[*batch, token]`, as of `token_log_prob`:
the log-probability of every token but the first, in nats; `mask` tells which of them count,
`mask[..., 1:]` of the text. A text of which no token counts has the score NaN.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.tracing import nan_unless, take_or_nan
from jaxml.unlearning._counted import check_values, row_means
from jaxml.unlearning._log_prob import checked_logits


@half_as_single
def loss_score(
    logp: Float[Array, "*batch token"], mask: Bool[Array, "*batch token"]
) -> Float[Array, " *batch"]:
    """Return the mean log-probability of the tokens of each text: minus its loss.

    Args:
      logp: log-probability of each token, `[*batch, token]`.
      mask: `[*batch, token]`, True where a token counts.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: the shapes differ or a wrong dtype.

    Source: Yeom et al., "Privacy risk in machine learning" (CSF 2018).
    """
    check_values(logp=logp)
    checks.mask(mask, logp=logp)
    return row_means(logp, mask)


@half_as_single
def perplexity(
    logp: Float[Array, "*batch token"], mask: Bool[Array, "*batch token"]
) -> Float[Array, ""]:
    """Return exp of minus the mean log-probability of all tokens that count.

    One number for all texts, long ones weighing more; by `jax.vmap` one for each.

    Args:
      logp: log-probability of each token, `[*batch, token]`.
      mask: `[*batch, token]`, True where a token counts.

    Returns:
      A scalar, 1 or more.

    Raises:
      ValueError: the shapes differ or a wrong dtype.
    """
    checks.mask(mask, logp=logp)
    loss = -loss_score(logp.reshape(-1), mask.reshape(-1))
    return jnp.exp(nan_unless(loss > -jnp.inf, loss))


@half_as_single
def zlib_score(
    logp: Float[Array, "*batch token"],
    mask: Bool[Array, "*batch token"],
    sizes: Integer[Array, " *batch"],
) -> Float[Array, " *batch"]:
    """Return the mean log-probability of each text over its compressed size.

    Args:
      logp: log-probability of each token, `[*batch, token]`.
      mask: `[*batch, token]`, True where a token counts.
      sizes: bytes `[*batch]`, as of `zlib_size`.

    Returns:
      `[*batch]`, in nats a byte.

    Raises:
      ValueError: the shapes differ or a wrong dtype.

    Source: Carlini et al., "Extracting training data from large language models" (USENIX
    Security 2021).
    """
    score = loss_score(logp, mask)
    if sizes.shape != score.shape:
        raise checks.refused("sizes", sizes, f"{list(score.shape)}, one a text")
    return score / sizes.astype(score.dtype)


def zlib_size(text: str) -> int:
    """Return the bytes of a text, in UTF-8, compressed by zlib at its default level.

    Args:
      text: any; an empty one has 8 bytes.

    Returns:
      The number of bytes.
    """
    return len(zlib.compress(text.encode()))


@half_as_single
def reference_score(
    logp: Float[Array, "*batch token"],
    reference_logp: Float[Array, "*batch token"],
    mask: Bool[Array, "*batch token"],
) -> Float[Array, " *batch"]:
    """Return the mean log-probability of each text less that under another model.

    Args:
      logp: log-probability of each token, `[*batch, token]`.
      reference_logp: under a model that has not seen the texts, `[*batch, token]`.
      mask: `[*batch, token]`, True where a token counts.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: the shapes differ or a wrong dtype.

    Source: Carlini et al. (USENIX Security 2021).
    """
    check_values(logp=logp, reference_logp=reference_logp)
    checks.same_shape(logp=logp, reference_logp=reference_logp)
    return loss_score(logp - reference_logp, mask)


@half_as_single
def min_k_prob(
    logp: Float[Array, "*batch token"], mask: Bool[Array, "*batch token"], *, fraction: float = 0.4
) -> Float[Array, " *batch"]:
    """Return the mean over the least likely tokens of each text (Min-K% Prob).

    Over the int(fraction n) lowest of the n log-probabilities that count, and 1 at least.

    Args:
      logp: log-probability of each token, `[*batch, token]`.
      mask: `[*batch, token]`, True where a token counts.
      fraction: above 0, 1 at most; 0.4 in MUSE.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: the shapes differ, a wrong dtype, or `fraction` is out of range.

    Source: Shi et al., "Detecting pretraining data from large language models" (ICLR 2024).
    """
    check_values(logp=logp)
    checks.mask(mask, logp=logp)
    return _mean_of_lowest(logp, mask, fraction)


def min_k_plus_plus(
    logits: Float[Array, "*batch time vocabulary"],
    tokens: Integer[Array, "*batch time"],
    mask: Bool[Array, "*batch time"],
    *,
    fraction: float = 0.4,
) -> Float[Array, " *batch"]:
    """Return the mean over the lowest standardised log-probabilities of each text (Min-K%++).

    As `min_k_prob`, of (log p - mu) / sigma: mean and standard deviation of the log-probability
    of a token drawn from the model at that place. Where sigma is 0 the value is 0.

    Args:
      logits: `[*batch, time, vocabulary]`; half precision is converted to float32.
      tokens: `[*batch, time]`, 0 to vocabulary - 1; others that count give NaN.
      mask: of the tokens, `[*batch, time]`, True where one counts; the first never does.
      fraction: above 0, 1 at most.

    Returns:
      `[*batch]`, in standard deviations.

    Raises:
      ValueError: the shapes differ, there are fewer than 2 tokens, a wrong dtype, or `fraction`
        is out of range.

    Source: Zhang et al., "Min-K%++: improved baseline for detecting pre-training data from
    large language models" (ICLR 2025).
    """
    logits = checked_logits(logits, tokens)
    checks.mask(mask, tokens=tokens)
    log_p = jax.nn.log_softmax(logits[..., :-1, :])
    p = jnp.exp(log_p)
    # A token that the model excludes adds p log p = 0; NaN is no such token.
    mean = jnp.sum(jnp.where(p == 0, 0, p * log_p), axis=-1)
    square = jnp.square(log_p - mean[..., None])
    sigma = jnp.sqrt(jnp.sum(jnp.where(p == 0, 0, p * square), axis=-1))
    tokens = tokens[..., 1:]
    is_token = (tokens >= 0) & (tokens < logits.shape[-1])
    # NaN comes last: it would be in the gradient of what does not count.
    chosen = take_or_nan(log_p, jnp.where(is_token, tokens, 0))
    score = jnp.where(sigma == 0, 0, (chosen - mean) / jnp.where(sigma == 0, 1, sigma))
    score = nan_unless(is_token & ~jnp.isnan(chosen), score)
    return _mean_of_lowest(score, mask[..., 1:], fraction)


def _mean_of_lowest(values: Array, mask: Array, fraction: float) -> Array:
    checks.fraction(fraction=fraction)
    length = values.shape[-1]
    # int(fraction n) in Python's doubles for every n: float32 would round some the other way.
    counts = np.array([max(1, int(fraction * n)) for n in range(length + 1)], np.int32)
    total = jnp.sum(mask, axis=-1)
    count = jnp.asarray(counts)[total]
    ordered = jnp.sort(jnp.where(mask, values, jnp.inf), axis=-1)
    lowest = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1) < count[..., None]
    mean = jnp.sum(jnp.where(lowest, ordered, 0), axis=-1) / count.astype(values.dtype)
    # NaN and infinity are sorted behind all others, and would be left out.
    missing = (total == 0) | jnp.any(mask & ~(values < jnp.inf), axis=-1)
    return jnp.where(missing, jnp.nan, mean)
