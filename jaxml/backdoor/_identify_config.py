"""Settings of `identify`: of the amplification, and of the steps of the mask."""

import dataclasses
import math

from jaxml import checks
from jaxml.backdoor._amplify import SCALES, check_amplification


@dataclasses.dataclass(frozen=True)
class IdentifyConfig:
    """Settings of `identify`; the defaults are the fast solver.

    Attributes:
      scales: factors of the amplification, above 0.
      shift: subtracted from the images before it.
      sparsity: lambda, the weight of |m|_1.
      rounds: times that the mask is fitted and the rows are split.
      steps: of the mask in a round. A pixel falls from 1 to 0 in about 100, so that fewer than
        120 leave a mask that means little.
      learning_rate: of the steps.
      momentum: of the steps; it is kept from round to round, as is the mask.
      weight_decay: of the mask.
      proximal: shrink the mask by learning_rate * sparsity / (1 - momentum) after each step
        instead of adding the subgradient of |m|_1 to it; it leaves exact zeros.
      flagged_only: a step takes `batch_size` pairs of a flagged row and a scale. In turn
        they are all such pairs, and their mean is weighted by the fraction of rows flagged: the
        expected gradient is that of the problem. Otherwise a step takes `batch_size` rows as
        they come, flagged or not, at every scale, as published.
      batch_size: of a step of the mask.
      score_batch_size: rows scored at a time, each at all scales.
    """

    scales: tuple[float, ...] = SCALES
    shift: float = 0.2
    sparsity: float = 0.01
    rounds: int = 4
    steps: int = 200
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    proximal: bool = False
    flagged_only: bool = True
    batch_size: int = 128
    score_batch_size: int = 64

    @classmethod
    def reference(cls, *, rows: int = 50_000, epochs: int = 10) -> "IdentifyConfig":
        """Return the published solver: all rows in order, 1000 a step, `epochs` times a round.

        Gradients are taken a scale at a time, each with the logits of the images computed
        anew. Corrected are two faults of the released code: the last batch is not dropped but
        averaged over the rows it has, and the first split uses the shift.

        Args:
          rows: number of images; below 12,000 raise `epochs`, so that a round has 120 steps.
          epochs: passes over the data in a round.

        Source: the settings of Pal et al. (ICLR 2024) for CIFAR-10.
        """
        return cls(steps=epochs * math.ceil(rows / 1000), flagged_only=False, batch_size=1000)


def check_config(config: IdentifyConfig) -> None:
    """Accept settings that are all in their range."""
    check_amplification(config.shift, config.scales, config.score_batch_size)
    checks.counts(rounds=config.rounds, steps=config.steps, batch_size=config.batch_size)
    checks.at_least(0, sparsity=config.sparsity, weight_decay=config.weight_decay)
    checks.positive(learning_rate=config.learning_rate)
    if not 0 <= config.momentum < 1:
        raise checks.refused("momentum", config.momentum, "0 or more and below 1")
