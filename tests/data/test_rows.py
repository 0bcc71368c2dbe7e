import csv
import json
import os
import sys

import pytest
from damaged_files import limits

from jaxml.data import DataError, load_books
from jaxml.data.rows import read_rows

ROWS = [
    {"question": 'Who said "Off!"?', "answer": "the Queen,\nof Hearts"},
    {"question": "O\u00f9\u2028?", "answer": ""},
]


def write(path, rows=ROWS):
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl" or path.stem == "lines":
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        path.write_text("\n".join([*lines, "", ""]), "utf-8")
    else:
        path.write_text(json.dumps(rows, indent=1), "utf-8")
    return path


@pytest.mark.parametrize("name", ["a.json", "lines.json", "a.jsonl", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    path = write(tmp_path / name)
    assert read_rows(path) == ROWS
    assert read_rows(str(path.with_suffix(""))) == ROWS


def test_parts_are_read_in_order(tmp_path):
    for i in range(2):
        write(tmp_path / f"test-0000{i}-of-00002.parquet", ROWS[i : i + 1])
    assert read_rows(tmp_path / "test") == ROWS


def test_texts_alone_and_one_object(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(["one", "two"]))
    assert read_rows(path) == [{"text": "one"}, {"text": "two"}]
    path.write_text(json.dumps(ROWS[0]))
    assert read_rows(path) == ROWS[:1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "a.json: not json"),
        ("a.json", b"[]", "a.json: no rows; give a json"),
        ("a.json", b"[" * 100_000, "a.json: not json"),
        ("a.json", b"[" + b"9" * 5000 + b"]", "a.json: not json"),
        ("a.json", rb'["\ud800"]', "a.json: not json .*surrogates"),
        ("a.jsonl", rb'{"a": [{"b\udC00": 1}]}', "a.jsonl, line 1: not json .*surrogates"),
        ("a.jsonl", b'"x"\n' + b'{"a":' * 100_000, "a.jsonl, line 2: not json"),
        ("a.json", b"[1]", "a.json, row 1: a int; give an object or a text"),
        ("a.jsonl", b'{"a": 1}\n{"a"', "a.jsonl, line 2: not json"),
        ("lines.json", b'{"a": 1}\n\n{"a"', "lines.json, line 3: not json"),
        ("a.csv", b"", "a.csv: no rows"),
        ("a.csv", b"a,b\n1,2\n3\n", "a.csv, row 3: 1 fields, but 2 in the header"),
        ("a.csv", b'a,b\n"1,2\n', "a.csv: not a readable csv"),
        ("a.csv", b"a\n\xff\n", "a.csv: not a readable text in UTF-8"),
        ("a.jsonl", b"\xff", "a.jsonl: not a readable text in UTF-8"),
        ("a.parquet", b"PAR1", "a.parquet: not a readable parquet"),
        ("a.parquet", b"", "a.parquet: not a readable parquet"),
        ("a.xml", b"<a/>", "a.xml: suffix '.xml' is unknown; give a json"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_pairs_of_surrogates_are_characters(tmp_path):
    (tmp_path / "a.json").write_bytes(rb'["\ud83d\ude00 \\ud800"]')
    assert read_rows(tmp_path / "a.json") == [{"text": "\U0001f600 \\ud800"}]


def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("a.json", "b.txt", "c-0-of-1.csv"):
        os.mkfifo(tmp_path / name)
    for path in (tmp_path / "a.json", tmp_path / "a", tmp_path / "c"):
        with pytest.raises(DataError, match="no such file"):
            read_rows(path)
    with pytest.raises(DataError, match="not a readable text"):
        load_books(tmp_path)


def varint(number):
    """A whole number as Thrift writes it."""
    number, content = 2 * number, b""
    while number > 127:
        content, number = content + bytes([number % 128 + 128]), number // 128
    return content + bytes([number])


def test_rows_that_a_parquet_file_claims_are_not_made_room_for(tmp_path):
    rows = [{"a": i, "b": str(i % 3)} for i in range(7777)]
    parquet = write(tmp_path / "a.parquet", rows).read_bytes()
    size = int.from_bytes(parquet[-8:-4], "little")
    footer = parquet[-8 - size : -8]
    assert footer.count(varint(7777)) >= 3
    for claimed in (2**31 - 1, 2**40, 2**62):
        changed = footer.replace(varint(7777), varint(claimed))
        end = len(changed).to_bytes(4, "little") + b"PAR1"
        (tmp_path / "a.parquet").write_bytes(parquet[: -8 - size] + changed + end)
        with limits(), pytest.raises(DataError, match=r"a\.parquet: would take .* of memory"):
            read_rows(tmp_path / "a.parquet")


def test_missing_file_and_missing_pyarrow(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="nothing: no such file; give a json"):
        read_rows(tmp_path / "nothing")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"a\.parquet: parquet is read by pyarrow .*install it"):
        read_rows(tmp_path / "a.parquet")


def test_a_book_in_a_cell_is_read(tmp_path):
    book = 'She said "no",\nand sat down.\n' * 20_000
    quoted = book.replace('"', '""')
    (tmp_path / "a.csv").write_text(f'name,text\nOne,"{quoted}"\nTwo,short\n')
    rows = read_rows(tmp_path / "a.csv")
    assert rows == [{"name": "One", "text": book}, {"name": "Two", "text": "short"}]
