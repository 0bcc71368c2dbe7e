"""The claims of the paper on coresets, each with what was measured and whether it holds."""

from typing import NamedTuple

import numpy as np

from jaxml.output.report import Table
from jaxml.reproduce.coreset.results import (
    ATTACKS,
    KEYWORDS,
    Results,
    barriers,
    interval,
    kept,
    percent,
    recovered,
    scores,
    text,
)

# Share of the whole set's forgetting, points of utility, share of the rise of the loss that a path
# may lose, and points of recitation after an attack.
KEPT, UTILITY, BARRIER, ATTACK = 0.9, 3.0, 0.1, 10.0


class Claim(NamedTuple):
    """A row of the table.

    Attributes:
      claim: what is said.
      measured: the numbers.
      holds: "yes", "no", or why neither.
    """

    claim: str
    measured: str
    holds: str


def claims_table(results: Results) -> Table:
    """Return the claims for each main objective.

    Args:
      results: of the study.
    """
    claims = (
        _a_part_forgets_as_all,
        _scores_gain_little,
        _keywords_carry_most,
        _a_path_joins_both,
        _attacks_bring_out_as_much,
    )
    rows = [claim(results, name) for name in results.grid.objectives for claim in claims]
    return Table(
        f"Claims of the paper{results.spread}", ("claim", "measured", "holds"), tuple(rows)
    )


def _a_part_forgets_as_all(results: Results, objective: str) -> Claim:
    shares = kept(results, objective, results.random_part)
    own = scores(results, f"{objective}, {results.random_part}")
    lost = (scores(results, objective) - own)[:, [1, 3]]
    means = [known.mean() for known in map(_known, shares.T) if known.size]
    return Claim(
        claim=f"{objective}: a random {results.part} forgets as all, {KEPT:.0%} at least",
        measured=f"VerbMem {percent(shares[:, 0])}, KnowMem {percent(shares[:, 1])}; retain book, "
        f"points lost: VerbMem {text(lost[:, 0])}, KnowMem {text(lost[:, 1])}",
        holds=_yes(min(means, default=0) >= KEPT and lost.mean(0).max() <= UTILITY),
    )


def _scores_gain_little(results: Results, objective: str) -> Claim:
    chance = kept(results, objective, results.random_part)
    compared = results.grid.compared
    gains = [
        (kept(results, objective, f"{score} {compared:g}") - chance)[:, 0]
        for score in results.grid.scores
        if score != "random"
    ]
    measured, half = interval(np.mean(gains, axis=0))
    return Claim(
        claim=f"{objective}: scores gain less than {1 - KEPT:.0%} over chance",
        measured=f"their mean less random's, VerbMem kept: {measured}",
        holds=_yes_within(float(abs(np.mean(gains))), half, 1 - KEPT),
    )


def _keywords_carry_most(results: Results, objective: str) -> Claim:
    alone = kept(results, objective, KEYWORDS[0])[:, 0]
    without = kept(results, objective, KEYWORDS[3])[:, 0]
    return Claim(
        claim=f"{objective}: keywords carry most of it, the rest does not",
        measured=f"keywords {percent(alone)}, all but keywords {percent(without)}",
        holds=_yes(alone.mean() >= 0.5 > without.mean()),
    )


def _a_path_joins_both(results: Results, objective: str) -> Claim:
    height = barriers(results, objective)
    return Claim(
        claim=f"{objective}: a straight path joins both models, barrier at most "
        f"{BARRIER:.0%} of the rise of the loss",
        measured=f"forget {percent(height[:, 0])}, retain {percent(height[:, 1])}",
        holds=_yes(height.mean(0).max() <= BARRIER),
    )


def _attacks_bring_out_as_much(results: Results, objective: str) -> Claim:
    gap = recovered(results, objective, "some") - recovered(results, objective, "all")
    return Claim(
        claim=f"{objective}: attacks bring out as much of either, within {ATTACK:g} points",
        measured="; ".join(f"{name} {text(gap[:, i])}" for i, name in enumerate(ATTACKS)),
        holds=_yes(np.abs(gap.mean(0)).max() <= ATTACK),
    )


def _yes(holds) -> str:
    return "yes" if holds else "no"


def _yes_within(mean: float, half: float, most: float) -> str:
    """Return whether a value is within `most` as far as its interval tells."""
    half = np.nan_to_num(half)
    if mean + half <= most:
        return "yes"
    return "no" if mean - half > most else "open: too few seeds"


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
