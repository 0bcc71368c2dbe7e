"""Damaged checkpoints: one that is whole is restored, bit for bit, or none is, with one error."""

import errno
import json
import os
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damaged_files import limits, mutations

from jaxml.files.errors import DataError
from jaxml.training import checkpoints

SETTINGS = {"run": {".steps": "3", ".seed": "7"}}
STATE = ({"w": jnp.arange(6.0), "b": jnp.zeros((2, 3), jnp.int32)}, {"count": jnp.asarray(3)})
HISTORY = {"loss": np.arange(4.0)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with two checkpoints."""
    folder = tmp_path_factory.mktemp("saved")
    with checkpoints.manager(folder) as manager:
        for step in (1, 2):
            checkpoints.save(manager, SETTINGS, STATE, step, HISTORY)
    return folder


def restore_damaged(saved, folder, rng, every):
    """Return the step that is restored where one or every file is damaged, or None."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    for step in ("1", "2"):
        files = sorted(path for path in (folder / step).rglob("*") if path.is_file())
        for file in files if every else [files[rng.integers(len(files))]]:
            *_, content = mutations(file.read_bytes(), rng, 3)
            file.write_bytes(content)
    with checkpoints.manager(folder) as manager:
        try:
            state, step, history = checkpoints.restore(manager, SETTINGS, STATE)
        except ValueError:
            return None
    jax.tree.map(np.testing.assert_array_equal, (state, history), (STATE, [HISTORY]))
    return step


def assert_survive(saved, folder, count):
    rng = np.random.default_rng(0)
    with limits():
        # One damaged file in each checkpoint leaves both unreadable too seldom to be sure of it.
        steps = [restore_damaged(saved, folder / "run", rng, k % 5 == 0) for k in range(count)]
    assert set(steps) == {None, 1, 2}


def test_damaged_checkpoints_are_left_out(saved, tmp_path):
    assert_survive(saved, tmp_path, 30)


def test_damaged_date_of_a_checkpoint(saved, tmp_path):
    """JSON that can be read, but whose date is no whole number."""
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    for step in ("1", "2"):
        file = folder / step / "_CHECKPOINT_METADATA"
        dates = json.loads(file.read_text())
        file.write_text(json.dumps(dates | {"commit_timestamp_nsecs": 1.5}))
    with checkpoints.manager(folder) as manager:
        state, step, history = checkpoints.restore(manager, SETTINGS, STATE)
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, (state, history), (STATE, [HISTORY]))


def test_a_folder_that_another_run_is_at_work_in(saved, tmp_path):
    """Its second run would remove what the first is writing, as left by an ended one."""
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    with checkpoints.manager(folder) as first:
        (folder / "3.orbax-checkpoint-tmp").mkdir()
        with (
            pytest.raises(DataError, match=f"run: another run .process {os.getpid()}. is at work"),
            checkpoints.manager(folder),
        ):
            pytest.fail("both are at work")
        assert (folder / "3.orbax-checkpoint-tmp").is_dir()
        assert checkpoints.restore(first, SETTINGS, STATE)[1] == 2
    with checkpoints.manager(folder):
        # What an ended run left is removed in the background.
        end = time.monotonic() + 30
        while (folder / "3.orbax-checkpoint-tmp").exists():
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (ValueError("INTERNAL: x [os_error_code='27'] [source='a.cc']"), "File too large"),
    ],
)
def test_what_the_system_said_is_told_and_not_what_orbax_met_after_it(
    saved, tmp_path, monkeypatch, behind, reason
):
    """Of a full disk, the writes that go on meet the end of what runs them."""

    def full(*_, **__):
        try:
            raise behind
        except (OSError, ValueError) as error:
            raise RuntimeError("Event loop is closed") from error

    folder = tmp_path / "run"
    with checkpoints.manager(folder) as manager:
        monkeypatch.setattr(manager, "save", full)
        with pytest.raises(OSError) as error:
            checkpoints.save(manager, SETTINGS, STATE, 1, HISTORY)
    assert str(error.value) == f"{folder}: cannot be written: {reason}"


@pytest.mark.slow
def test_many_damaged_checkpoints_are_left_out(saved, tmp_path):
    assert_survive(saved, tmp_path, 500)
