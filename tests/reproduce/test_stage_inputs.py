"""Every stage of every study is known by all that it depends on: no computation is run here."""

import collections
import contextlib
import dataclasses
import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxml.data.text import load_books
from jaxml.files.npz import read_npz
from jaxml.models.llama import LlamaConfig
from jaxml.output import stages as stored
from jaxml.reproduce import EXPERIMENTS
from jaxml.reproduce.backdoor import experiment as backdoor
from jaxml.reproduce.coreset import experiment as coreset
from jaxml.reproduce.registration import experiment as registration
from jaxml.reproduce.run import Settings
from jaxml.reproduce.selftraining import experiment as selftraining
from jaxml.reproduce.unlearning import experiment as unlearning


class Reports(Exception):
    """All stages have been asked for."""


class Recorded(stored.Stages):
    """Stages that note what they are known by, and compute nothing."""

    def run(self, name, depends, compute):
        del compute
        assert name not in SEEN, "two stages of one name"
        SEEN[name] = stored._fingerprint(depends)
        return collections.defaultdict(lambda: np.zeros(4))

    def scratch(self, name, depends):
        SCRATCH[name] = stored._fingerprint(depends)
        return self.folder / name


SEEN: dict[str, str] = {}
SCRATCH: dict[str, str] = {}
BARS = SimpleNamespace(add_task=lambda *_, **__: 0, update=lambda *_, **__: None)


def fingerprints(study, data, seed=0):
    """Return what each stage of a study is known by, and each folder of checkpoints."""
    SEEN.clear()
    SCRATCH.clear()
    module = importlib.import_module(EXPERIMENTS[study])
    with contextlib.suppress(Reports):
        module.experiment(Settings("standard", data / study, seed), Recorded(data), BARS)
    assert SEEN
    # Checkpoints are those of a stage, and removed with its name.
    assert all(SEEN[name] == known for name, known in SCRATCH.items())
    return dict(SEEN)


def _reports(*args, **settings):
    raise Reports


@pytest.fixture
def small(monkeypatch):
    """Give the studies their stages without their sizes, and no report."""
    scale = unlearning.Scale(
        length=16, prompt=4, forget=4, retain=4, folds=2, epochs=1, batch_size=4, steps=4, seeds=2
    )
    decoder = unlearning.small_decoder(vocab_size=280, hidden_size=8, num_layers=2, num_heads=2)
    sizes = {
        backdoor: dict(rows=20, test_rows=8),
        selftraining: dict(rows=20, pool_rows=20, outside_rows=0, test_rows=8),
    }
    for module, rows in sizes.items():
        whole = dataclasses.replace(module.SCALES["standard"], **rows)
        monkeypatch.setattr(module, "SCALES", {"standard": whole})
        monkeypatch.setattr(module, "report", _reports)
    monkeypatch.setattr(backdoor, "tree_of", lambda *_: {"batch_stats": {}})
    monkeypatch.setattr(unlearning, "SCALES", {"standard": unlearning.Size(decoder, scale)})
    monkeypatch.setattr(unlearning, "smollm2", lambda: None)
    monkeypatch.setattr(unlearning, "report", _reports)
    grid = dataclasses.replace(coreset.SCALES["standard"].grid, words=5)
    variants = (coreset.Variant("wide", decoder, 3),)
    size = coreset.Size(decoder, scale, grid, variants)
    monkeypatch.setattr(coreset, "SCALES", {"standard": size})
    monkeypatch.setattr(coreset, "Results", _reports)
    for name in ("_registration_parts", "_network_parts", "_numbers"):
        monkeypatch.setattr(registration, name, lambda *_: {})
    monkeypatch.setattr("jaxml.reproduce.speech._report", _reports)


@pytest.fixture
def data(tmp_path):
    """A folder of files for each study, of sizes that load at once."""
    rng = np.random.default_rng(0)
    for study in EXPERIMENTS:
        (tmp_path / study).mkdir()
    for size in ("80x96x112", "160x192x224"):
        for name in "ab":
            brain = dict(
                vol=rng.integers(0, 256, (6, 6, 6), np.uint8), seg=rng.integers(0, 3, (6, 6, 6))
            )
            np.savez(tmp_path / f"registration/subject_{name}_{size}.npz", **brain)
    np.savez(tmp_path / "registration/labels30.npz", labels=np.array([1, 2]))
    np.savez(tmp_path / "registration/voxelmorph_vm2_cc.npz", weights=rng.normal(size=3))
    np.savez(
        tmp_path / "speech/corpus.npz",
        audio=rng.integers(-9999, 9999, 12 * 3000).astype(np.int16),
        offsets=3000 * np.arange(13),
        speaker=np.repeat(["a", "b", "c"], 4),
        text=np.tile(np.arange(4), 3),
    )
    pixels = rng.integers(0, 256, (60, 8, 8, 1), np.uint8)
    for study in ("backdoor", "self-training"):
        np.savez(tmp_path / study / "images.npz", images=pixels, labels=np.arange(60) % 3)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(40)]
    for book in ("first", "second"):
        for study in ("unlearning", "coreset"):
            (tmp_path / study / f"{book}.txt").write_text(" ".join(rng.choice(words, 400)))
    return tmp_path


def array(file, key, change):
    def changed(folder: Path):
        arrays = read_npz(folder / file)
        np.savez(folder / file, **{**arrays, key: change(arrays[key])})

    return changed


