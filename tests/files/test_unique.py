"""Names that stand twice."""

from jaxml.files.unique import first_repeated


def test_the_first_that_stands_twice():
    assert first_repeated([]) is None
    assert first_repeated(map(str, range(300_000))) is None
    assert first_repeated(["a", "b", "", "b", "a"]) == "b"
    assert first_repeated(["", ""]) == ""
    assert first_repeated(["x" * 999] * 2) == "x" * 80
