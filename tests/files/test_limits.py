"""The limit of memory, and how a file beyond it is told."""

import pytest

from jaxml.files.errors import DataError, TooLargeError, unreadable
from jaxml.files.limits import MAX_BYTES, check_memory

GIB = 2**30


def test_what_is_accepted():
    check_memory(0, 0)
    check_memory(MAX_BYTES, MAX_BYTES)


@pytest.mark.parametrize(
    ("claimed", "message"),
    [
        (MAX_BYTES + GIB, "would take 5 GiB of memory: accepted is at most 4 GiB; give max_bytes"),
        (2**63, "would take 8,589,934,592 GiB of memory"),
        (int(6.25 * GIB), r"would take 6\.25 GiB of memory"),
    ],
)
def test_what_is_refused_and_how(claimed, message):
    with pytest.raises(DataError, match=f"^{message}"):
        check_memory(claimed, MAX_BYTES)
    with pytest.raises(DataError, match=f"^a.png: {message}"):
        check_memory(claimed, MAX_BYTES, prefix="a.png: ")


def test_a_file_beyond_it_is_not_told_as_damaged(tmp_path):
    told = lambda error: unreadable(tmp_path, error, what="no picture", accepted="give one")
    large = told(TooLargeError("would take 5 GiB"))
    assert isinstance(large, TooLargeError) and str(large) == f"{tmp_path}: would take 5 GiB"
    assert str(told(PermissionError(13, "x"))) == f"{tmp_path}: permission denied"
    assert str(told(ValueError("cut"))) == f"{tmp_path}: no picture (cut); give one"
