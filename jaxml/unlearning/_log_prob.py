"""Log-probabilities of tokens and of sequences under the logits of a causal language model."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jaxml import checks
from jaxml.precision import at_least_single
from jaxml.tracing import take_or_nan
from jaxml.unlearning._counted import check_values, row_sums


def token_log_prob(
    logits: Float[Array, "*batch time vocabulary"], tokens: Integer[Array, "*batch time"]
) -> Float[Array, "*batch time-1"]:
    """Return the log-probability of every token but the first, given those before it.

    The logits at time t tell of the token at t + 1: entry t of the result belongs to
    `tokens[..., t + 1]`.

    Args:
      logits: `[*batch, time, vocabulary]`; half precision is converted to float32.
      tokens: `[*batch, time]`, 0 to vocabulary - 1; others give NaN.

    Returns:
      `[*batch, time - 1]`, in nats.

    Raises:
      ValueError: the shapes do not fit, there are fewer than 2 tokens, or a wrong dtype.
    """
    logits, tokens = jnp.asarray(logits), jnp.asarray(tokens)
    logits = checked_logits(logits, tokens)[..., :-1, :]
    return take_or_nan(logits, tokens[..., 1:]) - jax.nn.logsumexp(logits, axis=-1)


def sequence_log_prob(
    logits: Float[Array, "*batch time vocabulary"],
    tokens: Integer[Array, "*batch time"],
    mask: Bool[Array, "*batch time"],
) -> Float[Array, " *batch"]:
    """Return the log-probability of each sequence: the sum over the tokens that count.

    sum_t mask[t + 1] log p(tokens[t + 1] | tokens[..t]); the first token has no prediction and
    does not count. The number of terms is `jnp.sum(mask[..., 1:], -1)`.

    Args:
      logits: `[*batch, time, vocabulary]`; half precision is converted to float32.
      tokens: `[*batch, time]`; those that do not count may hold anything, such as -100.
      mask: `[*batch, time]`, True where a token counts: not padding, not the prompt.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: the shapes do not fit, there are fewer than 2 tokens, or a wrong dtype.
    """
    checks.mask(mask, tokens=tokens)
    return row_sums(token_log_prob(logits, tokens), mask[..., 1:])


def checked_logits(logits: Array, tokens: Array) -> Array:
    """Return the logits of 2 tokens or more, in float32 or better.

    Raises:
      ValueError: the shapes do not fit, there are fewer than 2 tokens, or a wrong dtype.
    """
    check_values(logits=logits)
    checks.integers(tokens=tokens)
    if tokens.shape != logits.shape[:-1]:
        shape = f"{list(logits.shape[:-1])}, the shape of logits but for the vocabulary"
        raise checks.refused("tokens", tokens, shape)
    if tokens.ndim < 1 or tokens.shape[-1] < 2:
        raise checks.refused("tokens", tokens, "2 tokens or more in a row")
    return logits.astype(at_least_single(logits.dtype))
