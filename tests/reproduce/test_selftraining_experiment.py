import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from sklearn.datasets import load_digits

from jaxml.backdoor import IdentifyConfig
from jaxml.reproduce import reproduce
from jaxml.reproduce.selftraining import experiment
from jaxml.reproduce.selftraining import stages as work


class Small(nn.Module):
    """Two convolutions with the names of ResNet18's layers, soon compiled."""

    classes: int = 10

    @nn.compact
    def __call__(self, images, *, train=False):
        x = images
        for number in ("00", "01"):
            x = nn.Conv(16, (3, 3), use_bias=False, name=f"conv_{number}")(x)
            self.sow("intermediates", f"input_{number}", x)
            norm = nn.BatchNorm(
                not train, momentum=0.0, force_float32_reductions=False, name=f"norm_{number}"
            )
            x = nn.relu(norm(x))
        pooled = nn.Dense(32, name="features")(x.reshape(len(x), -1))
        return nn.Dense(self.classes, name="head")(nn.relu(pooled)), pooled


SCALE = work.Scale(
    rows=800,
    pool_rows=400,
    test_rows=200,
    study_rows=100,
    epochs=12,
    student_epochs=8,
    encoder_epochs=2,
    batch_size=40,
    attacks=("badnets",),
    ratio=0.15,
    views=4,
    identify=IdentifyConfig(rounds=1, steps=3),
)


def without_patch(key, image):
    """The digit alone, without the patch."""
    return image.at[8:, 8:].set(0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Digits in one corner of images of side 12, the patch in the other."""
    file = tmp_path_factory.mktemp("data") / "digits.npz"
    found = load_digits()
    pixels = np.round(found.images * (255 / 16)).astype(np.uint8)[..., None]
    pixels = np.pad(pixels, ((0, 0), (0, 4), (0, 4), (0, 0)))
    np.savez(file, images=pixels, labels=found.target)
    return file


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(experiment, "SCALES", {"quick": SCALE})
    monkeypatch.setattr(experiment, "_model", lambda *_: Small())
    monkeypatch.setattr(
        work,
        "AUGMENTATIONS",
        {"no patch": without_patch, "dark": lambda key, image: 0 * image},
    )


@pytest.mark.study
def test_quick_run_reports_and_a_second_run_computes_nothing(digits, tmp_path, small, monkeypatch):
    out = tmp_path / "out"
    run = lambda: reproduce(["self-training"], scale="quick", out=out, data=digits)
    run()
    results = json.loads((out / "results.json").read_text())["methods"]["self-training"]
    assert results["repeats"] == 1
    rates = results["rates"]["badnets"]
    networks = ["teacher", "vanilla", "proposed", "ssl-teacher", "ssl", "mspc"]
    assert list(rates) == networks
    for values in rates.values():
        assert len(values["ACC"]) == len(values["ASR"]) == 1
    # What the method is for, on images small enough for a test.
    assert min(rates["teacher"]["ACC"]) > 0.85 and min(rates["teacher"]["ASR"]) > 0.9
    assert min(rates["vanilla"]["ASR"]) > 0.8
    assert max(rates["proposed"]["ASR"]) < 0.15
    assert results["chosen"]["badnets"] == ["no patch"]
    study = np.array(results["study"]["badnets"])
    assert study.shape == (1, 3, 2)
    # A black image tells nothing: one class for all.
    assert (study[:, 2, 0] < 0.3).all() and np.isin(study[:, 2, 1], (0, 1)).all()
    stage = np.load(out / "self-training/stages/badnets-teacher-0.npz")
    assert stage["rates"][0] == pytest.approx(rates["teacher"]["ACC"][0])
    assert (out / "self-training/two-axes.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "report.md").read_text()
    assert "three claims" in report and "linear probe" in report

    def never(*args, **settings):
        raise AssertionError("computed again")

    for name in ("encoder", "teacher", "student", "removal"):
        monkeypatch.setattr(work, name, never)
    run()
    again = json.loads((out / "results.json").read_text())["methods"]["self-training"]
    assert {**again, "seconds": 0} == {**results, "seconds": 0}


def test_the_teacher_is_not_trained_on_the_rows_held_out(digits, small, monkeypatch):
    images, _, classes = experiment._load(digits, SCALE)
    assert len(classes) == 10 and len(images.train) == 800 and len(images.pool) == 400
    seen = []

    def train(key, model, pixels, labels, **settings):
        seen.append((np.asarray(pixels), np.asarray(labels)))
        raise InterruptedError

    monkeypatch.setattr(work, "train_classifier", train)
    setting = work.Setting("badnets", images, Small(), SCALE, {})
    key = jax.random.key(3)
    with pytest.raises(InterruptedError):
        work.teacher(key, setting, {})
    poisoned, kept = work._poisoned(key, setting)
    assert kept == 720 and int(poisoned.is_poisoned.sum()) == 120
    np.testing.assert_array_equal(seen[0][1].argmax(axis=1), poisoned.labels[:720])
    np.testing.assert_array_equal(seen[0][0], np.round(255 * poisoned.images[:720]))
