"""Damaged checkpoints: one that is whole is restored, bit for bit, or none is, with one error."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damaged_files import limits, mutations

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


@pytest.mark.slow
def test_many_damaged_checkpoints_are_left_out(saved, tmp_path):
    assert_survive(saved, tmp_path, 500)
