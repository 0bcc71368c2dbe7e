"""The measures of TOFU: truth ratio, probability of the right answer, model utility.

A log-probability here is the mean over the tokens of an answer, in nats, as of `loss_score`.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.tracing import known, nan_unless
from jaxml.unlearning._counted import check_values

Mean = Literal["arithmetic", "geometric"]


@half_as_single
def truth_ratio(
    paraphrased_logp: Float[Array, " *batch"],
    perturbed_logp: Float[Array, "*batch perturbed"],
    *,
    mean: Mean = "arithmetic",
) -> Float[Array, " *batch"]:
    """Return how likely wrong answers are, in units of a right one.

    mean_j exp(perturbed_j) / exp(paraphrased). Knowing models are below 1.

    Args:
      paraphrased_logp: of the right answer in other words, `[*batch]`, per token.
      perturbed_logp: of each wrong answer, `[*batch, perturbed]`, per token.
      mean: over the wrong answers: "arithmetic", as TOFU has it for `truth_score`, or
        "geometric", as it has it for `forget_quality`.

    Returns:
      `[*batch]`, above 0.

    Raises:
      ValueError: the shapes do not fit, a wrong dtype, or an unknown mean.

    Source: Maini et al., "TOFU: a task of fictitious unlearning for LLMs" (COLM 2024), and
    its released code.
    """
    checks.choice(get_args(Mean), mean=mean)
    _check_answers(paraphrased_logp=paraphrased_logp, perturbed_logp=perturbed_logp)
    # A log-probability of +infinity is none, and its ratio would be 0.
    paraphrased_logp = nan_unless(paraphrased_logp < jnp.inf, paraphrased_logp)
    if mean == "geometric":
        return jnp.exp(jnp.mean(perturbed_logp, axis=-1) - paraphrased_logp)
    # Differences first: exp of a long answer's total would underflow.
    return jnp.mean(jnp.exp(perturbed_logp - paraphrased_logp[..., None]), axis=-1)


@half_as_single
def truth_score(ratio: Float[Array, " row"], *, forget: bool = False) -> Float[Array, ""]:
    """Return the mean of the truth ratios as a score of 0 to 1.

    mean max(0, 1 - R) by default: high for a model that prefers the truth. mean min(R, 1 / R)
    of the forget set: high for a model that does not tell one from the other.

    Args:
      ratio: arithmetic ones, `[row]`, as of `truth_ratio`.
      forget: whether the rows are of the forget set.

    Returns:
      A scalar, 0 to 1.

    Raises:
      ValueError: not one axis, or a wrong dtype.

    Source: as for `truth_ratio`.
    """
    checks.rows(ratio=ratio)
    return jnp.mean(jnp.minimum(ratio, 1 / ratio) if forget else jnp.maximum(1 - ratio, 0))


@half_as_single
def relative_probability(
    true_logp: Float[Array, " *batch"], false_logp: Float[Array, "*batch false"]
) -> Float[Array, " *batch"]:
    """Return the probability of the right answer among those given.

    p / (p + sum_j p_j), of real authors and world facts.

    Args:
      true_logp: of the right answer, `[*batch]`, per token.
      false_logp: of each wrong one, `[*batch, false]`, per token.

    Returns:
      `[*batch]`, 0 to 1.

    Raises:
      ValueError: the shapes do not fit or a wrong dtype.

    Source: as for `truth_ratio`.
    """
    _check_answers(true_logp=true_logp, false_logp=false_logp)
    every = jnp.concatenate([true_logp[..., None], false_logp], axis=-1)
    return jax.nn.softmax(every, axis=-1)[..., 0]


@half_as_single
def model_utility(scores: Float[Array, " score"] | Sequence[float]) -> Float[Array, ""]:
    """Return the harmonic mean of scores, 0 if one of them is 0.

    TOFU takes nine: probability, ROUGE-L recall and `truth_score` of each of the retain set,
    real authors and world facts.

    Args:
      scores: `[score]`, 0 or more.

    Returns:
      A scalar, 0 or more; NaN where a score is not, and that cannot be seen, as under `jax.jit`.

    Raises:
      ValueError: there is none, not one axis, or one is negative or not finite.

    Source: as for `truth_ratio`.
    """
    scores = jnp.asarray(scores)
    checks.rows(scores=scores)
    accepted = lambda scores: jnp.all((scores >= 0) & (scores < jnp.inf))
    if not known(scores, accepted):
        wrong = "negative numbers, NaN or infinity"
        raise checks.refused("scores", scores, "0 or more", holds=wrong)
    return nan_unless(accepted(scores), scores.size / jnp.sum(1 / scores))


def _check_answers(**answers: Array) -> None:
    (right_name, right), (wrong_name, wrong) = answers.items()
    check_values(**{right_name: right, wrong_name: wrong})
    if wrong.shape[:-1] != right.shape or wrong.ndim == 0:
        shape = ", ".join([*map(str, right.shape), "answer"])
        raise checks.refused(wrong_name, wrong, f"[{shape}], one row for each of {right_name}")
