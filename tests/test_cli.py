import argparse
import inspect
import json
import os
import re
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import soundfile

from jaxml import llm
from jaxml.backdoor import IdentifyConfig
from jaxml.cli import _parser, main
from jaxml.commands import mfdfa_files
from jaxml.commands.coreset_files import choose_files
from jaxml.commands.evaluate_files import evaluate_files
from jaxml.commands.register_files import register_files
from jaxml.commands.unlearn_files import unlearn_files
from jaxml.reproduce import reproduce
from jaxml.unlearning import UnlearnConfig


def _noise(samples=2048, seed=0):
    return np.random.default_rng(seed).normal(size=samples)


def test_mfdfa_writes_numbers_and_a_plot_for_every_kind_of_file(tmp_path, capsys):
    x = _noise()
    soundfile.write(tmp_path / "a.wav", 0.1 * x, 8000)
    soundfile.write(tmp_path / "b.flac", 0.1 * x, 8000)
    np.savetxt(tmp_path / "c.csv", x, header="x", comments="")
    np.save(tmp_path / "d.npy", x)
    names = ["a.wav", "b.flac", "c.csv", "d.npy"]
    out = tmp_path / "out"
    assert main(["mfdfa", *(str(tmp_path / n) for n in names), "--out", str(out)]) == 0
    table = capsys.readouterr().out
    second = []
    for name in names:
        assert f"| {name} |" in table
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        found = json.loads((out / f"{name}.json").read_text())
        second.append(found["h"][found["q"].index(2.0)])
    # One series in four containers: 16-bit audio costs digits, the others none.
    assert np.ptp(second) < 2e-3
    assert abs(second[2] - second[3]) < 1e-6
    assert abs(second[3] - 0.5) < 0.1


def test_mfdfa_of_a_constant_says_so(tmp_path, capsys):
    np.save(tmp_path / "flat.npy", np.full(512, 3.0))
    assert main(["mfdfa", str(tmp_path / "flat.npy"), "--out", str(tmp_path / "out")]) == 0
    assert "| flat.npy | constant |" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/flat.npy.json").read_text())["h_stderr"][0] is None


def test_mfdfa_of_two_scales_is_no_constant(tmp_path, capsys):
    np.save(tmp_path / "x.npy", _noise())
    arguments = ["mfdfa", str(tmp_path / "x.npy"), "--scales", "16", "64", "--q", "2"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/x.npy.json").read_text())
    assert f"| x.npy | {found['h'][0]:.3f} |" in capsys.readouterr().out


def _write_bad(tmp_path):
    np.save(tmp_path / "large.npy", 1e300 * _noise())
    (tmp_path / "broken.wav").write_bytes(b"RIFF no sound")
    (tmp_path / "empty.csv").write_text("")
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan] * 500))
    np.save(tmp_path / "square.npy", np.ones((30, 30)))
    np.save(tmp_path / "short.npy", np.arange(20.0))
    np.save(tmp_path / "good.npy", _noise())
    (tmp_path / "x.txt").write_text("1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["broken.wav"], "broken.wav: not readable as audio"),
        (["empty.csv"], "empty.csv: empty"),
        (["nan.npy"], "nan.npy: 500 NaN or inf"),
        (["square.npy"], r"square.npy: shape \(30, 30\)"),
        (["short.npy"], "short.npy: n=20: accepted is samples enough for two scales"),
        (["missing.wav"], "missing.wav: no such file"),
        (["x.txt"], "x.txt: unknown suffix '.txt'"),
        (["good.npy", "nan.npy"], "nan.npy"),
        (["good.npy", "good.npy"], "files='good.npy': accepted is each name once"),
        (["good.npy", "--order", "7"], "order=7: accepted is one of 0, 1, 2, 3"),
        (
            ["good.npy", "--scales", "2", "64"],
            r"scales=\[2, 64\] with values from 2 to 64: accepted is 3, ",
        ),
        (["good.npy", "--scales", "16", "4096"], "to 2048"),
        (["good.npy", "--q", "nan"], r"q=\[nan\]: accepted is"),
        (
            ["good.npy", "--q", "1e300"],
            r"good.npy: q=\[1e\+300\]: accepted is moment orders nearer to 0",
        ),
        (["large.npy"], r"large.npy: values up to 3\..e\+300; accepted are ones below 1e38"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments, message, tmp_path, capsys, monkeypatch, unchecked
):
    _write_bad(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["mfdfa", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert re.search(message, printed.err)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speach"], "method='speach': accepted is one of 'registration', 'speech', 'backdoor'"),
        (["--scale", "huge"], "scale='huge': accepted is one of 'quick', 'standard', 'paper'"),
        (["speech", "--data", "nowhere"], "nowhere: no such folder"),
        (["speech", "--seed", "-1"], "seed=-1: accepted is 0 to 2147483647"),
    ],
)
def test_reproduce_names_what_it_accepts(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", ["2147483648", "-2147483648", "9" * 5000, "1.5", "many"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["register", "a.npy", "b.npy", "--steps"],
        ["identify", "--images", "a", "--model", "b.py", "--rounds"],
        ["coreset", "--model", "a", "--forget", "b", "--seed"],
        ["mfdfa", "a.npy", "--scales"],
    ],
)
def test_numbers_that_no_integer_of_jax_holds_are_named(arguments, number, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, number])
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {arguments[-1]}: '{number[:40]}': accepted is a whole number" in told


