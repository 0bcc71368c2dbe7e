"""What all commands read: numbers, paths, names in the library's source; and what they print."""

import argparse
import io
import os

import numpy as np
import pytest

from jaxml import unlearning
from jaxml.cli import COMMANDS, _parser, main
from jaxml.commands.terminal import add_max_gib, integer, names_in, path, say, utf8_path


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


def test_the_most_memory_is_a_number_of_gib(capsys):
    parser = argparse.ArgumentParser()
    add_max_gib(parser)
    assert parser.parse_args([]).max_bytes == 4 * 2**30
    assert parser.parse_args(["--max-gib", "0.5"]).max_bytes == 2**29
    for text in ("0", "-1", "nan", "inf", "1e99", "many"):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(["--max-gib", text])
        assert "accepted is a number of GiB above 0" in capsys.readouterr().err


def test_every_command_that_reads_files_takes_it(capsys):
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2].replace("_", "-")
        if name != "reproduce":
            with pytest.raises(SystemExit, match="0"):
                _parser().parse_args([name, "--help"])
            assert "--max-gib" in capsys.readouterr().out, name


@pytest.mark.parametrize("command", ["mfdfa", "register", "warp", "unfold", "identify"])
def test_a_large_file_is_one_line_and_exit_2(command, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.zeros((8, 9)) if command == "register" else np.zeros(400))
    np.savez(tmp_path / "a.npz", images=np.zeros((9, 4, 4, 1), np.uint8))
    np.savez(tmp_path / "f.npz", displacement=np.zeros((8, 9, 2)))
    (tmp_path / "m.py").write_text("def logits_fn(x):\n    return x[:, 0, 0, [0, 0]]\n")
    given = {
        "mfdfa": ["a.npy"],
        "register": ["a.npy", "a.npy"],
        "warp": ["f.npz", "a.npy"],
        "unfold": ["f.npz"],
        "identify": ["--images", "a.npz", "--model", "m.py"],
    }[command]
    paths = [word if word.startswith("--") else str(tmp_path / word) for word in given]
    out = ["--out", str(tmp_path / "out")]
    assert main([command, *paths, *out, "--max-gib", "1e-7"]) == 2
    error = capsys.readouterr().err
    assert "would take" in error and error.endswith("--max-gib, to read it\n")
    assert error.count("\n") == 1


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
