"""Where memory is short a command says so in one line, and what to do."""

import errno
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxml.cli import main
from jaxml.commands import memory, mfdfa
from jaxml.commands.memory import GIB, check_memory, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
        jax.errors.JaxRuntimeError("INTERNAL: Error dispatching computation: Out of memory"),
    ],
)
def test_lack_of_memory_is_one_line(error, capsys, monkeypatch, tmp_path):
    def run(args):
        raise error

    monkeypatch.setattr(mfdfa, "run", run)
    assert is_out_of_memory(error)
    assert main(["mfdfa", "x.npy", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("jaxml mfdfa: out of memory: ") and told.count("\n") == 1
    assert told.endswith("; give more memory, or shorter series\n")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "no"), jax.errors.JaxRuntimeError("INTERNAL: 0x7"), KeyError(1)]
)
def test_other_errors_are_none_of_memory(error):
    assert not is_out_of_memory(error)


def test_an_error_of_jax_is_one_line(capsys, monkeypatch, tmp_path):
    def run(args):
        raise jax.errors.JaxRuntimeError("INTERNAL: a callback\nfailed in <f at 0x7f00>")

    monkeypatch.setattr(mfdfa, "run", run)
    assert main(["mfdfa", "x.npy", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "jaxml mfdfa: INTERNAL: a callback failed in <f>\n"


def test_what_is_read_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "address_limit", lambda: 4 * GIB)
    monkeypatch.setattr(memory, "_free_memory", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    (tmp_path / "model").mkdir()
    files = [tmp_path / "a.npy", tmp_path / "model/model.safetensors"]
    for file in files:
        with file.open("wb") as opened:
            opened.truncate(4 * GIB)
        check_memory([tmp_path / "missing.npy"])
        # 1.4 GiB and .04 for each processor, and half a byte for each of the file.
        lack = r"needs at least 3.5 GiB; the limit of the address space \(ulimit -v\) is 3.0 GiB"
        with monkeypatch.context() as lower, pytest.raises(MemoryError, match=lack):
            lower.setattr(memory, "address_limit", lambda: 3 * GIB)
            check_memory([file if file == files[0] else tmp_path / "model"])
    monkeypatch.setattr(memory, "_free_memory", lambda: 2 * GIB)
    with pytest.raises(MemoryError, match="2.2 GiB; the memory that is free is 2.0 GiB"):
        check_memory(files[:1])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Small files for every command, and its arguments."""
    folder = tmp_path_factory.mktemp("inputs")
    write = "import fault_worker as f, pathlib, sys; f.write_data(pathlib.Path(sys.argv[1]))"
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, _paths()), ""])}
    subprocess.run([sys.executable, "-c", write, folder], env=place, check=True)
    rng = np.random.default_rng(0)
    np.save(folder / "a.npy", rng.normal(size=4096))
    np.save(folder / "b.npy", rng.uniform(size=(40, 40)).astype(np.float32))
    np.savez(folder / "c.npz", displacement=rng.normal(size=(40, 40, 2)))
    model = f"--model {folder}/unlearn/model --length 8"
    text = f"{folder}/unlearn/forget.txt"
    commands = {
        "mfdfa": f"{folder}/a.npy",
        # Two steps on noise make it less alike.
        "register": f"{folder}/b.npy {folder}/b.npy --steps 2 --anyway",
        "warp": f"inverse:{folder}/c.npz {folder}/b.npy",
        "unfold": f"{folder}/c.npz",
        "identify": f"--images {folder}/identify/images.npz --rounds 1 --steps 2 "
        f"--model {folder}/identify/model.py",
        "coreset": f"{model} --forget {text} --score loss",
        "unlearn": f"{model} --forget {text} --retain {text} --steps 2",
        "evaluate-unlearning": f"{model} --text {text}",
        "reproduce": f"speech --scale quick --data {folder}/speech",
    }
    return folder, place, commands


def _paths():
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return tests, os.path.dirname(tests)


@pytest.mark.study
@pytest.mark.parametrize("gigabytes", [1, 3])
@pytest.mark.parametrize(
    "command",
    [
        "mfdfa",
        "register",
        "warp",
        "unfold",
        "identify",
        "coreset",
        "unlearn",
        "evaluate-unlearning",
        "reproduce",
    ],
)
def test_a_limit_of_the_address_space_ends_in_the_result_or_one_line(
    command, gigabytes, inputs, tmp_path
):
    folder, place, commands = inputs
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({gigabytes} * 10**9,) * 2)
from jaxml.__main__ import run
run()
"""
    run = subprocess.run(
        [sys.executable, "-c", program, command, *commands[command].split(), "--out", tmp_path],
        env={**place, "XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    if run.returncode == 0:
        assert gigabytes > 1 and any(tmp_path.iterdir())
        return
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith(f"jaxml {command}: out of memory: needs at least")
    assert run.stderr.count("\n") == 1
