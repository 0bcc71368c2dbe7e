"""Long jobs that are killed, told to end or out of disk go on to the results of unbroken ones."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from job_results import assert_equal, assert_whole, finished, newest_checkpoints, results

from jaxml import cli
from jaxml.files.write import check_writable
from jaxml.training import fit

WORKER = Path(__file__).with_name("fault_worker.py")
# Seconds that no job may take.
LONG = 600
# Each kind of job once, and one experiment of `jaxml reproduce` that is soon compiled.
QUICK = {"fit": 1, "stages": 2, "identify": 1, "unlearn": 1}
EXPERIMENTS = ("registration", "speech", "backdoor", "self-training", "unlearning", "coreset")
MANY = {"fit": 8, "stages": 8, "identify": 4, "unlearn": 4, **dict.fromkeys(EXPERIMENTS, 5)}


@dataclasses.dataclass
class Run:
    """A process that does a job, or did."""

    number: int
    log: Path
    server: subprocess.Popen
    status: int | None = None

    def wait(self, seconds: float = LONG) -> bool:
        """Return whether it has ended within the time."""
        if self.status is None and select.select([self.server.stdout], [], [], seconds)[0]:
            self.status = os.waitstatus_to_exitcode(int(self.server.stdout.readline()))
        return self.status is not None

    def end(self, signal_: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.number, signal_)
        assert self.wait(60)

    def told(self) -> str:
        return self.log.read_text()


@dataclasses.dataclass
class Jobs:
    """Starts jobs, one at a time, in processes forked from one that has all imported."""

    folder: Path
    server: subprocess.Popen
    count: int = 0

    def start(self, job: str, out: Path, *, most_bytes=None, **places: Path) -> Run:
        self.count += 1
        log = self.folder / f"{self.count}.log"
        log.touch()
        given = {name: self.folder / name for name in ("data", "cache")} | places
        given = {name: str(path) for name, path in {**given, "out": out, "log": log}.items()}
        line = json.dumps({"job": job, "most_bytes": most_bytes, **given}) + "\n"
        self.server.stdin.write(line.encode())
        return Run(int(self.server.stdout.readline()), log, self.server)

    def run(self, job: str, out: Path, **given) -> Run:
        found = self.start(job, out, **given)
        assert found.wait(), f"{job} takes more than {LONG} s"
        return found

    def finish(self, job: str, out: Path, **given) -> Run:
        """Run a job that has to end well."""
        found = self.run(job, out, **given)
        assert found.status == 0, found.told()
        return found

    def unbroken(self, job: str) -> dict[str, object]:
        """Return the results of a job that nothing breaks off, which runs at the first call."""
        out = self.folder / f"unbroken-{job}"
        if not out.exists():
            self.finish(job, out)
        return results(out)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    place = {**os.environ, "PYTHONPATH": str(WORKER.parents[1])}
    place.pop("JAXML_DATA", None)
    command = [sys.executable, WORKER]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    with subprocess.Popen(command, env=place, **pipes) as server:
        found = Jobs(folder, server)
        found.finish("data", folder)
        yield found
        server.stdin.close()


def restored(run: Run) -> dict[str, int]:
    """Return from which step each training of a run went on."""
    lines = re.findall(r"^restored (.*) (\d+)$", run.told(), re.MULTILINE)
    # A training that was done is restored again in the same run.
    return {place: int(step) for place, step in reversed(lines)}


def kill_often(jobs: Jobs, job: str, count: int, folder: Path) -> int:
    """Kill a job at random moments and start it again, `count` times; return the runs compared."""
    clock = time.monotonic()
    expected = jobs.unbroken(job)
    # Without what was compiled and is kept from now on.
    whole = left = (time.monotonic() - clock) / 2
    rng = np.random.default_rng([*job.encode()])
    kills, compared, is_broken = 0, 0, False
    out, stages, steps = folder / "run-0", {}, {}
    while kills < count or is_broken:
        clock = time.monotonic()
        run = jobs.start(job, out)
        if kills < count and not run.wait(rng.uniform(0, left)):
            run.end(signal.SIGKILL)
        assert run.wait()
        seconds, told = time.monotonic() - clock, run.told()
        # No damage was seen, and nothing that had been finished was done again.
        assert "damaged" not in told and "Traceback" not in told
        assert stages.items() <= finished(out).items()
        assert all(step >= steps.get(place, 0) for place, step in restored(run).items())
        if run.status == 0:
            assert_equal(results(out), expected)
            compared += 1
            whole = left = whole if is_broken else seconds
            out, stages, steps, is_broken = folder / f"run-{compared}", {}, {}, False
        else:
            assert run.status == -signal.SIGKILL, told
            assert_whole(out)
            kills, is_broken = kills + 1, True
            left = max(left - seconds, whole / 4)
            stages, steps = finished(out), newest_checkpoints(out)
    return compared


@pytest.mark.study
@pytest.mark.parametrize("job", QUICK)
def test_a_killed_job_goes_on_to_the_same_results(jobs, tmp_path, job):
    kill_often(jobs, job, QUICK[job], tmp_path)


@pytest.mark.study
@pytest.mark.slow
@pytest.mark.parametrize("job", MANY)
def test_a_job_that_is_killed_often_goes_on_to_the_same_results(jobs, tmp_path, job):
    compared = kill_often(jobs, job, MANY[job], tmp_path)
    print(f"{job}: {MANY[job]} kills, {compared} runs compared")


def assert_told(run: Run, message: str) -> None:
    """The process ended with a line that says what was wrong, and no error that was not met."""
    assert run.status == 2, run.told()
    assert re.search(f"^jaxml {message}$", run.told(), re.MULTILINE), run.told()
    assert "jaxml/cli.py" not in run.told() and "Event loop" not in run.told()


@pytest.mark.study
@pytest.mark.parametrize(("most_bytes", "file"), [(30_000, "part-3.npz"), (60_000, "picture.png")])
def test_a_full_disk_is_told_and_the_rest_is_kept(jobs, tmp_path, most_bytes, file):
    expected = jobs.unbroken("stages")
    broken = jobs.run("stages", tmp_path, most_bytes=most_bytes)
    assert_told(broken, f"reproduce: .*File too large: '{tmp_path}.*/{file}'")
    assert not list(tmp_path.rglob(f"*{file}*"))
    kept = finished(tmp_path)
    jobs.finish("stages", tmp_path)
    assert kept and kept.items() <= finished(tmp_path).items()
    assert_equal(results(tmp_path), expected)


@pytest.mark.study
def test_a_disk_that_is_full_at_a_checkpoint_or_at_the_weights_is_told(jobs, tmp_path):
    expected = jobs.unbroken("unlearn")
    broken = jobs.run("unlearn", tmp_path, most_bytes=30_000)
    assert_told(broken, f"unlearn: {tmp_path}/.*: cannot be written: File too large.*")
    assert newest_checkpoints(tmp_path) == {}
    jobs.finish("unlearn", tmp_path)
    assert_equal(results(tmp_path), expected)

    # Now the training is done, and there is first no place and then no room for the weights.
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    (tmp_path / "model").touch()
    assert jobs.run("unlearn", tmp_path).status == 2
    (tmp_path / "model").unlink()
    broken = jobs.run("unlearn", tmp_path, most_bytes=30_000)
    assert_told(broken, f"unlearn: {tmp_path}/model: cannot be written: .*File too large.*")
    assert not list(tmp_path.rglob("model.safetensors*"))
    assert set(restored(jobs.finish("unlearn", tmp_path)).values()) == {150}
    assert_equal(results(tmp_path), expected)


@pytest.mark.study
@pytest.mark.parametrize(("job", "step"), [("stages", 20), ("unlearn", 100)])
def test_a_job_that_is_told_to_end_keeps_what_it_has(jobs, tmp_path, job, step):
    expected = jobs.unbroken(job)
    run = jobs.start(job, tmp_path)
    while "a chunk begins" not in run.told():
        assert not run.wait(0.01), run.told()
    run.end(signal.SIGTERM)
    assert run.status == -signal.SIGTERM, run.told()
    assert set(newest_checkpoints(tmp_path).values()) == {step}
    kept = finished(tmp_path)
    assert set(restored(jobs.finish(job, tmp_path)).values()) == {step}
    assert kept.items() <= finished(tmp_path).items()
    assert_equal(results(tmp_path), expected)


@pytest.mark.study
def test_damaged_stages_are_named_and_computed_anew(jobs, tmp_path):
    expected = jobs.unbroken("stages")
    shutil.copytree(jobs.folder / "unbroken-stages", tmp_path, dirs_exist_ok=True)
    whole = finished(tmp_path)
    damaged = [tmp_path / f"stages/stages/part-{number}.npz" for number in (1, 3, 5)]
    contents = (b"", np.random.default_rng(0).bytes(500), damaged[2].read_bytes()[:-20])
    for path, content in zip(damaged, contents, strict=True):
        path.write_bytes(content)
    told = jobs.finish("stages", tmp_path).told()
    assert re.findall(r"(/\S+): damaged", told) == list(map(str, damaged))
    assert {path for path, stat in finished(tmp_path).items() if stat == whole[path]} == {
        path for path in whole if path not in damaged
    }
    assert_equal(results(tmp_path), expected)


@pytest.mark.study
def test_a_compilation_cache_that_is_damaged_or_no_folder_changes_nothing(jobs, tmp_path):
    expected = jobs.unbroken("stages")
    cache, kept = jobs.folder / "cache", tmp_path / "kept"
    cache.rename(kept)
    shutil.copytree(kept, cache)
    for number, path in enumerate(sorted(cache.rglob("*-cache"))):
        # What a process that is killed leaves: JAX writes entries under their last name.
        os.truncate(path, number % 2 * path.stat().st_size // 2)
    told = jobs.finish("stages", tmp_path / "damaged").told()
    assert "Error reading persistent compilation cache entry" in told
    shutil.rmtree(cache)
    kept.rename(cache)
    (tmp_path / "file").touch()
    jobs.finish("stages", tmp_path / "none", cache=tmp_path / "file")
    for name in ("damaged", "none"):
        assert_equal(results(tmp_path / name), expected)


COMMANDS = {
    "reproduce": ["reproduce"],
    "identify": "identify --images a.npz --model m.py".split(),
    "coreset": "coreset --model m --forget f.txt".split(),
    "unlearn": "unlearn --model m --forget f.txt --retain r.txt".split(),
    "evaluate_unlearning": "evaluate-unlearning --model m --text f.txt".split(),
    "register": "register a.npy b.npy".split(),
    "warp": "warp a.mat b.npy --onto b.npy".split(),
    "unfold": "unfold fields.npz".split(),
    "mfdfa": "mfdfa a.npy".split(),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    command, tmp_path, monkeypatch, capsys
):
    def read_only(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), f"{dir}/tmp1")

    def never(args):
        raise AssertionError("work has begun")

    monkeypatch.setattr(f"jaxml.commands.{command}.run", never)
    (tmp_path / "file").touch()
    folder = tmp_path / "folder/out"
    for out in (tmp_path / "file", tmp_path / "file/out", folder):
        if out == folder:
            monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
        assert cli.main([*COMMANDS[command], "--out", str(out)]) == 2
        reason = "Read-only file system" if out == folder else "Not a directory"
        told = capsys.readouterr().err.splitlines()
        assert told == [f"jaxml {COMMANDS[command][0]}: {out}: cannot be written: {reason}"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_checkpoints_that_cannot_be_written_are_told_before_the_first_step(tmp_path, unchecked):
    def never(params, data, key):
        jax.debug.callback(lambda: pytest.fail("a step was made"))
        return jnp.sum(params), {}

    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory: .*file/run"):
        fit(
            jax.random.key(0), never, jnp.zeros(2), jnp.zeros(2), optimizer=optax.sgd(0.1),
            steps=2, folder=tmp_path / "file/run",
        )  # fmt: skip


@pytest.mark.parametrize("out", ["link", "link/out", "x" * 256, "new/" + "x" * 256])
def test_a_place_that_cannot_be_made_is_told_before_the_work(out, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxml.commands.mfdfa.run", lambda args: pytest.fail("work has begun"))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="link to nothing|File name too long"):
        check_writable(Path(out))
    # What is told of a name too long is told when it is read.
    try:
        assert cli.main(["mfdfa", "a.npy", "--out", out]) == 2
    except SystemExit as ended:
        assert ended.code == 2 and "x" in out
    assert out in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
