import json

import numpy as np
import pytest

from jaxml.data import DataError
from jaxml.data import text as text_module
from jaxml.data.text import chunk_tokens, load_books, load_texts


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("JAXML_DATA", raising=False)


@pytest.mark.parametrize("inner", ["", "text"])
def test_books_of_a_folder(tmp_path, monkeypatch, inner):
    (tmp_path / inner).mkdir(exist_ok=True)
    (tmp_path / inner / "oz.txt").write_text("Dorothy", "utf-8-sig")
    (tmp_path / inner / "alice.txt").write_text("d\u00e9j\u00e0 vu\n", "utf-8")
    (tmp_path / inner / "notes.md").write_text("no book")
    found = load_books(tmp_path)
    assert found.names == ("alice", "oz")
    assert found.texts == ("d\u00e9j\u00e0 vu\n", "Dorothy")
    assert found.source == f"{(tmp_path / inner)} (2 books, 15 characters)"
    monkeypatch.setenv("JAXML_DATA", str(tmp_path))
    assert load_books(None) == found


def test_documentation_of_python_where_nothing_is_named(monkeypatch, tmp_path):
    found = load_books(None)
    assert len(found.names) >= 3
    assert "documentation strings of Python" in found.source
    assert dict(zip(found.names, found.texts, strict=True))["statistics"].startswith("Basic stat")
    assert min(map(len, found.texts)) > 10_000
    # No book is part of another: one can be forgotten and the others kept.
    lines = [{line for line in text.splitlines() if len(line) > 40} for text in found.texts]
    for i, one in enumerate(lines):
        for other in lines[:i]:
            assert len(one & other) <= 3
    monkeypatch.setattr(text_module.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(DataError, match="no sources of Python's modules; name a folder"):
        load_books(None)


def test_unusable_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="elsewhere: no such folder; give a folder with txt"):
        load_books(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no txt files; give a folder"):
        load_books(tmp_path)
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"a\.txt: no text in it"):
        load_books(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"a\.txt: not a readable text in UTF-8"):
        load_books(tmp_path)


def test_texts_of_muse_and_wmdp(tmp_path):
    (tmp_path / "raw.txt").write_text("one\n\ntwo")
    assert load_texts(tmp_path / "raw") == ("one\n\ntwo",)
    (tmp_path / "privleak.json").write_text(json.dumps(["one", "two"]))
    assert load_texts(tmp_path / "privleak.json") == ("one", "two")
    rows = [{"title": "t", "text": "one"}, {"title": "t", "text": " "}]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load_texts(tmp_path / "corpus.jsonl") == ("one",)
    assert load_texts(tmp_path / "corpus.jsonl", column="title") == ("t", "t")
    with pytest.raises(DataError, match="row 1: column 'body' is not among title, text"):
        load_texts(tmp_path / "corpus.jsonl", column="body")


@pytest.mark.parametrize(
    ("rows", "message"),
    [([{"text": 3}], "row 1: column 'text' is 3; give a text"), (["", " "], "all rows are blank")],
)
def test_texts_of_another_format_are_named(tmp_path, rows, message):
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=rf"a\.json.*{message}"):
        load_texts(tmp_path / "a.json")


def test_files_without_texts_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(" ")
    with pytest.raises(DataError, match=r"a\.txt: no text in it; give a txt file"):
        load_texts(tmp_path / "a.txt")
    for name in ("", "/", "..", "nothing.txt"):
        with pytest.raises(DataError, match="no such file; give a txt file in UTF-8, or a json"):
            load_texts(name)


@pytest.mark.parametrize(
    ("count", "first", "expected"),
    [
        (6, None, [[0, 1, 2], [3, 4, 5]]),
        (7, None, [[0, 1, 2], [3, 4, 5], [6, 0, 1]]),
        (3, None, [[0, 1, 2]]),
        (4, 99, [[99, 0, 1], [99, 2, 3]]),
        (3, 99, [[99, 0, 1], [99, 2, 0]]),
    ],
)
@pytest.mark.parametrize("kind", [np.arange, lambda n: list(range(n))])
def test_chunks(count, first, expected, kind):
    found = chunk_tokens(kind(count), 3, first=first)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("tokens", "length", "first", "message"),
    [
        (
            np.arange(5),
            6,
            None,
            r"tokens=int64\[5\]: accepted is 6 tokens or more, as many as a chunk",
        ),
        ([], 4, 0, r"tokens=.*\[0\]: accepted is 3 tokens or more"),
        (np.arange(5), 0, None, "length=0: accepted is a whole number, 1 or more"),
        (np.arange(5), 1, 7, "length=1: accepted is a whole number, 2 or more"),
        (np.ones((2, 3), int), 2, None, r"tokens=int64\[2, 3\]: accepted is a row"),
        (np.ones(3), 2, None, r"tokens=float64\[3\]: accepted is a row"),
    ],
)
def test_texts_that_make_no_chunk_are_named(tokens, length, first, message, unchecked):
    with pytest.raises(ValueError, match=message):
        chunk_tokens(tokens, length, first=first)
