"""What all commands read: whole numbers, and names that stand in the library's source."""

import argparse

import pytest

from jaxml import unlearning
from jaxml.commands.terminal import integer, names_in


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
