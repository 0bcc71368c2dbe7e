"""Pickles that are read and not run; what `test_tiny_images.py` reads of numpy is not repeated."""

import pickle
import pickle as p
import struct

import numpy as np
import pytest
from damaged_files import limits

from jaxml.files.errors import DataError
from jaxml.files.pickled import Call, array_of, read_pickle

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
PLAIN = {"a": [1, -2, 2**70, 0.5, None, True], "b": ("text\u00e9", (), b"\xff"), "c": {"d": [[]]}}


def read(tmp_path, content):
    (tmp_path / "a.pickle").write_bytes(content)
    with limits():
        return read_pickle(tmp_path / "a.pickle")


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(tmp_path, protocol):
    assert read(tmp_path, pickle.dumps(PLAIN, protocol)) == PLAIN
    same = ["one"]
    found = read(tmp_path, pickle.dumps([same, same], protocol))
    assert found == [same, same] and found[0] is found[1]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", "CF")
def test_arrays_of_bytes_come_back(tmp_path, protocol, order):
    array = np.asarray(ARRAY, order=order)
    found = read(tmp_path, pickle.dumps({"x": array}, protocol))
    np.testing.assert_array_equal(array_of(found["x"]), ARRAY)


def test_other_things_are_no_arrays_of_bytes(tmp_path):
    others = [3, None, "x", [1], np.arange(3), np.array([None]), np.float32(1), np.uint8(1)]
    for found in read(tmp_path, pickle.dumps(others)):
        assert array_of(found) is None
    kind = Call("numpy.dtype", ("u1", False, True))
    state = lambda shape, raw: Call("f", (), (1, shape, kind, False, raw))
    assert array_of(state((3,), b"abc")).tolist() == [97, 98, 99]
    for shape, raw in (((4,), b"abc"), ((-3,), b"abc"), ((3.0,), b"abc"), ((3,), "ab\u0986")):
        assert array_of(state(shape, raw)) is None
    assert array_of(state((10**5000,) * 10**5, b"abc")) is None


GLOBAL = p.GLOBAL + b"%s\n%s\n"
HOSTILE = {
    "calls": (
        GLOBAL % (b"os", b"system") + p.UNICODE + b"true\n" + p.TUPLE1 + p.REDUCE,
        "os.system",
    ),
    "by text": (p.UNICODE + b"os\n" + p.UNICODE + b"system\n" + p.STACK_GLOBAL, "os.system"),
    "by attribute": (GLOBAL % (b"numpy", b"dtype.__class__"), "numpy.dtype.__class__"),
    "instance": (p.MARK + p.INST + b"os\nsystem\n", "refused: it has the operation INST"),
    "extension": (p.EXT1 + b"\x01", "refused"),
    "persistent": (p.PERSID + b"1\n", "refused"),
    "memory by the memo": (p.NONE + p.LONG_BINPUT + struct.pack("<I", 2**31) + p.POP, "refused"),
    "memory by a length": (p.BYTEARRAY8 + struct.pack("<Q", 2**40), "expected 1099511627776"),
    "deep key": (p.EMPTY_DICT + p.EMPTY_TUPLE + p.TUPLE1 * 10**6 + p.NONE + p.SETITEM, "no text"),
    "no stack": (p.REDUCE, "damaged"),
    "no mark": (p.TUPLE, "damaged"),
    "no end": (b"", "damaged|empty|exhausted"),
    "state of a list": (p.EMPTY_LIST + p.NONE + p.BUILD, "damaged"),
    "half a pair": (p.EMPTY_DICT + p.MARK + p.UNICODE + b"a\n" + p.SETITEMS, "zip"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(tmp_path, name):
    content, message = HOSTILE[name]
    end = b"" if name == "no end" else p.STOP
    with pytest.raises(DataError, match=message):
        read(tmp_path, p.PROTO + b"\x02" + content + end)


def test_nothing_of_numpy_is_called(tmp_path):
    content = p.PROTO + b"\x02" + GLOBAL % (b"numpy", b"ndarray")
    content += p.LONG1 + b"\x06" + (2**40).to_bytes(6, "little") + p.TUPLE1 + p.REDUCE + p.STOP
    assert read(tmp_path, content) == Call("numpy.ndarray", (2**40,))


def test_deep_lists_and_calls_are_let_go(tmp_path):
    deep = p.PROTO + b"\x02" + p.EMPTY_TUPLE + p.TUPLE1 * 10**6 + p.STOP
    assert isinstance(read(tmp_path, deep), tuple)
