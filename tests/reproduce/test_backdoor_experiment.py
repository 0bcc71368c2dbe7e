import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score, roc_curve

from jaxml.backdoor import IdentifyConfig
from jaxml.reproduce import reproduce
from jaxml.reproduce.backdoor import experiment, stages
from jaxml.reproduce.backdoor import report as backdoor_report
from jaxml.reproduce.images import detection


class Small(nn.Module):
    """Two convolutions with the names of ResNet18's layers, soon compiled."""

    classes: int = 10

    @nn.compact
    def __call__(self, images, *, train=False):
        x = images
        for number, stride in (("00", 1), ("01", 2)):
            x = nn.Conv(8, (3, 3), stride, use_bias=False, name=f"conv_{number}")(x)
            self.sow("intermediates", f"input_{number}", x)
            norm = nn.BatchNorm(
                not train, momentum=0.0, force_float32_reductions=False, name=f"norm_{number}"
            )
            x = nn.relu(norm(x))
        pooled = x.reshape(len(x), -1)
        return nn.Dense(self.classes, name="head")(pooled), pooled


SCALE = experiment.Scale(
    rows=1000,
    test_rows=200,
    epochs=12,
    batch_size=40,
    ratios=(0.1,),
    attacks=("blend", "label_consistent"),
    blends=2,
    identify=IdentifyConfig(rounds=1, steps=3),
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "digits.npz"
    found = load_digits()
    pixels = np.round(found.images * (255 / 16)).astype(np.uint8)[..., None]
    np.savez(file, images=pixels, labels=found.target)
    return file


@pytest.mark.study
def test_quick_run_reports_and_a_second_run_computes_nothing(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "SCALES", {"quick": SCALE})
    monkeypatch.setattr(experiment, "_model", lambda data, width: Small())
    out = tmp_path / "out"
    run = lambda: reproduce(["backdoor"], scale="quick", out=out, data=digits)
    run()
    results = json.loads((out / "results.json").read_text())["methods"]["backdoor"]
    cases = ["blend 10%", "label_consistent 10%"]
    methods = set(detection.METHODS) - {"cognitive_distillation"}
    assert list(results["auroc"]) == cases
    assert all(set(areas) == methods for areas in results["auroc"].values())
    assert set(results["timing"]) == methods
    removal = results["removal"]
    assert list(removal) == ["none", *cases]
    assert removal["none"]["ASR"] == removal["none"]["mspc TPR"] == [None]
    blend = removal["blend 10%"]
    assert blend["ACC"][0] > 0.7 and blend["ASR"][0] > 0.9
    stage = np.load(out / "backdoor/stages/blend-0.1-0.npz")
    flags = stage["is_poisoned"]
    assert flags.sum() == 100
    for name, area in results["auroc"]["blend 10%"].items():
        np.testing.assert_allclose(area, roc_auc_score(flags, stage[f"score/{name}"]), atol=1e-6)
    # 150 rows of 1000 are removed, of which at most 100 are poisoned.
    found = blend["ensemble TPR"][0]
    np.testing.assert_allclose(blend["ensemble FPR"][0], (150 - 100 * found) / 900)
    for name in ("roc-0.1", "mspc", "masks"):
        assert (out / f"backdoor/{name}.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "report.md").read_text()
    assert "AUROC" in report and "attack success rate" in report and "Seconds" in report

    def never(*args, **settings):
        raise AssertionError("computed again")

    monkeypatch.setattr(experiment, "scored", never)
    run()
    again = json.loads((out / "results.json").read_text())["methods"]["backdoor"]
    assert {**again, "seconds": 0} == {**results, "seconds": 0}


def test_row_features_are_those_of_the_network():
    images = jax.random.uniform(jax.random.key(0), (7, 8, 8, 1), jnp.float32)
    variables = jax.jit(Small().init)(jax.random.key(1), images)
    statistics = {"mean": 0.3, "var": 2.0}
    stats_ = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full_like(x, statistics[path[-1].key]), variables["batch_stats"]
    )
    variables = {"params": variables["params"], "batch_stats": stats_}
    found = detection.row_features(variables, images, model=Small(), batch_size=3)
    logits, pooled = Small().apply(variables, images)
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    np.testing.assert_allclose(found.pooled, pooled, atol=1e-5)
    first = nn.Conv(8, (3, 3), use_bias=False)
    activations = first.apply({"params": variables["params"]["conv_00"]}, images)
    expected = stats.norm(0.3, np.sqrt(2)).logpdf(np.asarray(activations, float)).min((1, 2, 3))
    assert found.likelihoods.shape == (7, 2)
    np.testing.assert_allclose(found.likelihoods[:, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("level, factors", [(0, (1, 1)), (1, (1, 1.5)), (2, (1.5, 1.5))])
def test_the_last_normalisations_are_amplified(level, factors):
    variables = jax.jit(Small().init)(jax.random.key(1), jnp.zeros((1, 8, 8, 1), jnp.float32))
    found = jax.jit(detection._amplified)(variables, jnp.asarray(level))["params"]
    for name, factor in zip(("norm_00", "norm_01"), factors, strict=True):
        np.testing.assert_array_equal(found[name]["scale"], factor)
    kernel = lambda params: params["conv_01"]["kernel"]
    np.testing.assert_array_equal(kernel(found), kernel(variables["params"]))


def test_roc_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    flags = rng.random(200) < 0.3
    score = np.round(rng.normal(size=200) + flags, 1)
    false, true = backdoor_report._roc(score, flags)
    expected = roc_curve(flags, score, drop_intermediate=False)
    np.testing.assert_allclose(false, expected[0])
    np.testing.assert_allclose(true, expected[1])


def test_highest_takes_the_share():
    flags = stages._highest(np.array([0.1, 0.9, 0.5, 0.7]), 0.5)
    np.testing.assert_array_equal(flags, [False, True, False, True])
