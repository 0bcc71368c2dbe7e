"""What an attacking suffix is to lower: the loss of targets, with hidden states as before."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxml.unlearning.function import with_arrays
from jaxml.unlearning.log_prob import token_log_prob
from jaxml.unlearning.objectives import Scalar
from jaxml.unlearning.unlearn_loss import Sequences, check_texts
from jaxml.unlearning.validate import check_alike, check_floating


def attack_objective(
    apply: Callable[[Array, Array], tuple[Array, Array]],
    embedding: Float[Array, "vocabulary width"],
    prompts: Sequences,
    targets: Sequences,
    *,
    reference: Callable[[Array, Array], Array] | None = None,
    weight: Scalar = 1.0,
) -> Partial:
    """Return the objective of a suffix that makes a model answer prompts with targets.

    mean over prompts x of NLL(target | x + suffix) + weight |h(x + suffix) - h_0(x + suffix)|^2:
    the first term the mean over the tokens of the target, in nats, the second over the positions
    of prompt and suffix, of the hidden states of one layer and those of the model before
    unlearning. One suffix for all prompts is universal.

    Args:
      apply: function of embeddings `[row, time, width]` and of their mask `[row, time]`, False
        for padding, to the logits `[row, time, vocabulary]` and hidden states
        `[row, time, state]` of the attacked model. Let it be a `jax.tree_util.Partial` of the
        parameters, so that a compiled search serves other models too.
      embedding: of all tokens, `[vocabulary, width]`.
      prompts: one a row, padded at the left with the mask False.
      targets: the wanted answer to each prompt, of one token or more, padded at the right.
      reference: as `apply`, to the hidden states alone, of the model before; it gets the
        embeddings of the attacked one. Without it the objective is the NLL.
      weight: of the second term, 0 or more.

    Returns:
      Function of the embeddings of a suffix `[position, width]` to a scalar, for `gcg`.

    Raises:
      ValueError: tokens beyond the vocabulary, masks of another shape, or not a target for each
        prompt; on use, hidden states of different shapes.

    Source: Łucki et al., "An adversarial perspective on machine unlearning for AI safety"
    (2024), and Zou et al. (2023).
    """
    check_floating(embedding=embedding)
    for name, texts in (("prompts", prompts), ("targets", targets)):
        check_texts(name, texts, vocabulary=len(embedding), shortest=1)
    if len(targets.tokens) != len(prompts.tokens):
        raise ValueError(f"targets: {len(targets.tokens)} rows; prompts has {len(prompts.tokens)}")
    return Partial(
        _objective,
        with_arrays(apply),
        None if reference is None else with_arrays(reference),
        (embedding[prompts.tokens], prompts.mask),
        (embedding[targets.tokens], targets),
        jnp.asarray(weight, embedding.dtype),
    )


def _objective(apply, reference, prompts, targets, weight, suffix: Array) -> Array:
    (before, before_mask), (after, target) = prompts, targets
    suffix = jnp.broadcast_to(suffix, (len(before), *suffix.shape))
    embedded = jnp.concatenate([before, suffix, after], axis=1)
    given = jnp.concatenate([before_mask, jnp.ones(suffix.shape[:2], bool)], axis=1)
    mask = jnp.concatenate([given, target.mask], axis=1)
    logits, hidden = apply(embedded, mask)
    # The last position of what is given predicts the first token of the target.
    tokens = jnp.pad(target.tokens, ((0, 0), (1, 0)))
    logp = token_log_prob(logits[:, given.shape[1] - 1 :], tokens)
    loss = -jnp.mean(_row_mean(logp, target.mask))
    if reference is None:
        return loss
    wanted = reference(embedded, mask)
    check_alike(hidden=hidden, reference=wanted)
    square = jnp.sum(jnp.square(hidden - wanted), axis=-1)
    return loss + weight * jnp.mean(_row_mean(square[:, : given.shape[1]], given))


def _row_mean(values: Array, mask: Array) -> Array:
    count = jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0), axis=-1) / count