def one_more(values):
    """Return an array with the last of its numbers changed, by as little as there is."""
    values = values.copy()
    values.reshape(-1)[-1] ^= 1
    return values


def text(file):
    def changed(folder: Path):
        words = (folder / file).read_text().split()
        (folder / file).write_text(" ".join([words[1], words[0], *words[2:]]))

    return changed


HALF, FULL = "subject_{}_80x96x112.npz", "subject_{}_160x192x224.npz"
# Study -> what is changed -> how, and names of stages that it has nothing to do with.
CHANGES = {
    "registration": {
        **{
            f"{key} of {name}, {size}": (array(file.format(name), key, one_more), others)
            for key in ("vol", "seg")
            for name in "ab"
            for size, file, others in (
                ("half", HALF, ("full", "voxelmorph")),
                ("full", FULL, ("half", "network")),
            )
        },
        "labels": (array("labels30.npz", "labels", lambda labels: labels[:1]), ()),
        "weights": (
            array("voxelmorph_vm2_cc.npz", "weights", lambda weights: weights + 1e-9),
            ("half", "network", "full"),
        ),
    },
    "speech": {
        "audio": (array("corpus.npz", "audio", one_more), ()),
        "speaker": (
            array("corpus.npz", "speaker", lambda who: np.roll(who, 1)), ("timing", "features")
        ),
        "sentence": (
            array("corpus.npz", "text", lambda which: which[::-1]),
            ("timing", "features", "surrogates"),
        ),
    },
    **{
        study: {
            "images": (array("images.npz", "images", lambda images: images ^ 1), ()),
            "labels": (array("images.npz", "labels", lambda labels: labels[::-1]), ()),
        }
        for study in ("backdoor", "self-training")
    },
    **{
        study: {"first book": (text("first.txt"), ()), "second book": (text("second.txt"), ())}
        for study in ("unlearning", "coreset")
    },
}  # fmt: skip
# Stages that draw nothing.
UNSEEDED = ("half", "full", "voxelmorph")


def assert_changed(before, after, unmoved):
    assert before.keys() == after.keys()
    for name, known in before.items():
        is_same = any(name == other or name.startswith(f"{other}-") for other in unmoved)
        assert (after[name] == known) == is_same, name


@pytest.mark.parametrize("study", EXPERIMENTS)
def test_a_stage_is_known_by_all_that_it_depends_on(study, data, small, monkeypatch, unchecked):
    before = fingerprints(study, data)
    assert fingerprints(study, data) == before
    for _, (change, unmoved) in CHANGES[study].items():
        files = {path: path.read_bytes() for path in (data / study).iterdir()}
        change(data / study)
        assert_changed(before, fingerprints(study, data), unmoved)
        for path, content in files.items():
            path.write_bytes(content)
    assert_changed(before, fingerprints(study, data, seed=1), UNSEEDED)
    monkeypatch.setattr(stored, "_code", lambda: "other code")
    assert_changed(before, fingerprints(study, data), ())


SIZES = {
    "registration": [("STEPS", ("network", "voxelmorph")), ("TRAINING_STEPS", UNSEEDED)],
    "speech": [("SURROGATES", ("timing", "features", "folds"))],
}


@pytest.mark.parametrize("study", EXPERIMENTS)
def test_a_stage_is_known_by_the_scale(study, data, small, monkeypatch, unchecked):
    module = importlib.import_module(EXPERIMENTS[study])
    before = fingerprints(study, data)
    if study in SIZES:
        for name, unmoved in SIZES[study]:
            with monkeypatch.context() as changed:
                changed.setattr(module, name, {"standard": 3})
                assert_changed(before, fingerprints(study, data), unmoved)
        return
    scale = module.SCALES["standard"]
    inner = scale if study in ("backdoor", "self-training") else scale.scale
    for field in ("batch_size", "epochs"):
        other = dataclasses.replace(inner, **{field: getattr(inner, field) + 1})
        other = other if inner is scale else scale._replace(scale=other)
        monkeypatch.setattr(module, "SCALES", {"standard": other})
        assert_changed(before, fingerprints(study, data), ())
    if inner is not scale:
        wider = dataclasses.replace(scale.decoder, rope_theta=9999.0)
        assert isinstance(wider, LlamaConfig)
        monkeypatch.setattr(module, "SCALES", {"standard": scale._replace(decoder=wider)})
        assert_changed(before, fingerprints(study, data), ())


def test_the_weights_that_a_study_starts_from_count(data, small, monkeypatch, unchecked):
    """The pretrained decoder, whose weights a file brings."""
    study = unlearning.Study(
        name="Own-", title="", start=lambda key: {}, methods=("NPO",),
        **unlearning.SCALES["standard"]._asdict(), tokenizer=None,
    )  # fmt: skip
    tokenizer = unlearning.train_tokenizer(load_books(data / "unlearning").texts, 280)
    known = []
    for weights in ("1", "2"):
        own = study._replace(weights=weights, tokenizer=tokenizer)
        monkeypatch.setattr(unlearning, "_pretrained", lambda *_, own=own: own)
        monkeypatch.setattr(unlearning, "smollm2", lambda: data)
        known.append(fingerprints("unlearning", data))
    unmoved = [name for name in known[0] if not name.startswith("Own-")]
    assert 0 < len(unmoved) < len(known[0])
    assert_changed(known[0], known[1], unmoved)
