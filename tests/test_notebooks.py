"""Every notebook runs from top to bottom, in a folder and a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Their many small programs take longer to optimise than to run.
UNOPTIMISED = ("multifractal", "selftraining")
NOTEBOOKS = sorted(Path(__file__).parents[1].joinpath("notebooks").glob("*.py"))


def test_there_are_notebooks():
    assert {"multifractal"} <= {path.stem for path in NOTEBOOKS}


@pytest.mark.study
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path):
    data = os.environ.get("JAXML_DATA")
    left_out = str(path.stem in UNOPTIMISED)
    environment = {
        **os.environ, "MPLBACKEND": "Agg", "JAX_DISABLE_MOST_OPTIMIZATIONS": left_out,
    }  # fmt: skip
    if data:
        environment["JAXML_DATA"] = str(Path(data).absolute())
    run = subprocess.run(
        [sys.executable, "-W", "error", path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout


def test_notebooks_have_text_and_code_cells():
    for path in NOTEBOOKS:
        kinds = re.findall(r"^# %%( \[markdown\])?$", path.read_text(), re.MULTILINE)
        assert kinds.count("") >= 3, path.stem
        assert kinds.count(" [markdown]") >= 3, path.stem
