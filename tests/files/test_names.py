"""Names from outside as text: every name of a file can be shown, printed and encoded."""

import os

import pytest

from jaxml.files.errors import DataError, damage
from jaxml.files.names import one_line, shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain name-1.npy", "plain name-1.npy"),
        ("বাংলা テスト é 🙂", "বাংলা テスト é 🙂"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x7f", r"\x1b[31mred\x7f"),
        ("a\u2028b", r"a\u2028b"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_cannot_be_seen_is_escaped(name, expected):
    assert shown(name) == expected
    assert shown(name).encode().decode().isprintable()


def test_a_message_is_one_line_without_addresses():
    assert one_line(ValueError("two\n  lines of <f at 0x7f00ab>")) == "two lines of <f>"
    assert one_line(KeyError()) == "KeyError"


def test_damage_names_no_addresses():
    with pytest.raises(DataError, match=r"^a: cannot identify <_io.BytesIO object>$"):
        with damage(OSError, prefix="a: "):
            raise OSError("cannot identify <_io.BytesIO object at 0x7f3ec47dd8f0>")
