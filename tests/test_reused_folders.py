"""A folder that a broken-off run has left, used for another one: results are those of a fresh one.

What is replaced are the weights, the data, the segmentation, the scale, the seed, the code.
"""

import signal

import numpy as np
import pytest
import reused_folders
from job_results import assert_equal, newest_checkpoints, results
from test_faults import assert_told, jobs  # noqa: F401

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


def _numbers(found):
    """Return results without the names of files and the fingerprints, which differ anyhow."""
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, np.ndarray) and not name.endswith(": fingerprint")
    }
