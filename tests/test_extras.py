"""Packages that only some functions need: which extra brings each, and what is said without."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import jaxml
from jaxml import speech
from jaxml.cli import main
from jaxml.data import load_audio, load_volume
from jaxml.models import llama

ROOT = Path(jaxml.__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PACKAGES = {"PIL": "pillow"}


def brought_by(name):
    """Return the packages of an extra, those of the extras it names among them."""
    found = set()
    for requirement in EXTRAS[name]:
        inner = re.fullmatch(r"jaxml\[(.*)\]", requirement)
        if inner:
            found |= {p for part in inner[1].split(",") for p in brought_by(part)}
        else:
            found.add(re.match(r"[\w-]+", requirement)[0])
    return found


def named_extras():
    """Yield file, extra and package of the imports that say what to install."""
    for path in sorted((ROOT / "jaxml").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.With) and ast.unparse(node.items[0]).startswith("extra("):
                name = ast.literal_eval(node.items[0].context_expr.args[0])
                for line in node.body:
                    if isinstance(line, ast.Import):
                        yield path.stem, name, line.names[0].name
                    elif isinstance(line, ast.ImportFrom):
                        yield path.stem, name, line.module.split(".")[0]


NAMED = sorted(set(named_extras()))


@pytest.mark.parametrize(("file", "name", "package"), NAMED)
def test_the_extra_brings_the_package(file, name, package):
    assert PACKAGES.get(package, package) in brought_by(name)


def test_there_are_such_imports():
    assert {name for _, name, _ in NAMED} == {"experiments", "speech", "unlearning"}


def _trim(_):
    return speech.trim_silence(np.ones(8000, np.float32), rate=8000)


@pytest.mark.parametrize(
    ("package", "name", "call"),
    [
        ("librosa", "speech", _trim),
        ("soundfile", "speech", lambda folder: load_audio(folder / "a.wav")),
        ("nibabel", "experiments", lambda folder: load_volume(folder / "a.nii.gz")),
        ("gguf", "unlearning", lambda folder: llama.load(folder / "a.gguf")),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package, name, call, tmp_path, monkeypatch):
    for file in ("a.wav", "a.nii.gz", "a.gguf"):
        (tmp_path / file).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        call(tmp_path)
    told = f"needs the package {package}; install it with: pip install 'jaxml[{name}]'"
    assert str(caught.value) == told


def test_the_command_line_misses_the_plots_before_it_works(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "a.npy", np.arange(500.0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["mfdfa", "a.npy"]) == 2
    said = "jaxml mfdfa: needs the package matplotlib; install it with: pip install "
    assert capsys.readouterr().err == f"{said}'jaxml[experiments]'\n"
    assert not (tmp_path / "runs").exists()


def test_the_command_line_names_the_extra_of_all_it_needs(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert main(["mfdfa", str(tmp_path / "a.wav"), "--out", str(tmp_path / "out")]) == 2
    said = "jaxml mfdfa: needs the package soundfile; install it with: pip install "
    assert capsys.readouterr().err == f"{said}'jaxml[experiments]'\n"
