import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import registration
from jaxml.reproduce import reproduce
from jaxml.reproduce.registration import experiment
from jaxml.reproduce.registration.smoothing import fewest_folds_by_gaussian, smoothed_where_folded


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """Two small volumes, b a warp of a, with a label for each half of a ball."""
    folder = tmp_path_factory.mktemp("data")
    shape = (33, 36, 39)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(index - np.array(shape) / 2, axis=-1)
    a = np.where(distance < 14, 150 + 60 * np.sin(index[..., 0] / 2), 0) + 20
    labels = np.where(distance < 14, 1 + (index[..., 1] > 18), 0)
    coarse = jax.random.normal(jax.random.key(0), (4, 4, 4, 3))
    u = 2.0 * jax.image.resize(coarse, (*shape, 3), "cubic")
    for name, field in (("a", jnp.zeros_like(u)), ("b", u)):
        vol = registration.warp(jnp.asarray(a), field)
        seg = registration.warp(jnp.asarray(labels, float), field, order=0)
        np.savez(
            folder / f"subject_{name}_80x96x112.npz",
            vol=np.asarray(vol).clip(0, 255).astype(np.uint8),
            seg=np.asarray(seg).astype(np.uint8),
        )
    np.savez(folder / "labels30.npz", labels=np.array([1, 2]))
    return folder


@pytest.mark.study
def test_quick_run_registers_and_a_second_run_computes_nothing(brains, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "STEPS", {"quick": 40})
    monkeypatch.setattr(experiment, "TRAINING_STEPS", {"quick": 2})
    out = tmp_path / "out"
    reproduce(["registration"], scale="quick", out=out, data=brains)
    results = json.loads((out / "results.json").read_text())["methods"]["registration"]
    rows = results["half"]
    assert rows["register"]["dice"] > rows["before"]["dice"] + 0.02
    assert rows["register"]["ncc"] > rows["before"]["ncc"]
    for name in ("then fold_free", "register with fold_free inside"):
        assert [rows[name][c] for c in experiment.CRITERIA] == [0, 0, 0, 0]
        assert rows[name]["dice"] > rows["register"]["dice"] - 0.02
    assert set(results["network"]) >= {"before registration", "trained network"}
    for name in ("half-images", "half-deformations", "network-loss"):
        assert (out / f"registration/{name}.png").exists()

    def never(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(experiment, "_registered", never)
    monkeypatch.setattr(experiment, "train_at_small_scale", never)
    reproduce(["registration"], scale="quick", out=out, data=brains)
    again = json.loads((out / "results.json").read_text())["methods"]["registration"]
    assert again["half"] == rows


def folded_field():
    coarse = jax.random.normal(jax.random.key(1), (6, 6, 2))
    return 6 * jax.image.resize(coarse, (40, 40, 2), "cubic")


def test_gaussian_is_the_least_that_leaves_so_few_folds():
    u = folded_field()
    assert registration.count_folds(u) > 20
    for allowed in (0, 10):
        smooth, sigma = fewest_folds_by_gaussian(u, allowed)
        scheme = "digital" if allowed == 0 else "forward"
        assert registration.count_folds(jnp.asarray(smooth), scheme=scheme) <= allowed
        assert 0 < sigma < 16


def test_local_smoothing_ends_and_leaves_far_voxels():
    u = jnp.zeros((40, 40, 2)).at[10, 10, 0].set(3.0)
    smooth = smoothed_where_folded(u)
    assert registration.count_folds(jnp.asarray(smooth), scheme="digital") == 0
    np.testing.assert_array_equal(smooth[25:, 25:], 0)
