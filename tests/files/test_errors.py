"""Errors of other packages, as the one error of unusable data."""

import pytest

from jaxml.files.errors import DataError, damage


@pytest.mark.parametrize("error", [ValueError("bad"), EOFError("bad")])
def test_named_errors_become_data_errors(error):
    with (
        pytest.raises(DataError, match="^no npz: bad$") as caught,
        damage(EOFError, prefix="no npz: "),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_own_and_other_errors_pass():
    for error in (DataError("as it is"), KeyError("other")):
        with pytest.raises(type(error)) as caught, damage(EOFError, prefix="x"):
            raise error
        assert caught.value is error
