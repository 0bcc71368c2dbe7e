"""Commands run where there is no home, or none that can be written."""

import os
import pwd
from pathlib import Path

import numpy as np
import pytest

from jaxml.cli import main
from jaxml.commands.caches import user_cache

NAMES = ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")


@pytest.fixture
def no_home(monkeypatch):
    """The environment of a container's user without an entry in the table of users."""

    def missing(user):
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", missing)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError):
        Path.home()


def test_without_a_home_there_is_one_for_the_run(no_home):
    with user_cache() as cache:
        assert cache is None
        folders = {os.environ[name] for name in ("HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")}
        (folder,) = folders
        assert Path.home() == Path(folder) and os.access(folder, os.W_OK)
    assert not Path(folder).exists() and not any(name in os.environ for name in NAMES)


def test_a_command_needs_no_home(no_home, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=512))
    assert main(["mfdfa", str(tmp_path / "a.npy"), "--out", str(tmp_path / "out")]) == 0
    assert "| a.npy |" in capsys.readouterr().out and (tmp_path / "out/a.npy.png").exists()


def test_a_home_that_cannot_be_written_is_still_read(monkeypatch, tmp_path):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("MPLCONFIGDIR", "of the user's")
    with user_cache() as cache:
        assert cache is None and os.environ["HOME"] == str(tmp_path / "file")
        assert os.environ["MPLCONFIGDIR"] == "of the user's"
        assert Path(os.environ["NUMBA_CACHE_DIR"]).is_dir()


@pytest.mark.parametrize("named", [True, False])
def test_the_users_cache_is_used(named, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if named:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    before = dict(os.environ)
    with user_cache() as cache:
        assert cache == (tmp_path / "own" if named else tmp_path / ".cache")
        assert dict(os.environ) == before
