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
from jaxml.extras import DISTRIBUTIONS
from jaxml.files.pictures import decode
from jaxml.models import llama

ROOT = Path(jaxml.__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def brought_by(name):
    """Return the packages of an extra, those of the extras it names among them."""
    found = set()
    for requirement in EXTRAS[name]:
        inner = re.fullmatch(r"jaxml-methods\[(.*)\]", requirement)
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
    assert DISTRIBUTIONS.get(package, package) in brought_by(name)


def test_there_are_such_imports():
    assert {name for _, name, _ in NAMED} == {"experiments", "speech", "unlearning"}


def what_to_install(package, name):
    """Return the message; what the index has as `jaxml` is another project."""
    checkout = "or, in jaxml's folder with all that it goes with, pip install"
    return f"needs the package {package}: pip install {package}, {checkout} '.[{name}]'"


def test_a_package_is_named_as_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match="the package pillow: pip install pillow, "):
        decode(b"")


def test_nothing_tells_to_install_another_project():
    own = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*")]
    own += [path for part in ("jaxml", "benchmarks") for path in (ROOT / part).rglob("*.py")]
    name = re.compile(r"""pip install (-\S+ )*['"]?jaxml\b""")
    assert not [path for path in own if path.is_file() and name.search(path.read_text())]
    assert not [
        r for names in EXTRAS.values() for r in names if re.match(r"jaxml\b(?!-methods)", r)
    ]


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
    assert str(caught.value) == what_to_install(package, name)


def test_the_command_line_misses_the_plots_before_it_works(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "a.npy", np.arange(500.0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["mfdfa", "a.npy"]) == 2
    said = what_to_install("matplotlib", "experiments")
    assert capsys.readouterr().err == f"jaxml mfdfa: {said}\n"
    assert not (tmp_path / "runs").exists()


def test_the_command_line_names_the_extra_of_all_it_needs(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert main(["mfdfa", str(tmp_path / "a.wav"), "--out", str(tmp_path / "out")]) == 2
    said = what_to_install("soundfile", "experiments")
    assert capsys.readouterr().err == f"jaxml mfdfa: {said}\n"
