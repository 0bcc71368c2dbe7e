"""Rows of parquet files, and what those of a dictionary take."""

import pytest

from jaxml.files.errors import DataError, TooLargeError
from jaxml.files.parquet import read_parquet

pyarrow = pytest.importorskip("pyarrow")
ROWS = [
    {
        "text": "\u00e9" * n,
        "number": n,
        "list": ["a", None] * n,
        "object": {"x": None, "y": "z" * n},
    }
    for n in range(9)
] + [{"text": None, "number": None, "list": None, "object": None}]


def write(path, table, **settings):
    from pyarrow import parquet

    parquet.write_table(table, path, **settings)
    return path


@pytest.mark.parametrize("rows_of_a_group", [3, 100])
def test_rows_come_back(tmp_path, rows_of_a_group):
    table = pyarrow.Table.from_pylist(ROWS * 150)
    assert read_parquet(write(tmp_path / "a", table, row_group_size=rows_of_a_group)) == ROWS * 150


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.int64()])
def test_a_dictionary_comes_back_and_counts_as_often_as_it_is_used(tmp_path, kind):
    values = pyarrow.array([7, 8] if kind == pyarrow.int64() else ["x" * 5000, "y"], kind)
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, None, 1] * 500), values)
    path = write(tmp_path / "a", pyarrow.table({"text": column}))
    expected = [{"text": value} for value in [values[0].as_py(), None, values[1].as_py()] * 500]
    assert read_parquet(path, max_bytes=500 * (10_000 + 3 * 400)) == expected
    if kind != pyarrow.int64():
        assert path.stat().st_size < 9000
        with pytest.raises(TooLargeError, match="would take"):
            read_parquet(path, max_bytes=500 * (4900 + 3 * 304))


def test_what_is_no_parquet_and_no_file(tmp_path):
    (tmp_path / "a").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError):
        read_parquet(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "b")
