"""Whether scores of membership give away what was unlearned."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml import checks, ranks
from jaxml.precision import half_as_single


@half_as_single
def privacy_leakage(
    forget: Float[Array, " forget"],
    holdout: Float[Array, " holdout"],
    retrained_forget: Float[Array, " retrained_forget"],
    retrained_holdout: Float[Array, " retrained_holdout"],
) -> Float[Array, ""]:
    """Return how far membership shows, against a model retrained without the forget set.

    100 (a - r) / r in percent (PrivLeak), where a is the chance that a text held out looks more
    known than one of the forget set, r that of the retrained model. It is near 0 for good
    unlearning, -100 for a model that knows the forget set, above 0 where too much was
    unlearned. With a published r, such as .4772 for MUSE News and .5393 for Books, take
    `auroc` for a.

    Args:
      forget: scores of membership of the forget set, `[forget]`, high for known texts, such as
        of `min_k_prob`.
      holdout: those of texts never trained on, `[holdout]`.
      retrained_forget: scores of the forget set under the retrained model.
      retrained_holdout: those of texts never trained on, under the retrained model.

    Returns:
      Percent.

    Raises:
      ValueError: a score is not floating-point of one axis, or there are none.

    Source: Shi et al., "MUSE: machine unlearning six-way evaluation for language models" (ICLR
    2025).
    """
    retrained = auroc(retrained_holdout, retrained_forget)
    return 100 * (auroc(holdout, forget) - retrained) / retrained


@half_as_single
def auroc(
    positive: Float[Array, " positive"], negative: Float[Array, " negative"]
) -> Float[Array, ""]:
    """Return the area under the ROC curve of scores that are high for the positive.

    It is the chance that a positive scores above a negative, ties by half.

    Args:
      positive: scores `[positive]`.
      negative: scores `[negative]`.

    Returns:
      0 to 1; NaN if a score is NaN.

    Raises:
      ValueError: a score is not floating-point of one axis, or there are none.
    """
    checks.rows(positive=positive)
    checks.rows(negative=negative)
    scores = jnp.concatenate([positive, negative.astype(positive.dtype)])
    is_positive = jnp.arange(scores.size, dtype=jnp.int32) < positive.size
    return ranks.auroc(scores, is_positive)
