"""Texts in CSV: as Python's reader takes them apart, and fields of any length."""

import csv
import io

import numpy as np
import pytest

from jaxml.files.csv_text import parse_csv


def by_python(text):
    """Return the lines of Python's own reader, None where it refuses the text."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [line for line in reader if line]
    except csv.Error:
        return None


def by_jaxml(text):
    try:
        return list(parse_csv(text))
    except ValueError:
        return None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "a",
        "a,b\n1,2\n",
        "a,b\r\n1,2\r\n\r\n3,",
        ",",
        ",\n,,",
        '"a","b ""c"""\n',
        '"a\nb",c\r"d\r\ne"',
        '""\n',
        '"",',
        'a "b" c,d"\n',
        ' "a",b',
        '"a',
        '"a"b',
        '"a" ,b',
        '"""',
        '""""',
        "a\0b,\u00e9\u2028\x0b\n",
    ],
)
def test_texts_are_taken_apart_as_by_python(text):
    assert by_jaxml(text) == by_python(text)


def test_random_texts_are_taken_apart_as_by_python():
    rng = np.random.default_rng(0)
    refused = 0
    for length in rng.integers(1, 14, 20_000):
        text = "".join(np.array(list('a",\n\r '))[rng.integers(0, 6, length)])
        expected = by_python(text)
        assert by_jaxml(text) == expected, repr(text)
        refused += expected is None
    assert 5_000 < refused < 15_000


def test_a_book_is_a_field_and_no_setting_of_the_process_changes():
    book = 'He said "no",\nand "no" again. ' * 30_000
    quoted = book.replace('"', '""')
    limit = csv.field_size_limit()
    assert list(parse_csv(f'title,text\nA,"{quoted}"\n')) == [["title", "text"], ["A", book]]
    assert list(parse_csv("x" * 10**6)) == [["x" * 10**6]]
    assert csv.field_size_limit() == limit


def test_the_row_of_a_fault_is_told():
    with pytest.raises(ValueError, match="row 3: a quote is not closed, or text follows it"):
        list(parse_csv('a\n\nb\n"c'))
