"""Paths as a user writes them: home folders, and names that no file system takes."""

import os
from pathlib import Path

import pytest

from jaxml.files.errors import DataError
from jaxml.files.paths import expanded, is_utf8


def test_home_folders_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/mine")
    assert expanded("~/a") == Path("/home/of/mine/a")
    assert expanded("a/~") == Path("a/~")


def test_an_unknown_user_is_named(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"^~nobody.known/a: no home folder is known for ~nobody"):
        expanded("~nobody.known/a")
    monkeypatch.chdir(tmp_path)
    Path("~nobody.known").touch()
    assert expanded("~nobody.known") == Path("~nobody.known")


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128])
def test_a_name_longer_than_any_is_told(name):
    with pytest.raises(DataError, match="a name of 256 bytes; accepted are 255"):
        expanded(f"folder/{name}/file")
    assert expanded(f"folder/{'x' * 255}") == Path(f"folder/{'x' * 255}")


def test_utf8():
    assert is_utf8(Path("é\n")) and not is_utf8(Path(os.fsdecode(b"\xe9")))
