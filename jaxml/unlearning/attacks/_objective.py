"""What an attacking suffix is to lower: the loss of targets, with hidden states as before."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.tracing import as_partial
from jaxml.unlearning._counted import counted_mean
from jaxml.unlearning._forget_batch import Scalar
from jaxml.unlearning._log_prob import token_log_prob
from jaxml.unlearning._sequences import Texts, check_texts, sequences


def attack_objective(
    apply: Callable[[Array, Array], tuple[Array, Array]],
    embedding: Float[Array, "vocabulary width"],
    prompts: Texts,
    targets: Texts,
    *,
    behind: Texts | None = None,
    reference: Callable[[Array, Array], Array] | None = None,
    weight: Scalar = 1.0,
) -> Partial:
    """Return the objective of a suffix that makes a model answer prompts with targets.

    mean over prompts x of NLL(target | x + suffix) + weight |h(x + suffix) - h_0(x + suffix)|^2,
    where "+ suffix" stands for the suffix and what is `behind` it:
    the first term the mean over the tokens of the target, in nats, the second over all positions
    before the target, of the hidden states of one layer and those of the model before
    unlearning. One suffix for all prompts is universal.

    Args:
      apply: function of embeddings `[row, time, width]` and of their mask `[row, time]`, False
        for padding, to the logits `[row, time, vocabulary]` and hidden states
        `[row, time, state]` of the attacked model. Let it be a `jax.tree_util.Partial` of the
        parameters, so that a compiled search serves other models too.
      embedding: of all tokens, `[vocabulary, width]`.
      prompts: one a row, padded at the left with the mask False; these and all other texts are
        `Sequences`, or plain tokens `[row, time]`, all of which count.
      targets: the wanted answer to each prompt, of one token or more, padded at the right.
      behind: what comes between suffix and target, one a row, unpadded: the end of a chat
        template, or the prompt itself, where `prompts` are first tokens: a suffix in front.
      reference: as `apply`, to the hidden states alone, of the model before; it gets the
        embeddings of the attacked one. Without it the objective is the NLL.
      weight: of the second term, 0 or more.

    Returns:
      Function of the embeddings of a suffix `[position, width]` to a scalar, for `gcg`.

    Raises:
      ValueError: tokens beyond the vocabulary, masks of another shape, or not a target (or text
        behind) for each prompt; on use, hidden states of different shapes.

    Source: Łucki et al., "An adversarial perspective on machine unlearning for AI safety"
    (2024), and Zou et al. (2023).
    """
    checks.floating(embedding=embedding)
    checks.axes("vocabulary width", embedding=embedding)
    named = {"prompts": prompts, "behind": behind, "targets": targets}
    parts = {name: sequences(texts) for name, texts in named.items() if texts is not None}
    rows = len(parts["prompts"])
    for name, texts in parts.items():
        limits = {"vocabulary": len(embedding), "shortest": 1}
        check_texts(name, texts, **limits, left_padding=name == "prompts")
        if len(texts) != rows:
            raise checks.refused(name, texts.tokens, f"{rows} rows, as many as prompts")

    def embedded(tokens):
        rows = embedding.at[tokens]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    return Partial(
        _objective,
        as_partial(apply),
        None if reference is None else as_partial(reference),
        [(embedded(texts.tokens), texts.mask) for texts in parts.values()],
        parts["targets"].tokens,
        jnp.asarray(weight, embedding.dtype),
    )


def _objective(apply, reference, parts, target_tokens, weight, suffix: Array) -> Array:
    prompt, *later = parts
    tiled = jnp.broadcast_to(suffix, (len(target_tokens), *suffix.shape))
    own = tiled, jnp.ones(tiled.shape[:2], bool)
    embedded, mask = (
        jnp.concatenate(arrays, axis=1) for arrays in zip(prompt, own, *later, strict=True)
    )
    logits, hidden = apply(embedded, mask)
    counted = later[-1][1]
    start = mask.shape[1] - counted.shape[1]
    # The last position before the target predicts its first token.
    tokens = jnp.pad(target_tokens, ((0, 0), (1, 0)))
    logp = token_log_prob(logits[:, start - 1 :], tokens)
    loss = -jnp.mean(counted_mean(logp, counted, name="targets", axis=-1))
    if reference is None:
        return loss
    wanted = reference(embedded, mask)
    checks.same_shape(hidden=hidden, reference=wanted)
    square = jnp.sum(jnp.square(hidden - wanted), axis=-1)
    distance = counted_mean(square[:, :start], mask[:, :start], name="hidden states", axis=-1)
    return loss + weight * jnp.mean(distance)
