import logging

import numpy as np
import pytest

from jaxml.reproduce.stages import Stages, write_whole


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


def test_a_failed_write_keeps_the_old_file(tmp_path):
    write_whole(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a", "text")  # type: ignore[arg-type]
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["a"]
