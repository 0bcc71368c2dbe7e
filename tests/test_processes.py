"""Two processes of two CPU devices each, started as the documentation says, against one."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import process_worker as worker
import pytest

from jaxml import sharding

ROOT = Path(__file__).parents[1]
START, TRAIN = re.findall(
    r"```python title=\"train.py\"\n(.*?)```", (ROOT / "docs/sharding.md").read_text(), re.DOTALL
)
SECONDS = 420
pytestmark = pytest.mark.study


def slurm(rank):
    """Return what srun sets, the address of this host included."""
    return dict(
        SLURM_JOB_ID="1",
        SLURM_STEP_NODELIST="127.0.0.1",
        SLURM_NTASKS="2",
        SLURM_PROCID=str(rank),
        SLURM_LOCALID=str(rank),
    )


def kubernetes(rank):
    return dict(JOB_COMPLETION_INDEX=str(rank), PROCESSES="2")


def together(engine, arguments, folder):
    """Run a script in two processes and return what each printed; fail rather than hang."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    common = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_ENABLE_X64": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COORDINATOR_BIND_ADDRESS": address,
        "PYTHONPATH": str(ROOT),
    }
    where = "JAX_COORDINATOR_PORT" if engine is slurm else "JAX_COORDINATOR_ADDRESS"
    common[where] = str(port) if engine is slurm else address
    logs = [folder / f"log-{rank}" for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("w") as out:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, arguments)],
                    cwd=folder,
                    env={**common, **engine(rank)},
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            )
    end = time.monotonic() + SECONDS
    try:
        # Without one of them the other would wait for it.
        while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
            assert time.monotonic() < end, [log.read_text()[-3000:] for log in logs]
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    told = [log.read_text() for log in logs]
    assert [p.returncode for p in processes] == [0, 0], [text[-3000:] for text in told]
    return told


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return the folder, the findings and the texts of two processes of the worker."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "start.py").write_text(START)
    worker.language_model(None, worker.TOKENS, folder / "one", steps=4)
    script = [Path(worker.__file__), folder / "start.py", folder]
    told = together(slurm, script, folder)
    found = []
    for rank in range(2):
        with np.load(folder / f"{rank}.npz") as file:
            found.append(dict(file))
    return folder, found, told


@pytest.fixture(scope="module")
def one():
    return worker.language_model(None, worker.TOKENS)


def assert_close(found, expected, tolerance=1e-12):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        found,
        expected,
    )


def named(tree, name):
    leaves = jax.tree_util.tree_leaves_with_path({name: tree})
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def of(found, name):
    return {key: value for key, value in found.items() if key.startswith(f"['{name}']")}


# The decoder computes some of its parts in float32.
@pytest.mark.parametrize("name", ["unbroken", "one, then two"])
def test_training_of_two_processes_equals_that_of_one(two, one, name):
    assert one.history["loss"][-1] < 0.9 * one.history["loss"][0]
    for found in two[1]:
        assert_close(of(found, name), named(one, name), 1e-6)


def test_rows_and_parameters_that_all_processes_have(two):
    name = "every process has all rows"
    expected = named(worker.regression(worker.ROWS), name)
    for found in two[1]:
        assert_close(of(found, name), expected, 1e-9)


def test_a_signal_to_one_process_ends_both_and_one_process_goes_on(two, one):
    folder, found, _ = two
    assert [int(f["['code']"]) for f in found] == [143, 143]
    assert sorted(path.name for path in (folder / "two").iterdir()) == ["4", "8"]
    assert_close(worker.language_model(None, worker.TOKENS, folder / "two"), one, 1e-6)


def rows_over(devices):
    """Return what all methods find in rows over some devices of this process."""
    mesh = sharding.data_mesh(devices=devices)
    place = lambda rows: sharding.from_processes(rows, mesh)
    return named(worker.over_rows(place, mesh), "rows")


def test_rows_of_two_processes_and_of_eight_devices_equal_those_of_one(two):
    expected = rows_over(1)
    for found in (*two[1], rows_over(8)):
        assert_close(of(found, "rows"), expected, 1e-10)


def test_rows_that_processes_cannot_share_are_named_in_all(two):
    expected = [
        "rows=[2, 4]: accepted is one number in all processes, a multiple of 2 devices",
        "rows=[3, 3]: ",
        "rows=[2, -1]: ",
    ]
    for told in two[2]:
        errors = re.findall("ValueError: (.*)", told)
        assert len(errors) == 3
        assert all(map(str.startswith, errors, expected))


def test_the_first_process_writes_and_shows_progress(two):
    folder, _, told = two
    assert (folder / "written by 0" / "file").is_file()
    assert not (folder / "written by 1").exists()
    assert ["bar of" in text for text in told] == [True, False]


def test_the_program_of_the_documentation(tmp_path):
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(16, 3)), np.array([0.3, -0.2, 0.1])
    for rank, rows in enumerate(np.split(x, 2)):
        np.savez(tmp_path / f"part-{rank}.npz", x=rows, y=rows @ weights)
    (tmp_path / "train.py").write_text(START + TRAIN)
    told = together(kubernetes, ["train.py"], tmp_path)
    with np.load(tmp_path / "weights.npz") as found:
        np.testing.assert_allclose(found["w"], weights, atol=1e-3)
    assert ["200/200" in text for text in told] == [True, False]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["100", "200"]


def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    place = lambda devices: sharding.from_processes(
        worker.ROWS, sharding.data_mesh(devices=devices)
    )
    worker.regression(place(8), tmp_path, steps=4)
    found = worker.regression(place(2), tmp_path)
    assert_close(found, worker.regression(worker.ROWS), 1e-9)
    assert len(found.params["w"].sharding.device_set) == 2
