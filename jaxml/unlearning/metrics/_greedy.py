"""What a model still knows of a text, from its greedy choice at every token."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jaxml import checks


def exact_memorization(
    predicted: Integer[Array, "*batch token"],
    tokens: Integer[Array, "*batch token"],
    mask: Bool[Array, "*batch token"],
) -> Float[Array, " *batch"]:
    """Return the share of the tokens that are the model's first choice after the true ones.

    Args:
      predicted: the likeliest token at each place given the true tokens before it,
        `[*batch, token]`: `jnp.argmax(logits[..., :-1, :], -1)`.
      tokens: true tokens, `[*batch, token]`: those of the text but the first.
      mask: `[*batch, token]`, True where a token counts.

    Returns:
      Shares `[*batch]`, float32; NaN where no token counts.

    Raises:
      ValueError: the shapes differ or a wrong dtype.

    Source: Tirumala et al., "Memorization without overfitting" (NeurIPS 2022).
    """
    right = _right(predicted, tokens, mask)
    count = lambda x: jnp.sum(x, axis=-1, dtype=jnp.int32).astype(jnp.float32)
    return count(right & mask) / count(mask)


def extraction_strength(
    predicted: Integer[Array, "*batch token"],
    tokens: Integer[Array, "*batch token"],
    mask: Bool[Array, "*batch token"],
) -> Float[Array, " *batch"]:
    """Return the share of a text that the model writes by itself after the rest of it.

    1 - k / n: from the token k on, all n that count are the model's first choice; 0 if the last
    one is not, where open-unlearning has 1 / n.

    Args:
      predicted: the likeliest token at each place, as for `exact_memorization`,
        `[*batch, token]`.
      tokens: true tokens, `[*batch, token]`.
      mask: `[*batch, token]`, True where a token counts.

    Returns:
      Shares `[*batch]`, float32; NaN where no token counts.

    Raises:
      ValueError: the shapes differ or a wrong dtype.

    Source: Carlini et al., "Extracting training data from large language models" (USENIX
    Security 2021), as defined by Wang et al., "Towards effective evaluations and comparisons
    for LLM unlearning methods" (ICLR 2025).
    """
    right = _right(predicted, tokens, mask)
    place = jnp.cumsum(mask, axis=-1, dtype=jnp.int32)
    # The place, from 1, of the last wrong token is the index, from 0, of the next one.
    start = jnp.max(jnp.where(mask & ~right, place, 0), axis=-1, initial=0)
    return 1 - start.astype(jnp.float32) / jnp.sum(mask, axis=-1).astype(jnp.float32)


def _right(predicted: Array, tokens: Array, mask: Array) -> Array:
    checks.same_shape(tokens=tokens, predicted=predicted)
    checks.mask(mask, tokens=tokens)
    checks.integers(predicted=predicted, tokens=tokens)
    return predicted == tokens
