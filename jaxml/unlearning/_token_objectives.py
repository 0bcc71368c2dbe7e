"""Losses of unlearning that need more than the sum over a sequence: tokens, or whole logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.unlearning._counted import check_values, counted_mean, row_sums
from jaxml.unlearning._forget_batch import Objective, Scalar
from jaxml.unlearning._objectives import nll


@half_as_single
def wga(
    logp: Float[Array, "*batch token"], mask: Bool[Array, "*batch token"], *, beta: Scalar = 1.0
) -> Float[Array, ""]:
    """Return gradient ascent with weights p^beta: tokens already forgotten are let alone.

    mean of p^beta log p over the tokens that count, the weight a constant.

    Args:
      logp: log p of each token, `[*batch, token]`, in nats, as of `token_log_prob`.
      mask: `[*batch, token]`, True where a token counts: `mask[..., 1:]` of the text.
      beta: exponent of the weight, 0 or more; 0 is `gradient_ascent` with lengths.

    Returns:
      The loss; 0 for a batch in which no token counts.

    Raises:
      ValueError: the shapes differ, a wrong dtype, or a negative `beta`.

    Source: Wang et al., "Rethinking LLM unlearning objectives: a gradient perspective and go
    beyond" (ICLR 2025).
    """
    return satimp(logp, mask, beta1=beta, beta2=0.0)


@half_as_single
def satimp(
    logp: Float[Array, "*batch token"],
    mask: Bool[Array, "*batch token"],
    *,
    beta1: Scalar = 5.0,
    beta2: Scalar = 1.0,
) -> Float[Array, ""]:
    """Return gradient ascent with weights of saturation and importance, p^beta1 (1 - p)^beta2.

    mean of p^beta1 (1 - p)^beta2 log p over the tokens that count, the weight a constant.

    Args:
      logp: log p of each token, `[*batch, token]`, in nats, as of `token_log_prob`.
      mask: `[*batch, token]`, True where a token counts: `mask[..., 1:]` of the text.
      beta1: exponent of p, 0 or more.
      beta2: exponent of 1 - p, 0 or more.

    Returns:
      The loss; 0 for a batch in which no token counts.

    Raises:
      ValueError: the shapes differ, a wrong dtype, or a negative exponent.

    Source: Yang et al., "Exploring criteria of loss reweighting to enhance LLM unlearning"
    (ICML 2025).
    """
    check_values(logp=logp)
    checks.mask(mask, logp=logp)
    checks.at_least(0, beta1=beta1, beta2=beta2)
    logp = jnp.where(mask, logp, 0)
    constant = jax.lax.stop_gradient(logp)
    weight = jnp.exp(beta1 * constant) * (-jnp.expm1(constant)) ** beta2
    return counted_mean(weight * logp, mask, name="logp")


@half_as_single
def mean_nll(
    logp: Float[Array, "sequence token"], mask: Bool[Array, "sequence token"]
) -> Float[Array, ""]:
    """Return minus the mean log-probability of the tokens that count: the loss of training.

    Args:
      logp: log p of each token, `[sequence, token]`, in nats, as of `token_log_prob`.
      mask: `[sequence, token]`, True where a token counts: `mask[..., 1:]` of the text.

    Returns:
      The loss in nats a token; 0 for a batch in which no token counts.

    Raises:
      ValueError: the shapes differ or a wrong dtype.
    """
    check_values(logp=logp)
    checks.mask(mask, logp=logp)
    return nll(row_sums(logp, mask), lengths=jnp.sum(mask, axis=-1, dtype=jnp.int32))


@half_as_single
def kl_retain(
    logits: Float[Array, "*batch time vocabulary"],
    reference_logits: Float[Array, "*batch time vocabulary"],
    *,
    mask: Bool[Array, "*batch time"] | None = None,
) -> Float[Array, ""]:
    """Return the divergence KL(reference || model) of the next token, a retain term (KLR).

    The mean over positions of sum_v q_v (log q_v - log p_v), q of the reference.

    Args:
      logits: of the model, `[*batch, time, vocabulary]`.
      reference_logits: of the reference, of the same shape.
      mask: positions that count, `[*batch, time]`; all of them by default, padding included, as
        the released code of NPO has it.

    Returns:
      The divergence in nats; 0 if no position counts.

    Raises:
      ValueError: the shapes differ or a wrong dtype.
    """
    check_values(logits=logits, reference_logits=reference_logits)
    checks.same_shape(logits=logits, reference_logits=reference_logits)
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference_logits)
    q = jnp.exp(log_q)
    # A token that the reference excludes adds q log q = 0; NaN is no such token.
    divergence = jnp.sum(jnp.where(q == 0, 0, q * (log_q - log_p)), axis=-1)
    return counted_mean(divergence, mask, name="logits without their last axis")


# As methods of `unlearn`.
TOKEN_OBJECTIVES: dict[str, Objective] = {
    # Ascent with a weight of each token.
    "wga": Objective(lambda batch, beta: wga(batch.token_logp, batch.counted, beta=beta), beta=1.0),
    "satimp": Objective(lambda batch, beta: satimp(batch.token_logp, batch.counted)),
}
