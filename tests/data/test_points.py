import numpy as np
import pytest

from jaxml.data import DataError
from jaxml.data.points import load_points


def test_points_as_ants_writes_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('x,y,z,t,label,comment\n1.5,-2,3e1,0,7,"a, b"\r\n\n4,5,6,0,8,\n')
    np.testing.assert_array_equal(load_points(path), [[1.5, -2, 30], [4, 5, 6]])
    np.testing.assert_array_equal(load_points(path, ndim=2), [[1.5, -2], [4, 5]])


def test_points_with_an_index_and_capital_letters(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(" ,X,Y\n0,226,173\n1,278,182\n", encoding="utf-8-sig")
    np.testing.assert_array_equal(load_points(path), [[226, 173], [278, 182]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "columns ''"),
        (b"a,b\n1,2\n", "columns 'a, b'; give a .csv with a header line"),
        (b"1,2\n3,4\n", "columns '1, 2'"),
        (b"x,y,x\n1,2,3\n", "columns"),
        (b"x,y\n", "no points"),
        (b"x,y\n1,2\n\n3\n", "line 4 has no finite number"),
        (b"x,y\n1,nan\n", "line 2 has"),
        (b"x,y\n1,2\n1,inf\n", "line 3 has"),
        (b"x,y\n1,two\n", "line 2 has"),
        (b'x,y\n"1,2\n', "not a readable csv"),
        (b"x,y\n\xff,2\n", "not a readable csv"),
    ],
)
def test_bad_points_are_refused_by_their_line(content, message, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        load_points(tmp_path / "a.csv")
    assert str(tmp_path / "a.csv") in str(raised.value)
    with pytest.raises(DataError, match="no such file"):
        load_points(tmp_path / "b.csv")
    with pytest.raises(DataError, match="columns"):
        load_points_of_space(tmp_path)


def load_points_of_space(folder):
    (folder / "flat.csv").write_text("x,y\n1,2\n")
    return load_points(folder / "flat.csv", ndim=3)
