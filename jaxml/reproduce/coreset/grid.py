"""What the study of coresets compares."""

import dataclasses

from jaxml.llm._score import Score


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is compared.

    Attributes:
      fractions: of the forget set, rising, below 1.
      scored: those at which all scores are compared; at the others chance alone.
      compared: one of `scored`, for the claims, paths and attacks.
      factors: of the steps, with which that part is unlearnt too.
      scores: names of `chunk_scores`; "random" among them.
      objectives: names of `METHODS` run with every score.
      others: those run with "random" alone.
      words: number of keywords.
      points: of a path.
      relearnt: chunks that an attacker trains on.
      attack_steps: of relearning, and of the search for tokens.
      suffix: tokens that the search finds.
      candidates: exchanges tried in a step of it.
    """

    fractions: tuple[float, ...]
    scored: tuple[float, ...]
    compared: float
    factors: tuple[float, ...]
    scores: tuple[Score, ...]
    objectives: tuple[str, ...]
    others: tuple[str, ...]
    words: int
    points: int
    relearnt: int
    attack_steps: int
    suffix: int
    candidates: int
