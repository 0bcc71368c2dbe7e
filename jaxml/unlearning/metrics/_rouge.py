"""ROUGE-L: how much of a text another one repeats, in order."""

import dataclasses
import re
from collections.abc import Hashable, Sequence


@dataclasses.dataclass(frozen=True)
class RougeL:
    """Result of `rouge_l`, each 0 to 1.

    Attributes:
      precision: share of the words of the candidate that are in the common subsequence.
      recall: share of the words of the reference that are.
      f1: harmonic mean of both.
    """

    precision: float
    recall: float
    f1: float


def rouge_l(candidate: str, reference: str) -> RougeL:
    """Return the longest common subsequence of words of two texts, as shares of either.

    Words are runs of a-z and 0-9 of the lower-cased text, without stemming: the values of the
    package rouge-score. A text without words gives 0.

    Args:
      candidate: the text that a model wrote.
      reference: the text that it is compared with.

    Returns:
      Precision, recall and F1.

    Source: Lin, "ROUGE: a package for automatic evaluation of summaries" (2004), section 3.1.
    """
    written, wanted = _words(candidate), _words(reference)
    if not written or not wanted:
        return RougeL(0.0, 0.0, 0.0)
    common = _longest_common_subsequence(written, wanted)
    precision, recall = common / len(written), common / len(wanted)
    return RougeL(precision, recall, 2 * common / (len(written) + len(wanted)))


def _words(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())


def _longest_common_subsequence(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Return its length: one row of the table is the bits of an integer.

    Source: Hyyro, "Bit-parallel LCS-length computation revisited" (2004).
    """
    places: dict[Hashable, int] = {}
    for place, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << place
    full = (1 << len(a)) - 1
    row = full
    for item in b:
        match = row & places.get(item, 0)
        row = (row + match | row - match) & full
    return len(a) - row.bit_count()
