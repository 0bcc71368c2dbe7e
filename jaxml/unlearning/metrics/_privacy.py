"""Whether scores of membership give away what was unlearned."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml.unlearning._validate import check_rows


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
    `auc` for a.

    Args:
      forget: scores of membership of the forget set, `[forget]`, high for known texts, such as
        of `min_k_prob`.
      holdout: those of texts never trained on, `[holdout]`.
      retrained_forget: scores of the forget set under the retrained model.
      retrained_holdout: those of texts never trained on, under the retrained model.

    Raises:
      ValueError: a score is not floating-point of one axis, or there are none.

    Source: Shi et al., "MUSE: machine unlearning six-way evaluation for language models" (ICLR
    2025).
    """
    retrained = auc(retrained_holdout, retrained_forget)
    return 100 * (auc(holdout, forget) - retrained) / retrained


def auc(
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
    check_rows(positive=positive)
    check_rows(negative=negative)
    ordered = jnp.sort(negative)
    below, up_to = (jnp.searchsorted(ordered, positive, side=side) for side in ("left", "right"))
    chance = jnp.mean((below + up_to).astype(positive.dtype)) / (2 * negative.size)
    missing = jnp.any(jnp.isnan(positive)) | jnp.any(jnp.isnan(negative))
    return jnp.where(missing, jnp.nan, chance)
