"""Losses of unlearning on the log-probabilities of sequences, from any language model.

`logp` is `[sequence]`: the sum over the tokens that count, as of `sequence_log_prob`; `lengths`
is `[sequence]`: their number. Every loss is a scalar to be minimised. A reference is a constant:
log-probabilities under the model before unlearning. The sums of a loss and a retain term, such
as NPO + `nll` (GDR) or NPO + `kl_retain` (KLR), are the caller's.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.unlearning._counted import check_values
from jaxml.unlearning._forget_batch import Objective, Scalar

Normalization = Literal["sequence_sum", "batch_token_mean", "muse_logits"]


@half_as_single
def nll(
    logp: Float[Array, " sequence"], *, lengths: Integer[Array, " sequence"] | None = None
) -> Float[Array, ""]:
    """Return the negative log-likelihood: the retain term, and the loss of training.

    Args:
      logp: `[sequence]`, in nats.
      lengths: `[sequence]`. With them the mean over all tokens of the batch, the loss of Hugging
        Face models; without, the mean over sequences of their sums.

    Returns:
      The loss; 0 for a batch in which no token counts.

    Raises:
      ValueError: not one axis, another length, or a wrong dtype.
    """
    return -_mean(logp, lengths)


@half_as_single
def gradient_ascent(
    logp: Float[Array, " sequence"], *, lengths: Integer[Array, " sequence"] | None = None
) -> Float[Array, ""]:
    """Return minus the `nll` of what is to be forgotten.

    Args:
      logp: `[sequence]`, in nats.
      lengths: `[sequence]`, as for `nll`.

    Returns:
      The loss; 0 for a batch in which no token counts.

    Raises:
      ValueError: not one axis, another length, or a wrong dtype.
    """
    return _mean(logp, lengths)


@half_as_single
def grad_diff(
    logp: Float[Array, " sequence"],
    retain_logp: Float[Array, " retain"],
    *,
    lengths: Integer[Array, " sequence"] | None = None,
    retain_lengths: Integer[Array, " retain"] | None = None,
    forget_weight: Scalar = 1.0,
    retain_weight: Scalar = 1.0,
) -> Float[Array, ""]:
    """Return gradient ascent on one batch and descent on another (GradDiff).

    Args:
      logp: of what is to be forgotten, `[sequence]`, in nats.
      retain_logp: of what is to be kept, `[retain]`.
      lengths: `[sequence]`, as for `nll`.
      retain_lengths: `[retain]`, as for `nll`.
      forget_weight: factor of the first term.
      retain_weight: factor of the second term.

    Returns:
      The loss.

    Raises:
      ValueError: not one axis, another length, or a wrong dtype.

    Source: Liu et al., "Continual learning and private unlearning" (CoLLAs 2022).
    """
    forget = gradient_ascent(logp, lengths=lengths)
    retain = -_mean(retain_logp, retain_lengths, prefix="retain_")
    return forget_weight * forget + retain_weight * retain


@half_as_single
def npo(
    logp: Float[Array, " *shape"],
    reference_logp: Float[Array, " *shape"],
    *,
    beta: Scalar = 0.1,
    normalization: Normalization = "sequence_sum",
    lengths: Integer[Array, " sequence"] | None = None,
) -> Float[Array, ""]:
    """Return the loss of negative preference optimization.

    -2 / beta mean log sigmoid(-beta (logp - reference_logp)). Where model and reference agree it
    is 2 log 2 / beta, with the gradient of `gradient_ascent`; so it is for all logp as beta
    goes to 0.

    Args:
      logp: `[sequence]`, in nats; raw logits of any shape for "muse_logits".
      reference_logp: log-probabilities, or raw logits, under the reference.
      beta: inverse temperature, above 0. Its meaning depends on `normalization`: 0.1 suits sums
        over sequences, 0.0225 was used for WMDP with token means.
      normalization: "sequence_sum": the argument of the sigmoid is that of a sequence, as the
        paper has it. "batch_token_mean": it is the mean over all tokens of the batch, as
        released for WMDP; takes `lengths`. "muse_logits": it is that of each logit of the
        vocabulary, without softmax, as the code of MUSE has it.
      lengths: `[sequence]`, for "batch_token_mean" only.

    Returns:
      The loss, above 0.

    Raises:
      ValueError: shapes that do not fit each other or `normalization`, a wrong dtype, `beta`
        not positive, or `lengths` missing or not wanted.

    Source: Zhang et al., "Negative preference optimization: from catastrophic collapse to
    effective unlearning" (COLM 2024).
    """
    checks.choice(get_args(Normalization), normalization=normalization)
    checks.positive(beta=beta)
    if (lengths is not None) != (normalization == "batch_token_mean"):
        accepted = "None" if lengths is not None else "integers, one a sequence"
        raise checks.refused("lengths", lengths, f"{accepted} with {normalization=}")
    if normalization == "muse_logits":
        check_values(logp=logp)
        checks.same_shape(logp=logp, reference_logp=reference_logp)
    else:
        checks.rows(logp=logp, reference_logp=reference_logp)
    if normalization == "batch_token_mean":
        logp, reference_logp = _mean(logp, lengths), _mean(reference_logp, lengths)
    return _preference(_logarithm(reference_logp) - logp, beta)


@half_as_single
def simnpo(
    logp: Float[Array, " sequence"],
    lengths: Integer[Array, " sequence"],
    *,
    beta: Scalar = 2.5,
    gamma: Scalar = 0.0,
) -> Float[Array, ""]:
    """Return the loss of NPO without a reference (SimNPO).

    -2 / beta mean log sigmoid(beta (-logp / lengths - gamma)).

    Args:
      logp: `[sequence]`, in nats.
      lengths: `[sequence]`; a sequence of none counts as one of -logp = 0.
      beta: inverse temperature, above 0.
      gamma: margin in nats a token, as the released code has it: the paper's, over beta.

    Returns:
      The loss, above 0.

    Raises:
      ValueError: not one axis, another length, a wrong dtype, or `beta` not positive.

    Source: Fan et al., "Simplicity prevails: rethinking negative preference optimization for
    LLM unlearning" (2024).
    """
    checks.positive(beta=beta)
    checks.rows(logp=logp)
    _check_lengths(lengths, logp)
    return _preference(-logp / jnp.maximum(lengths, 1).astype(logp.dtype) - gamma, beta)


@half_as_single
def dpo(
    logp: Float[Array, " sequence"],
    alternative_logp: Float[Array, " sequence"],
    reference_logp: Float[Array, " sequence"],
    reference_alternative_logp: Float[Array, " sequence"],
    *,
    beta: Scalar = 0.1,
) -> Float[Array, ""]:
    """Return the loss of preferring an alternative answer, such as "I don't know", to the true one.

    -2 / beta mean log sigmoid(beta ((a - f) - (a_ref - f_ref))); the factor 2 is that of NPO.

    Args:
      logp: of the answer to be forgotten, f, `[sequence]`, in nats.
      alternative_logp: of the alternative to the same question, a, `[sequence]`.
      reference_logp: f_ref, `[sequence]`, under the reference.
      reference_alternative_logp: a_ref, `[sequence]`, under the reference.
      beta: inverse temperature, above 0.

    Returns:
      The loss, above 0.

    Raises:
      ValueError: not one axis, another length, a wrong dtype, or `beta` not positive.

    Source: Rafailov et al., "Direct preference optimization" (NeurIPS 2023), equation 7.
    """
    checks.positive(beta=beta)
    checks.rows(
        logp=logp,
        alternative_logp=alternative_logp,
        reference_logp=reference_logp,
        reference_alternative_logp=reference_alternative_logp,
    )
    alternative_logp, reference_logp = map(_logarithm, (alternative_logp, reference_logp))
    margin = (alternative_logp - logp) - (reference_alternative_logp - reference_logp)
    return _preference(margin, beta)


@half_as_single
def idk_nll(
    alternative_logp: Float[Array, " sequence"],
    alternative_lengths: Integer[Array, " sequence"],
    retain_logp: Float[Array, " retain"],
    retain_lengths: Integer[Array, " retain"],
) -> Float[Array, ""]:
    """Return the `nll` of "I don't know" answers and of what is to be kept, as one batch.

    Args:
      alternative_logp: of the alternative answers, `[sequence]`, in nats.
      alternative_lengths: number of tokens of each alternative answer, `[sequence]`.
      retain_logp: of what is to be kept, `[retain]`.
      retain_lengths: number of tokens of each sequence to be kept, `[retain]`.

    Returns:
      The loss; 0 for a batch in which no token counts.

    Raises:
      ValueError: not one axis, another length, or a wrong dtype.

    Source: Maini et al., "TOFU: a task of fictitious unlearning for LLMs" (COLM 2024).
    """
    checks.rows(alternative_logp=alternative_logp)
    checks.rows(retain_logp=retain_logp)
    _check_lengths(alternative_lengths, alternative_logp, prefix="alternative_")
    _check_lengths(retain_lengths, retain_logp, prefix="retain_")
    logp = jnp.concatenate([alternative_logp, retain_logp])
    return nll(logp, lengths=jnp.concatenate([alternative_lengths, retain_lengths]))


def _logarithm(logp: Array) -> Array:
    """Return log-probabilities with NaN for +infinity, which is none and whose loss would be 0."""
    # A product, so that the gradient is NaN, too.
    return logp * jnp.where(logp < jnp.inf, 1, jnp.nan)


def _preference(margin: Array, beta: Scalar) -> Array:
    return -2 / beta * jnp.mean(jax.nn.log_sigmoid(beta * margin))


def _mean(logp: Array, lengths: Array | None, *, prefix: str = "") -> Array:
    checks.rows(**{f"{prefix}logp": logp})
    if lengths is None:
        return jnp.mean(logp)
    _check_lengths(lengths, logp, prefix=prefix)
    return jnp.sum(logp) / jnp.maximum(jnp.sum(lengths), 1).astype(logp.dtype)


def _check_lengths(lengths: Array, logp: Array, *, prefix: str = "") -> None:
    checks.same_shape(**{f"{prefix}logp": logp, f"{prefix}lengths": lengths})
    checks.integers(**{f"{prefix}lengths": lengths})


# With what they need, as methods of `unlearn`.
SEQUENCE_OBJECTIVES: dict[str, Objective] = {
    # Gradient ascent; with the retain term "nll" it is GradDiff.
    "ga": Objective(lambda batch, beta: gradient_ascent(batch.logp, lengths=batch.lengths)),
    # Negative preference: with a reference, and without.
    "npo": Objective(
        lambda batch, beta: npo(batch.logp, batch.reference_logp, beta=beta),
        needs=frozenset({"reference"}),
        beta=0.1,
    ),
    "simnpo": Objective(lambda batch, beta: simnpo(batch.logp, batch.lengths, beta=beta), beta=2.5),
    # Alternative answers: preferred to the true ones, and learnt.
    "dpo": Objective(
        lambda batch, beta: dpo(
            batch.logp,
            batch.alternative_logp,
            batch.reference_logp,
            batch.alternative_reference_logp,
            beta=beta,
        ),
        needs=frozenset({"reference", "alternative"}),
        beta=0.1,
    ),
    "idk": Objective(
        lambda batch, beta: nll(batch.alternative_logp, lengths=batch.alternative_lengths),
        needs=frozenset({"alternative"}),
    ),
}
