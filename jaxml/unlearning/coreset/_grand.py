"""The score of chunks by the size of their gradients."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxml import checks
from jaxml.unlearning._log_prob import sequence_log_prob
from jaxml.unlearning._problem import OfTokens
from jaxml.unlearning._sequences import Sequences, Texts, check_texts, check_vocabulary, sequences
from jaxml.unlearning._sharpness import squared_norm


def grand(
    apply: OfTokens,
    params: PyTree,
    texts: Texts,
    *,
    leaves: Callable[[str], bool] | None = None,
    batch_size: int = 8,
) -> Float[Array, " row"]:
    """Return the norm of the gradient of each chunk's negative log-likelihood (GraNd).

    The likelihood is summed over the tokens that count, not averaged. At the model before
    unlearning the gradient of `npo` on one chunk is that of `gradient_ascent`, so that this is
    GraNd of either method at its first step; for GraNd along unlearning, average the scores of
    several `params`. Gradients of a batch are held at once, of the chosen leaves only.

    Args:
      apply: function of parameters and tokens `[row, time]`, to logits of the next tokens
        `[row, time, vocabulary]`. Keep the object, as a compiled loop is known by it.
      params: of the model, a pytree of arrays `[...]`.
      texts: one chunk a row; `Sequences`, or plain tokens `[row, time]`, all of which count.
      leaves: function of the path of a leaf, such as "layers/down", to whether it is
        differentiated; all floating-point leaves by default, and no others in any case.
      batch_size: chunks at a time.

    Returns:
      `[row]`, in single precision or that of the leaves; 0 where no token counts.

    Raises:
      ValueError: no leaf is chosen, `batch_size` is not positive, or `texts` have no row, fewer
        than 2 tokens, tokens beyond the vocabulary of the logits or a mask of another shape.

    Source: Paul et al., "Deep learning on a data diet: finding important examples early in
    training" (NeurIPS 2021).
    """
    texts = sequences(texts)
    check_texts("texts", texts)
    check_vocabulary(apply, params, texts=texts)
    checks.counts(batch_size=batch_size)
    chosen = _choose(params, leaves)
    return _grand(params, texts, apply=apply, chosen=chosen, batch_size=batch_size)


@functools.partial(jax.jit, static_argnames=("apply", "chosen", "batch_size"))
def _grand(params, texts: Sequences, *, apply: OfTokens, chosen: tuple[bool, ...], batch_size: int):
    every, structure = jax.tree.flatten(params)
    trained = [leaf for leaf, take in zip(every, chosen, strict=True) if take]

    def nll(trained, tokens, mask):
        rest = iter(trained)
        merged = [next(rest) if take else leaf for leaf, take in zip(every, chosen, strict=True)]
        logits = apply(jax.tree.unflatten(structure, merged), tokens[None])
        return -sequence_log_prob(logits, tokens[None], mask[None])[0]

    def norm(row):
        return jnp.sqrt(squared_norm(jax.grad(nll)(trained, *row)))

    return lax.map(norm, (texts.tokens, texts.mask), batch_size=batch_size)


def _choose(params: PyTree, leaves: Callable[[str], bool] | None) -> tuple[bool, ...]:
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.issubdtype(
            leaf.dtype, jnp.floating
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    chosen = tuple(
        bool(floating and (leaves is None or leaves(path))) for path, floating in paths.items()
    )
    if not any(chosen):
        accepted = ", ".join(path for path, floating in paths.items() if floating) or "none there"
        raise checks.refused("leaves", leaves, f"some of {accepted}", holds="none of params chosen")
    return chosen
