"""Files that are there whole or not at all."""

import os
import stat

import pytest

from jaxml.files.write import check_writable, whole_file, write_whole


def test_a_failed_write_keeps_the_old_file(tmp_path):
    write_whole(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a", "text")  # type: ignore[arg-type]
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def test_a_file_has_the_permissions_of_any_new_one(tmp_path):
    before = os.umask(0o027)
    try:
        (tmp_path / "any").write_text("")
        write_whole(tmp_path / "a", b"")
        with whole_file(tmp_path / "b") as partial:
            # As packages do that write beside the name and then move the file there.
            other = tmp_path / "other"
            other.touch(0o600)
            other.replace(partial)
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"any": 0o640, "a": 0o640, "b": 0o640}


def test_a_failed_block_leaves_nothing(tmp_path):
    with pytest.raises(ArithmeticError), whole_file(tmp_path / "new" / "a") as partial:
        partial.write_bytes(b"half")
        raise ArithmeticError
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named_before_it_is_made(tmp_path):
    check_writable(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"{tmp_path}/file/deep: cannot be written: Not a directory"):
        check_writable(tmp_path / "file" / "deep")
