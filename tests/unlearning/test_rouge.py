"""ROUGE-L against the package rouge-score and by hand."""

import numpy as np
import pytest

from jaxml.unlearning.metrics._rouge import rouge_l


@pytest.mark.parametrize(
    ("candidate", "reference", "precision", "recall"),
    [
        ("the cat sat", "the cat sat", 1, 1),
        ("The CAT, sat!", "the cat sat", 1, 1),
        ("police killed the gunman", "police kill the gunman", 3 / 4, 3 / 4),
        ("the gunman kill police", "police kill the gunman", 2 / 4, 2 / 4),
        ("a b a b a", "b a b", 3 / 5, 1),
        ("sat cat the", "the cat sat on it", 1 / 3, 1 / 5),
        ("dog", "cat", 0, 0),
        ("", "cat", 0, 0),
        ("?!", "?!", 0, 0),
        # Letters beyond a to z part words; a full stop parts a number.
        ("caf\u00e9 3.5", "caf 3 5", 1, 1),
    ],
)
def test_shares_by_hand(candidate, reference, precision, recall):
    found = rouge_l(candidate, reference)
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0
    np.testing.assert_allclose(
        [found.precision, found.recall, found.f1], [precision, recall, f1], rtol=1e-15
    )


def test_random_texts_equal_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    rng = np.random.default_rng(0)
    # Few words, so that many orders compete; the long ones pass the 64 bits of a machine word.
    words = np.array(["the", "Cat", "sat", "on.", "a", "mat-like", "it's", "\u0130X", "7"])
    for length in (1, 5, 40, 150):
        for _ in range(5):
            one, other = (" ".join(rng.choice(words, rng.integers(1, length + 1))) for _ in "ab")
            expected = scorer.score(other, one)["rougeL"]
            found = rouge_l(one, other)
            np.testing.assert_allclose(
                [found.precision, found.recall, found.f1],
                [expected.precision, expected.recall, expected.fmeasure],
                rtol=1e-12,
            )


def test_turned_around_precision_and_recall_change_places():
    one, other = rouge_l("a b c d e", "b d f"), rouge_l("b d f", "a b c d e")
    assert (one.precision, one.recall, one.f1) == (other.recall, other.precision, other.f1)
