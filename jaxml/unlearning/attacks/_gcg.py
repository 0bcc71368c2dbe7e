"""Greedy coordinate gradient: the search for a suffix of tokens that lowers an objective."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer, Key

from jaxml import checks
from jaxml.tracing import as_partial, known, nan_unless


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Attacked:
    """Result of a search for a suffix.

    Attributes:
      suffix: tokens found, `[position]`.
      history: objective of the suffix given and after every step, `[step + 1]`; never rises.
    """

    suffix: Integer[Array, "*set position"]
    history: Float[Array, "*set evaluation"]


def gcg(
    key: Key[Array, ""],
    objective: Callable[[Array], Array],
    embedding: Float[Array, "vocabulary width"],
    suffix: Integer[Array, " position"],
    *,
    steps: int = 500,
    candidates: int = 512,
    top_k: int = 256,
    allowed: Bool[Array, " vocabulary"] | None = None,
    batch_size: int = 64,
) -> Attacked:
    """Return the suffix of tokens that a greedy coordinate gradient search (GCG) finds.

    A step takes for each position the `top_k` tokens whose exchange for the present one lowers
    the objective most to first order, draws `candidates` exchanges of one token among them and
    keeps the best, where it is better than what there was. All steps are one compiled scan.

    Args:
      key: of the draws; consumed.
      objective: function of the embeddings of a suffix `[position, width]` to a scalar to be
        minimised, as of `attack_objective`; NaN counts as infinite. Keep the object, or let it
        be a `jax.tree_util.Partial` of arrays.
      embedding: of all tokens, `[vocabulary, width]`.
      suffix: the first one, such as of one token repeated, `[position]`.
      steps: of the search.
      candidates: exchanges tried in a step.
      top_k: tokens considered at a position, up to the vocabulary; fewer where fewer are
        allowed.
      allowed: tokens that may be put in, `[vocabulary]`; all by default. Those of the first
        suffix may stay.
      batch_size: candidates evaluated at once.

    Returns:
      Suffix and history. Where embeddings are not finite, or tokens beyond the vocabulary, and
      that cannot be seen, as under `jax.jit`, the history is NaN.

    Raises:
      ValueError: an empty suffix, tokens beyond the vocabulary, embeddings that are not finite,
        no token allowed, a number out of range, or an objective that is not a scalar.

    Source: Zou et al., "Universal and transferable adversarial attacks on aligned language
    models" (2023), algorithm 1.
    """
    checks.counts(steps=steps, candidates=candidates, top_k=top_k, batch_size=batch_size)
    _check_tokens(embedding, suffix, allowed, top_k)
    if allowed is None:
        allowed = jnp.ones(len(embedding), bool)
    attacked = _gcg(
        key,
        as_partial(objective),
        embedding,
        suffix,
        allowed,
        steps=steps,
        candidates=candidates,
        top_k=top_k,
        batch_size=min(batch_size, candidates),
    )
    is_usable = jnp.all(jnp.isfinite(embedding)) & jnp.all(
        (suffix >= 0) & (suffix < len(embedding))
    )
    history = nan_unless(is_usable, attacked.history)
    return Attacked(attacked.suffix, history)


@functools.partial(jax.jit, static_argnames=("steps", "candidates", "top_k", "batch_size"))
def _gcg(key, objective, embedding, suffix, allowed, *, steps, candidates, top_k, batch_size):
    def value_of(tokens):
        value = objective(embedding[tokens])
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    def step(state, number):
        suffix, value = state
        key_step = jax.random.fold_in(key, number)
        gradient = token_gradient(objective, embedding, suffix)
        tried = exchanges(key_step, gradient, suffix, allowed, candidates, top_k)
        values = lax.map(value_of, tried, batch_size=batch_size)
        best = jnp.argmin(values)
        suffix = jnp.where(values[best] < value, tried[best], suffix)
        value = jnp.minimum(values[best], value)
        return (suffix, value), value

    first = value_of(suffix)
    if first.shape:
        raise checks.refused("objective", objective, "a scalar", holds=f"shape {first.shape}")
    numbers = jnp.arange(steps, dtype=jnp.uint32)
    (suffix, _), history = lax.scan(step, (suffix, first), numbers)
    return Attacked(suffix, jnp.concatenate([first[None], history]))


def token_gradient(
    objective: Callable[[Array], Array],
    embedding: Float[Array, "vocabulary width"],
    suffix: Integer[Array, " position"],
) -> Float[Array, "position vocabulary"]:
    """Return the gradient of the objective in the one-hot rows of a suffix.

    Args:
      objective: as for `gcg`.
      embedding: of all tokens, `[vocabulary, width]`.
      suffix: tokens `[position]`.
    """
    return jax.grad(objective)(embedding[suffix]) @ embedding.T


def exchanges(
    key: Key[Array, ""],
    gradient: Float[Array, "position vocabulary"],
    suffix: Integer[Array, " position"],
    allowed: Bool[Array, " vocabulary"],
    candidates: int,
    top_k: int,
) -> Integer[Array, "candidate position"]:
    """Return suffixes with one token exchanged for another that is promising and allowed.

    Args:
      key: of places and tokens, both uniform; consumed.
      gradient: as of `token_gradient`, `[position, vocabulary]`.
      suffix: tokens `[position]`.
      allowed: tokens that may be put in, `[vocabulary]`; a place where none may stays.
      candidates: number of suffixes.
      top_k: tokens considered at a place: those of the lowest gradient.
    """
    positions, vocabulary = gradient.shape
    free = allowed[None] & (suffix[:, None] != jnp.arange(vocabulary, dtype=suffix.dtype)[None])
    # What is not free has to stay behind even a gradient that is infinite or not a number.
    gain = jnp.where(free, jnp.nan_to_num(-gradient), -jnp.inf)
    promising = lax.top_k(gain, top_k)[1].astype(suffix.dtype)
    count = jnp.minimum(jnp.sum(free, axis=-1, dtype=jnp.int32), top_k)
    key_position, key_rank = jax.random.split(key)
    position = jax.random.randint(key_position, (candidates,), 0, positions, jnp.int32)
    rank = jax.random.randint(key_rank, (candidates,), 0, count[position], jnp.int32)
    token = jnp.where(count[position] > 0, promising[position, rank], suffix[position])
    row = jnp.arange(candidates, dtype=jnp.int32)
    return jnp.tile(suffix, (candidates, 1)).at[row, position].set(token)


def _check_tokens(embedding: Array, suffix: Array, allowed: Array | None, top_k: int) -> None:
    checks.floating(embedding=embedding)
    checks.axes("vocabulary width", embedding=embedding)
    checks.finite(embedding=embedding)
    vocabulary = len(embedding)
    checks.integers(suffix=suffix)
    checks.axes("position", suffix=suffix)
    checks.values_within(0, vocabulary - 1, suffix=suffix)
    if top_k > vocabulary:
        raise checks.refused("top_k", top_k, f"1 to {vocabulary}, the vocabulary")
    if allowed is None:
        return
    if allowed.shape != (vocabulary,) or allowed.dtype != jnp.bool_:
        raise checks.refused("allowed", allowed, f"bool[{vocabulary}]")
    if not known(allowed, jnp.any):
        raise checks.refused("allowed", allowed, "1 token or more", holds="no token")
