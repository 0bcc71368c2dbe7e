"""What all commands read: numbers, paths, names in the library's source; and what they print."""

import argparse
import io
import os

import pytest

from jaxml import unlearning
from jaxml.cli import _parser
from jaxml.commands.terminal import integer, names_in, path, say, utf8_path


def test_names_are_those_of_the_table_without_loading_it():
    names = [
        *names_in("unlearning/_objectives.py", "SEQUENCE_OBJECTIVES"),
        *names_in("unlearning/_token_objectives.py", "TOKEN_OBJECTIVES"),
    ]
    assert names == [*unlearning.OBJECTIVES]


@pytest.mark.parametrize("text", ["1.5", "many", "2147483648", "9" * 5000])
def test_integer_refuses_what_is_none_of_32_bits(text):
    assert integer("-7") == -7
    with pytest.raises(argparse.ArgumentTypeError, match="accepted is a whole number"):
        integer(text)


def all_options():
    (commands,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    for command, parser in commands.choices.items():
        for action in parser._actions:
            yield command, action


def test_every_path_of_every_command_may_begin_with_a_home_folder():
    paths = {"FILE", "DIR", "DIR|GGUF|NAME", "FOLDER|NPZ", "FIXED", "MOVING"}
    options = [
        (command, action)
        for command, action in all_options()
        if paths
        & {*([action.metavar] if isinstance(action.metavar, str) else action.metavar or ())}
        or action.dest == "privacy"
    ]
    assert len(options) > 20
    assert not [(c, a.dest) for c, a in options if a.type not in (path, utf8_path)]


def test_a_home_folder_is_expanded_and_an_unknown_user_is_named(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/of/mine")
    read = _parser().parse_args(["register", "~/a.npy", "~/b.npy", "--out", "~/c"])
    assert [str(p) for p in (read.fixed, read.moving, read.out)] == [
        f"/home/of/mine/{name}" for name in ("a.npy", "b.npy", "c")
    ]
    for arguments in (["mfdfa", "~nobody.known/a"], ["mfdfa", "a", "--out", "~nobody.known"]):
        with pytest.raises(SystemExit, match="2"):
            _parser().parse_args(arguments)
        assert "no home folder is known for ~nobody.known" in capsys.readouterr().err


def test_checkpoints_need_a_path_in_utf8(capsys):
    out = os.fsdecode(b"caf\xe9")
    for arguments in (["reproduce"], "unlearn --model a --forget b --retain c".split()):
        with pytest.raises(SystemExit, match="2"):
            _parser().parse_args([*arguments, "--out", out])
        assert "accepted is a path in UTF-8" in capsys.readouterr().err
    assert str(_parser().parse_args(["mfdfa", "a", "--out", out]).out) == out


@pytest.mark.parametrize(
    ("encoding", "printed"), [("ascii", b"\\xb1 \\udce9\n"), ("utf-8", b"\xc2\xb1 \\udce9\n")]
)
def test_what_a_terminal_lacks_is_escaped(encoding, printed):
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding=encoding)
    say("± \udce9", terminal)
    terminal.flush()
    assert written.getvalue() == printed
