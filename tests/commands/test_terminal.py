"""What all commands read: whole numbers, and names that stand in the library's source."""

import argparse

import numpy as np
import pytest

from jaxml import unlearning
from jaxml.cli import COMMANDS, main
from jaxml.cli import _parser as parser_of_all
from jaxml.commands.terminal import add_max_gib, integer, names_in


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
                parser_of_all().parse_args([name, "--help"])
            assert "--max-gib" in capsys.readouterr().out, name


@pytest.mark.parametrize("command", ["mfdfa", "register", "identify"])
def test_a_large_file_is_one_line_and_exit_2(command, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.zeros((8, 9)) if command == "register" else np.zeros(400))
    np.savez(tmp_path / "a.npz", images=np.zeros((9, 4, 4, 1), np.uint8))
    (tmp_path / "m.py").write_text("def logits_fn(x):\n    return x[:, 0, 0, [0, 0]]\n")
    given = {
        "mfdfa": ["a.npy"],
        "register": ["a.npy", "a.npy"],
        "identify": ["--images", "a.npz", "--model", "m.py"],
    }[command]
    paths = [word if word.startswith("--") else str(tmp_path / word) for word in given]
    out = ["--out", str(tmp_path / "out")]
    assert main([command, *paths, *out, "--max-gib", "1e-7"]) == 2
    error = capsys.readouterr().err
    assert "would take" in error and error.endswith("--max-gib, to read it\n")
    assert error.count("\n") == 1
