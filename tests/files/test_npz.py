"""Reading of npy and npz files: as numpy reads what it wrote, and no hostile header believed."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from damaged_files import limits

from jaxml.files.errors import DataError
from jaxml.files.npz import read_npy, read_npz

ARRAYS = {
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 3), np.float32),
    "empty row": np.zeros(0, np.int8),
    "matrix": np.arange(12, dtype=np.int16).reshape(3, 4),
    "by columns": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "turned": np.arange(12).reshape(3, 4).T,
    "other order": np.arange(5, dtype=">i4"),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "long": np.arange(700_000, dtype=np.float32),
    "texts": np.array(["mina", "\u0986\U0001f600", ""]),
    "other texts": np.array(["mina", "\u0986"], ">U4"),
    "bytes": np.array([b"ab", b"c"]),
    "text": np.asarray("one"),
}


def assert_same(found, expected):
    assert found.shape == expected.shape and found.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, expected)
    assert found.flags.writeable and found.flags.aligned


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back(tmp_path, name):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    assert_same(read_npy(tmp_path / "a.npy"), ARRAYS[name])


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_is_read(tmp_path, version):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, ARRAYS["matrix"], version)
    assert_same(read_npy(tmp_path / "a.npy"), ARRAYS["matrix"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_comes_back(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        assert_same(found[name], expected)
    assert read_npz(tmp_path / "a.npz", "matrix", "none").keys() == {"matrix"}


def test_what_is_not_asked_for_may_be_anything(tmp_path):
    np.savez(tmp_path / "a.npz", good=np.arange(3), objects=np.array([None]))
    assert_same(read_npz(tmp_path / "a.npz", "good")["good"], np.arange(3))
    with pytest.raises(DataError, match="no array of numbers or texts: .*O"):
        read_npz(tmp_path / "a.npz")


def written(header, content=b"", magic=b"\x93NUMPY\x01\x00"):
    return magic + struct.pack("<H", len(header)) + header.encode("latin1") + content


def header(descr="'<f4'", order="False", shape="(3,)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (written(header(), bytes(12), b"\x93NUMPY\x09\x00"), "not an npy file"),
        (written(header(), bytes(12))[:40], "truncated"),
        (written(header(), bytes(11)), "does not fill"),
        (written(header(), bytes(13)), "does not fill"),
        (written(header(shape=f"({2**40},)"), bytes(12)), "does not fill"),
        (written(header(shape=f"({2**40}, {2**40}, 0)"), bytes(12)), "does not fill"),
        (written(header(shape="(-3,)"), bytes(12)), "no array of numbers"),
        (written(header(shape=f"({10**30},)"), bytes(12)), "no array of numbers"),
        (written(header(shape="3"), bytes(12)), "no array of numbers"),
        (written(header(order="1"), bytes(12)), "no array of numbers"),
        (written(header("'|O'"), bytes(24)), "no array of numbers"),
        (written(header("'<U0'", shape=f"({2**40},)")), "no array of numbers"),
        (written(header("[('a', '<f4')]"), bytes(12)), "no array of numbers"),
        (written(header("'<f3'"), bytes(9)), "f3"),
        (written(header("'<U1'", shape="(1,)"), b"\0\0\x11\0"), "numbers than those of char"),
        (written("(" * 900, bytes(12)), "no array of numbers"),
        (written("-" * 65000, bytes(12)), "no array of numbers"),
    ],
)
def test_a_header_is_not_believed(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    with limits(), pytest.raises(DataError, match=message):
        read_npy(tmp_path / "a.npy")


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def archive(path, content, method=zipfile.ZIP_DEFLATED, **changed):
    """Write an archive of one array, some of whose directory says otherwise."""
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.npy", content)
        for name, value in changed.items():
            setattr(file.filelist[0], name, value)


def test_an_archive_does_not_claim_more_than_it_can_hold(tmp_path):
    path = tmp_path / "a.npz"
    claimed = written(header("'|u1'", shape=f"({2**40},)"))
    archive(path, claimed, file_size=2**40 + len(claimed))
    with limits(), pytest.raises(DataError, match="claims more than it can hold"):
        read_npz(path)
    archive(path, claimed, file_size=2**40 + len(claimed), compress_size=2**39)
    with limits(), pytest.raises(DataError, match="larger than the file"):
        read_npz(path)


def test_zeros_that_are_there_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(5_000_000, np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 6000
    assert read_npz(tmp_path / "a.npz")["a"].size == 5_000_000


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes(b""), "no readable npz"),
        (lambda p: p.write_bytes(b"PK\x03\x04"), "no readable npz"),
        (lambda p: archive(p, b"no array"), "not an npy file"),
        (lambda p: archive(p, npy(np.zeros(3)), CRC=1), "no readable npz: Bad CRC"),
        (lambda p: archive(p, npy(np.zeros(3)), flag_bits=1), "no readable npz: .*encrypted"),
        (
            lambda p: archive(p, npy(np.zeros(3)), compress_type=99),
            "compressed by method 99; accepted is stored",
        ),
        (lambda p: archive(p, npy(np.zeros(300)), compress_size=5), "no readable npz"),
    ],
)
def test_a_damaged_archive_is_one_error(tmp_path, write, message):
    write(tmp_path / "a.npz")
    with pytest.raises(DataError, match=message):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("read", [read_npy, read_npz])
def test_what_is_no_file(tmp_path, read):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(DataError, match="not a file"):
            read(path)
