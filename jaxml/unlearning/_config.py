"""What a run of unlearning minimises and for how long, checked before anything is computed."""

import dataclasses
from typing import Literal, get_args

from jaxml import checks
from jaxml.unlearning._forget_batch import NEEDS, Objective
from jaxml.unlearning._methods import METHODS, method_name, objective_of
from jaxml.unlearning._sequences import Sequences, check_texts

Retain = Literal["none", "nll", "kl"]
RETAIN_TERMS: tuple[str, ...] = get_args(Retain)
"""Names of what may be done to the retain set."""


@dataclasses.dataclass(frozen=True)
class UnlearnConfig:
    """What is minimised and for how long; defaults are those of MUSE, of RMU those of its paper.

    Attributes:
      method: what is done to the forget set, by name: "ga" gradient ascent, with `retain="nll"`
        GradDiff; "npo", "simnpo" and the others of `OBJECTIVES`; "rmu" misdirects hidden states.
        Or an `Objective` of your own.
      retain: what is done to the retain set: "nll", as GDR; "kl" to the model before, as KLR.
        RMU has its own term.
      steps: of the optimizer.
      batch_size: sequences of each set in a step.
      learning_rate: of AdamW, constant; the default is for large models, small ones need 1e-3.
      beta: of the method; by default that of its `Objective`.
      retain_weight: factor of the retain term.
      rho: distance of a sharpness-aware forget step, see `sam_value_and_grad`; 0 is none.
      alpha: weight of RMU's retain term.
      scale: norm of RMU's target, see `rmu_control`.
    """

    method: str | Objective = "npo"
    retain: Retain = "nll"
    steps: int = 100
    batch_size: int = 4
    learning_rate: float = 1e-5
    beta: float | None = None
    retain_weight: float = 1.0
    rho: float = 0.0
    alpha: float = 100.0
    scale: float = 20.0


def check_unlearning(
    config: UnlearnConfig,
    forget: Sequences,
    retain: Sequences,
    alternative: Sequences | None,
    *,
    vocabulary: int | None = None,
) -> None:
    """Raise ValueError if settings or sets cannot be used.

    Args:
      config: of the run.
      forget: what to forget.
      retain: what to keep.
      alternative: for methods that need it, and only there.
      vocabulary: number of tokens, where it is known.
    """
    needs = _checked_needs(config.method)
    checks.choice(RETAIN_TERMS, retain=config.retain)
    checks.positive(learning_rate=config.learning_rate)
    checks.counts(steps=config.steps, batch_size=config.batch_size)
    checks.at_least(0, rho=config.rho, retain_weight=config.retain_weight, alpha=config.alpha)
    if (alternative is not None) != ("alternative" in needs):
        accepted = "texts, one a row of forget," if alternative is None else "None"
        shown = None if alternative is None else alternative.tokens
        raise checks.refused(
            "alternative", shown, f"{accepted} with method={method_name(config.method)!r}"
        )
    sets = {"forget": forget, "retain": retain, "alternative": alternative}
    for name, texts in sets.items():
        if texts is not None:
            check_texts(name, texts, vocabulary=vocabulary)
    if alternative is not None and len(alternative) != len(forget):
        accepted = f"{len(forget)} rows, one for each of forget"
        raise checks.refused("alternative", alternative.tokens, accepted)


def _checked_needs(method: str | Objective) -> frozenset[str]:
    if not isinstance(method, Objective):
        checks.choice(METHODS, method=method)
    if method == "rmu":
        return frozenset()
    needs = objective_of(method).needs
    if not (isinstance(needs, frozenset) and needs <= NEEDS):
        raise checks.refused("method.needs", needs, f"a frozenset of some of {sorted(NEEDS)}")
    return needs
