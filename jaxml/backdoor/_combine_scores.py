"""One score from several: the evidence of their upper tails added up."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxml import checks, ranks
from jaxml.tracing import nan_unless


def combine_scores(
    scores: Mapping[str, Float[Array, " row"]] | Float[Array, "score row"],
) -> Float[Array, " row"]:
    """Combine scores of suspicion by Fisher's method on their ranks.

    The mean over scores of -ln(1 - r), r in (0, 1) the row's mid-rank in the score. By ranks
    any monotone scale of a score is the same. A score that knows nothing adds a bounded
    disturbance, of variance 1 before the mean, and one that ranks a row in the top per cent
    adds more than 4: it is the agreement of a few upper tails that counts, not the lower ranks.
    A score that ranks poisoned rows low does harm; no weight is learnt from the data.

    Meant for `class_split` of pooled late activations and of FLARE's likelihoods,
    `baselines.flare`, and minus the loss of the network, where training ended before it fitted
    all rows.

    Args:
      scores: higher is more suspicious, by name `[row]` each, or stacked `[score, row]`.

    Returns:
      Scores `[row]`, above 0, higher is more suspicious.

    Raises:
      ValueError: there is no score or no row, scores differ in length or type, or are not
        finite floating-point numbers. Values are looked at where concrete.

    Source: Fisher 1925 (Statistical methods for research workers) for the sum.
    """
    if isinstance(scores, Mapping):
        shapes = {name: checks.described(score) for name, score in scores.items()}
        if len(set(shapes.values())) != 1:
            raise checks.refused("scores", shapes, "one or more, all [row] of one dtype")
        scores = jnp.stack(list(scores.values()))
    checks.axes("score row", scores=scores)
    checks.floating(scores=scores)
    checks.finite(scores=scores)
    evidence = jnp.mean(jax.vmap(_tail_evidence)(scores), axis=0)
    return nan_unless(jnp.all(jnp.isfinite(scores)), evidence)


def _tail_evidence(score):
    share = (ranks.mid_ranks(score) - 0.5) / score.shape[0]
    return -jnp.log1p(-share).astype(score.dtype)
