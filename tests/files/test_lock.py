"""One run at a time in a folder, whatever ended the one before."""

import errno
import os
import signal
import subprocess
import sys

import jax
import pytest

from jaxml import cli
from jaxml.files.errors import DataError
from jaxml.files.lock import at_work, remove_partial_files

HOLD = """
import sys, time
from pathlib import Path
from jaxml.files.lock import at_work

with at_work(Path(sys.argv[1])):
    print("at work", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """A process that is at work in a folder."""
    command = [sys.executable, "-c", HOLD, tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        yield process
        process.kill()


def test_a_second_run_is_told_of_the_first_and_changes_nothing(other, tmp_path, capsys):
    out = tmp_path / "out"
    told = (
        f"{out}: another run (process {other.pid}) is at work in it; wait for it, or give "
        "another folder"
    )
    with pytest.raises(DataError) as error, at_work(out):
        pytest.fail("both are at work")
    assert str(error.value) == told
    (out / ".scores.csv.999999999").touch()
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert cli.main(["mfdfa", str(tmp_path / "a.npy"), "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"jaxml mfdfa: {told}\n"
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_killed_run_keeps_nobody_out(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "out/.lock").read_text() == str(other.pid)
    with at_work(tmp_path / "out"):
        assert (tmp_path / "out/.lock").read_text() == str(os.getpid())
    assert list((tmp_path / "out").iterdir()) == []


def test_what_was_made_for_the_lock_alone_is_removed(tmp_path):
    with at_work(tmp_path / "a/b"):
        assert (tmp_path / "a/b/.lock").exists()
    assert list(tmp_path.iterdir()) == []
    with at_work(tmp_path / "a/b"):
        (tmp_path / "a/result").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "result"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyboardInterrupt), at_work(tmp_path / "empty"):
        raise KeyboardInterrupt
    assert list((tmp_path / "empty").iterdir()) == []


def test_threads_and_folders_are_told_apart(tmp_path):
    with at_work(tmp_path), at_work(tmp_path / "inner"):
        with pytest.raises(DataError, match=f"process {os.getpid()}"), at_work(tmp_path):
            pass
        with pytest.raises(DataError, match="inner: another run"), at_work(tmp_path / "inner"):
            pass
    with at_work(tmp_path):
        pass


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """The first run ends between the second's opening of the file and its lock."""
    import fcntl

    lock, calls = fcntl.flock, []

    def removed(file, how):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(file)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed)
    with at_work(tmp_path):
        assert len(calls) == 2
        with pytest.raises(DataError, match="another run"), at_work(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_hindrance(tmp_path, monkeypatch, number):
    def no_locks(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with at_work(tmp_path / "out"), at_work(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()


def test_of_several_processes_the_first_holds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with at_work(tmp_path), at_work(tmp_path):
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with at_work(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_partial_files_of_ended_processes_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = [f"out/.report.md.{ended.pid}", f"out/a/stages/.part-3.npz.{ended.pid}"]
    kept = [
        f"out/.report.md.{os.getpid()}",
        "out/report.md",
        f"out/.profile.{ended.pid}",
        f"out/report.md.{ended.pid}",
        f"out/.report.md.{ended.pid}.swp",
        f".report.md.{ended.pid}",
    ]
    for name in (*stale, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_partial_files(tmp_path / "out")
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {*kept}
