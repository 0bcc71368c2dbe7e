"""A folder that a broken-off run has left, used for another one: results are those of a fresh one.

What is replaced are the weights, the data, the segmentation, the scale, the seed, the code.
"""

import shutil
import signal

import numpy as np
import pytest
import reused_folders
from job_results import assert_equal, finished, newest_checkpoints, results
from test_faults import jobs  # noqa: F401

from jaxml import cli

pytestmark = pytest.mark.study


def differ(found, others) -> bool:
    try:
        assert_equal(found, others)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("job", reused_folders.JOBS)
def test_a_run_with_something_else_in_the_folder_of_before(jobs, tmp_path, job):  # noqa: F811
    jobs.finish(f"reused {job}", tmp_path)
    plan = reused_folders.JOBS[job]
    unchanged = results(tmp_path / "unchanged")
    for name in (*plan.data, *plan.options, *plan.code):
        fresh = results(tmp_path / name / "fresh")
        assert_equal(results(tmp_path / name / "reused"), fresh)
        # Otherwise nothing would be seen of a result that is used again.
        assert differ(_numbers(fresh), _numbers(unchanged)), name
    # What is done leaves no checkpoints, neither its own nor those of the run before.
    assert newest_checkpoints(tmp_path / "unchanged") == {}
    assert all(newest_checkpoints(tmp_path / name / "reused") == {} for name in plan.data)


# What a run of each job has left when it is killed.
LEFT = {
    "unlearn": "checkpoints/*/*",
    "identify": "identify/stages/round_1.npz",
    "registration": "registration/stages/half.npz",
    "speech": "speech/stages/features-0.npz",
    "register": ".lock",
}


LONG = ("registration", "speech")


@pytest.mark.parametrize(
    "job", [pytest.param(job, marks=pytest.mark.slow if job in LONG else ()) for job in LEFT]
)
def test_other_data_after_a_kill(jobs, tmp_path, job):  # noqa: F811
    data, out = tmp_path / "data", tmp_path / "reused"
    shutil.copytree(jobs.folder / "data" / job, data / job)
    run = jobs.start(job, out, data=data)
    while not [path for path in out.glob(LEFT[job]) if "tmp" not in path.name]:
        assert not run.wait(0.01), run.told()
    run.end(signal.SIGKILL)
    assert run.status == -signal.SIGKILL, run.told()
    reused_folders.JOBS[job].data["data"](data / job)
    jobs.finish(job, out, data=data)
    jobs.finish(job, tmp_path / "fresh", data=data)
    assert_equal(results(out), results(tmp_path / "fresh"))
    assert not [path for path in out.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("job", ["unlearn", "stages"])
def test_a_second_run_in_the_folder_is_told_and_the_first_is_whole(jobs, tmp_path, capsys, job):  # noqa: F811
    expected = jobs.unbroken(job)
    run = jobs.start(job, tmp_path)
    while "a chunk begins" not in run.told():
        assert not run.wait(0.01), run.told()
    before = finished(tmp_path)
    # To be of another job does not help.
    for command in (["unlearn", "--model", "m", "--forget", "f", "--retain", "r"], ["reproduce"]):
        assert cli.main([*command, "--out", str(tmp_path)]) == 2
        assert capsys.readouterr().err == (
            f"jaxml {command[0]}: {tmp_path}: another run (process {run.number}) is at work in "
            "it; wait for it, or give another folder\n"
        )
    assert before.items() <= finished(tmp_path).items()
    assert run.wait() and run.status == 0, run.told()
    assert_equal(results(tmp_path), expected)


def _numbers(found):
    """Return arrays and weights: reports name the settings, and fingerprints differ anyhow."""
    is_array = lambda name, value: isinstance(value, np.ndarray) and "fingerprint" not in name
    return {
        name: value
        for name, value in found.items()
        if is_array(name, value) or name.endswith(".safetensors")
    }
