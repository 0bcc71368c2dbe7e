"""The order in which rows and scales enter the steps of the mask."""

import dataclasses

import numpy as np
import pytest

from jaxml.backdoor import IdentifyConfig
from jaxml.backdoor._fit_mask import batches

FLAGGED = np.random.default_rng(0).uniform(size=50) < 0.4
CONFIG = IdentifyConfig(scales=(2.0, 3.0, 5.0))


def weight_of_pairs(config, steps):
    """Return the sum of the weights of each row and scale over the steps."""
    total = np.zeros((FLAGGED.size, 6))
    for parts in batches(config, FLAGGED, range(steps)):
        for index, scale, weight in parts:
            np.add.at(total, (index, scale.astype(int)), weight)
    return total[:, [2, 3, 5]]


@pytest.mark.parametrize("size", [1, 14, int(3 * FLAGGED.sum()), 1000])
def test_flagged_pairs_come_equally_often_with_the_weight_of_the_problem(size):
    pairs = 3 * FLAGGED.sum()
    steps = np.lcm(pairs, min(size, pairs)) // min(size, pairs)
    # Every step is an estimate of mean_i w_i mean_n.
    truth = FLAGGED[:, None] * np.ones(3) / (FLAGGED.size * 3)
    found = weight_of_pairs(dataclasses.replace(CONFIG, batch_size=size), steps) / steps
    np.testing.assert_allclose(found, truth, atol=1e-12)


def test_every_step_has_its_share_of_each_scale():
    config = dataclasses.replace(CONFIG, batch_size=9)
    ((_, scale, _),) = next(iter(batches(config, FLAGGED, range(4, 5))))
    assert sorted(np.unique(scale, return_counts=True)[1]) in ([3, 3, 3], [2, 3, 4])


def test_published_batches_are_the_rows_in_order_and_the_last_one_is_its_own_mean():
    config = dataclasses.replace(CONFIG, flagged_only=False, batch_size=16)
    found = [weight_of_pairs(config, steps) for steps in range(5)]
    for step, size in enumerate((16, 16, 16, 2)):
        truth = np.zeros((50, 3))
        truth[16 * step : 16 * step + size] = 1 / (3 * size)
        np.testing.assert_allclose(
            found[step + 1] - found[step], truth * FLAGGED[:, None], atol=1e-12
        )
