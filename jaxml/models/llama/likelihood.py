"""Log-probabilities of a text without its logits in memory: the head runs piece by piece."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from jaxml import checks
from jaxml.models.llama.config import LlamaConfig
from jaxml.models.llama.decoder import Params, head, hidden_states
from jaxml.precision import at_least_single
from jaxml.tracing import take_or_nan

# 256 MiB in float32; smaller ones make the head run twice and its products slower.
CHUNK = 2**26


def log_prob(
    params: Params,
    tokens: Integer[Array, "row time"],
    config: LlamaConfig,
    *,
    mask: Bool[Array, "row time"] | None = None,
    remat: bool = False,
    chunk: int = CHUNK,
) -> Float[Array, "row time-1"]:
    """Return the log-probability of every token but the first, given those before it.

    Args:
      params: as of `init` or `load`.
      tokens: `[row, time]`, 2 or more.
      config: shape of the decoder, static under `jit`.
      mask: False where a token is padding, as for `apply`; entries of padding mean nothing.
      remat: as for `apply`.
      chunk: as for `chunked_log_prob`.

    Returns:
      `[row, time - 1]`, in nats; entry t belongs to `tokens[:, t + 1]`.

    Raises:
      ValueError: `tokens` or `mask` have a wrong shape or dtype, or `chunk` is below 1.
    """
    hidden = hidden_states(params, tokens, config, mask=mask, remat=remat)
    return chunked_log_prob(hidden, head(params), tokens, chunk=chunk)


def chunked_log_prob(
    hidden: Float[Array, "row time width"],
    head: Float[Array, "width vocabulary"],
    tokens: Integer[Array, "row time"],
    *,
    chunk: int = CHUNK,
) -> Float[Array, "row time-1"]:
    """Return the log-probability of the next tokens from what the head multiplies.

    At most `chunk` logits exist at once, those of some times of all rows: memory beside that of
    the arguments and their gradients depends on `chunk`, not on vocabulary or length. Where all
    of them fit they are kept for the gradient, which else makes them a second time. Rows may lie
    on several devices. For reverse-mode gradients only.

    Args:
      hidden: normed hidden states `[row, time, width]`, as of `hidden_states`.
      head: `[width, vocabulary]`.
      tokens: `[row, time]`; those that do not count may hold anything, and give NaN beyond the
        vocabulary.
      chunk: number of logits; one time of all rows is the least.

    Returns:
      `[row, time - 1]`, in nats, float32 or better; entry t belongs to `tokens[:, t + 1]`.

    Raises:
      ValueError: the shapes do not fit, there are fewer than 2 tokens, or `chunk` is below 1.
    """
    checks.counts(chunk=chunk)
    if tokens.shape != hidden.shape[:2] or tokens.shape[1] < 2:
        rows = f"{list(hidden.shape[:2])}, the rows and times of hidden, 2 tokens or more a row"
        raise checks.refused("tokens", tokens, rows)
    if head.shape[:1] != hidden.shape[2:]:
        raise checks.refused("head", head, f"[{hidden.shape[2]}, vocabulary], as hidden is wide")
    rows, time = tokens.shape
    targets = jnp.roll(tokens, -1, axis=1)
    # As equal pieces as can be, so that little is padded.
    pieces = -(-time // max(1, chunk // (rows * head.shape[1])))
    piece = -(-time // pieces)
    padding = ((0, 0), (0, pieces * piece - time))
    hidden = jnp.pad(hidden, (*padding, (0, 0)))
    logp: Any = _log_prob(hidden, head, jnp.pad(targets, padding), pieces)
    return logp[:, : time - 1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _log_prob(hidden: Array, head: Array, targets: Array, pieces: int) -> Array:
    return _forward(hidden, head, targets, pieces)[0]


def _forward(hidden, head, targets, pieces):
    if pieces == 1:
        logits = _logits(hidden, head)
        logp, total = _chosen(logits, targets)
        return logp, (hidden, head, targets, total, logits)

    def one_piece(_, piece):
        return None, _chosen(_logits(piece[0], head), piece[1])

    _, (logp, total) = lax.scan(one_piece, None, (_cut(hidden, pieces), _cut(targets, pieces)))
    return _join(logp), (hidden, head, targets, _join(total), None)


def _backward(pieces, kept, cotangent):
    hidden, head, targets, total, logits = kept
    if pieces == 1:
        of_head, of_hidden = _slopes(hidden, head, targets, total, cotangent, logits)
        return of_hidden, of_head.astype(head.dtype), None

    def one_piece(so_far, piece):
        hidden, targets, total, cotangent = piece
        logits = _logits(hidden, head)
        own, of_hidden = _slopes(hidden, head, targets, total, cotangent, logits)
        return so_far + own, of_hidden

    cut = [_cut(array, pieces) for array in (hidden, targets, total, cotangent)]
    start = jnp.zeros(head.shape, cotangent.dtype)
    of_head, of_hidden = lax.scan(one_piece, start, tuple(cut))
    return _join(of_hidden), of_head.astype(head.dtype), None


_log_prob.defvjp(_forward, _backward)


def _chosen(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Log-probability of the targets, and the logarithm of the sum of exp of all logits."""
    total = jax.nn.logsumexp(logits, axis=-1)
    return take_or_nan(logits, targets) - total, total


def _slopes(hidden, head, targets, total, cotangent, logits) -> tuple[Array, Array]:
    """Gradients of the head and of the hidden states."""
    # d log p / d logits = onehot - softmax.
    softmax = jnp.exp(logits - total[..., None])
    place = lax.broadcasted_iota(targets.dtype, softmax.shape, 2)
    chosen = (place == targets[..., None]).astype(softmax.dtype)
    slope = (cotangent[..., None] * (chosen - softmax)).astype(hidden.dtype)
    of_head = jnp.einsum("rtw,rtv->wv", hidden, slope, preferred_element_type=softmax.dtype)
    return of_head, slope @ head.T


def _logits(hidden: Array, head: Array) -> Array:
    single = at_least_single(hidden.dtype)
    return jnp.matmul(hidden, head, preferred_element_type=single)


def _cut(array: Array, pieces: int) -> Array:
    return array.reshape(array.shape[0], pieces, -1, *array.shape[2:]).swapaxes(0, 1)


def _join(array: Array) -> Array:
    return array.swapaxes(0, 1).reshape(array.shape[1], -1, *array.shape[3:])
