import logging

import numpy as np
import pytest

from jaxml.output.stages import SeedStages, Stages


def _never():
    raise AssertionError("computed again")


def test_a_finished_stage_is_not_computed_again(tmp_path):
    stages = Stages(tmp_path)
    depends = {"seed": 1, "x": np.arange(3)}
    first = stages.run("part", depends, lambda: {"y": np.arange(4.0)})
    again = stages.run("part", depends, _never)
    np.testing.assert_array_equal(first["y"], again["y"])
    assert again.keys() == {"y"}


@pytest.mark.parametrize("changed", [{"seed": 2, "x": np.arange(3)}, {"seed": 1, "x": np.ones(3)}])
def test_other_inputs_compute_anew(tmp_path, changed):
    stages = Stages(tmp_path)
    stages.run("part", {"seed": 1, "x": np.arange(3)}, lambda: {"y": np.zeros(1)})
    assert stages.run("part", changed, lambda: {"y": np.ones(1)})["y"] == 1


def test_a_damaged_stage_is_named_and_computed_anew(tmp_path, caplog):
    stages = Stages(tmp_path)
    stages.run("part", {}, lambda: {"y": np.zeros(100)})
    whole = (tmp_path / "part.npz").read_bytes()
    (tmp_path / "part.npz").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        assert stages.run("part", {}, lambda: {"y": np.ones(1)})["y"] == 1
    assert "part.npz: damaged" in caplog.text


def test_a_failed_stage_leaves_nothing(tmp_path):
    with pytest.raises(AssertionError):
        Stages(tmp_path).run("part", {}, _never)
    assert list(tmp_path.iterdir()) == []


def test_stages_of_a_seed_have_files_of_their_own(tmp_path):
    shown = []

    class Bars:
        def update(self, bar, **what):
            shown.append((bar, what))

    stages = Stages(tmp_path)
    own = SeedStages(stages, {"x": 1}, 2, Bars(), 7, "study: seed 3 of 3", "Large-")
    own.run("NPO, KL", lambda: {"y": np.zeros(1)})
    assert shown == [(7, {"description": "study: seed 3 of 3, NPO, KL"}), (7, {"advance": 1})]
    own.run("width 32: NPO, random 0.05", lambda: {"y": np.ones(1)})
    assert {f.name for f in tmp_path.iterdir()} == {
        "Large-NPO-KL-2.npz",
        "Large-width-32-NPO-random-0.05-2.npz",
    }
    # What a stage depends on is part of the key under which long results are kept.
    of_stage = {"x": 1, "run": 2, "stage": "NPO, KL"}
    assert stages.run("Large-NPO-KL-2", of_stage, _never)["y"] == 0
    assert own.scratch("NPO, KL") == stages.scratch("Large-NPO-KL-2", of_stage)
    other = SeedStages(stages, {"x": 1}, 1, Bars(), 7, "", "Large-")
    assert other.run("NPO, KL", lambda: {"y": np.full(1, 5)})["y"] == 5


def test_checkpoints_go_when_the_result_is_on_disk(tmp_path):
    stages = Stages(tmp_path)
    own, other = (stages.scratch("part", {"x": x}) for x in (1, 2))
    kept = [stages.scratch("part-0", {"x": 1}), tmp_path / "part-of-mine", tmp_path / "part"]
    for folder in (own, other, *kept):
        (folder / "1").mkdir(parents=True)

    def broken():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.run("part", {"x": 1}, broken)
    assert own.exists() and other.exists()
    stages.run("part", {"x": 1}, lambda: {"y": np.zeros(1)})
    assert not own.exists() and not other.exists()
    # A run that was ended before it removed them; those for other inputs may be wanted again.
    for folder in (own, other):
        folder.mkdir()
    stages.run("part", {"x": 1}, _never)
    assert not own.exists() and other.exists() and all(folder.exists() for folder in kept)