def parser_of(command):
    """Return the parser of a sub-command."""
    (commands,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices[command]


def words_of(command, option):
    """Return the words of an option's help."""
    (action,) = (a for a in parser_of(command)._actions if option in a.option_strings)
    return set(re.findall(r"[\w-]+", action.help))


def test_names_in_the_help_are_those_of_the_library():
    from jaxml.commands.register_files import PROJECTIONS
    from jaxml.commands.unlearn_files import METHODS, RETAIN_TERMS
    from jaxml.llm._score import SCORES
    from jaxml.unlearning.coreset._select import Keep

    filler = {"default", "or"}
    assert words_of("unlearn", "--method") - filler == set(METHODS)
    assert words_of("unlearn", "--retain-term") - filler == set(RETAIN_TERMS)
    assert words_of("register", "--projection") - filler == set(PROJECTIONS)
    assert words_of("coreset", "--keep") - filler - {"scores"} == set(get_args(Keep))
    note = {"of", "the", "down", "matrices", "only"}
    assert words_of("coreset", "--score") - filler - note == set(SCORES)


@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        ("unlearn", lambda: vars(UnlearnConfig()) | {"retain_term": UnlearnConfig().retain}),
        ("unlearn", lambda: defaults_of(llm.unlearn)),
        ("unlearn", lambda: defaults_of(unlearn_files)),
        ("evaluate-unlearning", lambda: defaults_of(llm.evaluate)),
        ("evaluate-unlearning", lambda: defaults_of(evaluate_files)),
        ("coreset", lambda: defaults_of(choose_files)),
        ("coreset", lambda: defaults_of(llm.score)),
        ("identify", lambda: vars(IdentifyConfig())),
        ("register", lambda: defaults_of(register_files)),
        ("reproduce", lambda: defaults_of(reproduce)),
    ],
)
def test_defaults_are_those_of_the_library(command, defaults):
    parser = parser_of(command)
    own = {action.dest: action for action in parser._actions if action.default is not None}
    library = {name: value for name, value in defaults().items() if value is not None}
    # A file is no setting, and what is asked for is asked for by files.
    shared = (own.keys() & library.keys()) - {"retain", "choices", "text"}
    assert shared
    for name in shared:
        assert own[name].default == library[name], name
        stated = re.search(r"\(default: (.*?)\)", own[name].help or "")
        assert stated is None or stated[1] == str(library[name]), name


def defaults_of(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_help_imports_nothing_heavy():
    code = "import sys, jaxml.cli; jaxml.cli._parser(); print([m for m in sys.modules if m=='jax'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_module_runs_as_a_program():
    run = subprocess.run([sys.executable, "-m", "jaxml", "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and "reproduce" in run.stdout


def test_mfdfa_takes_files_of_any_name(tmp_path, capsys):
    names = ["$x$ $.npy", os.fsdecode(b"caf\xe9.npy"), os.fsdecode(b"caf\xe9.wav"), "a|b\nc.npy"]
    for name in names:
        if name.endswith(".npy"):
            np.save(tmp_path / name, _noise())
        else:
            soundfile.write(os.fsencode(tmp_path / name), 0.1 * _noise(), 8000)
    out = tmp_path / "out"
    assert main(["mfdfa", *(str(tmp_path / n) for n in names), "--out", str(out)]) == 0
    table = capsys.readouterr().out
    told_names = ["$x$ $.npy", r"caf\xe9.npy", r"caf\xe9.wav", r"a\|b\nc.npy"]
    for name, told in zip(names, told_names, strict=True):
        assert f"| {told} |" in table
        assert json.loads((out / f"{name}.json").read_text())["file"] == str(tmp_path / name)


def test_mfdfa_refuses_a_name_too_long_for_those_of_the_results(tmp_path, capsys):
    name = "x" * 240 + ".npy"
    np.save(tmp_path / name, _noise())
    assert main(["mfdfa", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    assert "accepted is a name of up to 240 bytes" in capsys.readouterr().err
    shorter = "x" * 236 + ".npy"
    (tmp_path / name).rename(tmp_path / shorter)
    assert main(["mfdfa", str(tmp_path / shorter), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("bad", ["nan.npy", "short.npy", "large.npy"])
def test_a_bad_file_is_told_before_the_others_are_analyzed(bad, tmp_path, capsys, monkeypatch):
    _write_bad(tmp_path)
    monkeypatch.setattr(mfdfa_files, "_analyze", lambda *_: pytest.fail("analyzed"))
    arguments = ["mfdfa", str(tmp_path / "good.npy"), str(tmp_path / bad)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert bad in capsys.readouterr().err


def test_what_is_analyzed_is_kept_where_a_later_file_fails(tmp_path, capsys, monkeypatch):
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, _noise())
    analyze = mfdfa_files._analyze

    def lost(file, settings, max_bytes):
        if file.name == "b.npy":
            raise MemoryError("for b")
        return analyze(file, settings, max_bytes)

    monkeypatch.setattr(mfdfa_files, "_analyze", lost)
    arguments = ["mfdfa", str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "out of memory: for b" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.npy.json", "a.npy.png"}
