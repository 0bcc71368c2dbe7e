"""What is measured of a registration of files, and what counts as implausible."""

import re

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from jaxml.commands.register_measures import (
    MOST_MOVED,
    implausible,
    moved_most,
    mutual_information,
    overlaps,
)


def test_mutual_information_is_that_of_the_histogram():
    rng = np.random.default_rng(0)
    first = rng.uniform(size=4000)
    second = np.clip((first**2 + 0.1 * rng.uniform(size=4000)) / 1.1, 0, 1)
    bins = [np.minimum((32 * x).astype(int), 31) for x in (first, second)]
    assert mutual_information(first, second) == pytest.approx(mutual_info_score(*bins))
    assert mutual_information(first, np.zeros(4000)) == pytest.approx(0, abs=1e-12)


def test_overlaps_are_those_of_each_label_but_0():
    fixed = np.array([[0, 5, 5, 7], [0, 0, -2, -2]], np.int32)
    moved = np.array([[0, 5, 7, 7], [0, 0, 9, -2]], np.int32)
    found = overlaps(fixed, fixed, moved)
    assert found == {-2: [1, 2 / 3], 5: [1, 2 / 3], 7: [1, 2 / 3], 9: [0, 0]}


def test_few_voxels_do_not_count_as_most():
    lengths = np.ones((20, 20))
    lengths[:4] = 100
    assert moved_most(lengths) == 1


def results(before, affine, after, moved=1.0):
    information = {"before": before, "affine": affine, "after": after}
    return {
        "likeness": {k: {"mutual_information": v} for k, v in information.items()},
        "displacement": {"most": moved, "extent": 100.0},
    }


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ((0.4, 0.6, 0.9), None),
        ((0.4, 0.6, 0.58), None),
        ((0.6, 0.598, 0.596), None),
        ((0.5, 0.6, 0.3), r"from 0.5000 \(headers\) to 0.3000; by the field .* from 0.6000"),
        ((0.2, 0.5, 0.3), r"by the field mutual .* from 0.5000 \(affine map\) to 0.3000"),
        ((0.4, 0.3, 0.9), "by the affine map mutual information fell from 0.4000 to 0.3000"),
        ((0.4, 0.6, 0.9, 100 * MOST_MOVED + 1), "displaced by more than 7% of its extent"),
    ],
)
def test_what_is_implausible(numbers, reason):
    doubt = implausible(results(*numbers), similarity="ncc", affine="affine")
    if reason is None:
        assert doubt is None
        return
    assert doubt is not None and "\n" not in doubt
    assert re.match(f"the result is implausible: .*{reason}", doubt)
    assert "--similarity mi" in doubt and "--affine similarity" in doubt
    doubt = implausible(results(*numbers), similarity="mi", affine="none")
    assert "--similarity" not in doubt and "--affine affine" in doubt
