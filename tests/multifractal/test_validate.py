import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.multifractal._validate import check_length, check_orders, check_scales, check_series


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_series_keeps_its_dtype(dtype):
    assert check_series(np.ones(3, dtype)).dtype == dtype


def test_integers_become_the_default_float():
    found = check_series(np.array([1, -2, 3], np.int16))
    assert found.dtype == jnp.float64
    np.testing.assert_array_equal(found, [1, -2, 3])
    with jax.enable_x64(False):
        assert check_series([1, 2, 3]).dtype == jnp.float32


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(3, np.float16), r"wave=float16\[3\]: accepted is float32, float64 or integers"),
        (np.ones(3, complex), r"wave=complex128\[3\]: accepted is float32"),
        (np.array([True]), r"wave=bool\[1\]: accepted is float32"),
        (np.float64(3), r"wave=3.0: accepted is one series \[time\]"),
        (np.ones((1, 4)), r"wave=float64\[1, 4\]: accepted is one series"),
        (np.ones(4), r"wave=float64\[4\]: accepted is a series of 5 samples or more"),
        (
            np.array([0, 1, np.nan, 2, np.inf]),
            r"wave=float64\[5\] with NaN or infinity at sample 2",
        ),
        (np.array([0, 1, 2, 2, -np.inf]), r"wave=float64\[5\] with NaN or infinity at sample 4"),
    ],
)
def test_bad_series_is_named(x, message, unchecked):
    with pytest.raises(ValueError, match=message):
        check_series(x, name="wave", minimum=5)


def test_traced_series_is_checked_for_what_is_known(unchecked):
    passed = jax.jit(check_series)(np.array([np.nan, 1.0]))
    np.testing.assert_array_equal(passed, [np.nan, 1])
    with pytest.raises(ValueError, match=r"x=float64\[2, 2\]: accepted is one series"):
        jax.jit(check_series)(np.ones((2, 2)))


@pytest.mark.parametrize(("length", "expected"), [(None, 9), (0, 0), (9, 9), (np.int16(4), 4)])
def test_length(length, expected):
    found = check_length(length, 9)
    assert found.dtype == jnp.int32
    assert found == expected
    assert jax.jit(lambda n: check_length(n, 9))(5) == 5


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (10, "length=10: accepted is 0 to 9"),
        (-1, "length=-1: accepted is 0 to 9"),
        (3.0, "length=3.0: accepted is one integer"),
        (np.array([1, 2]), r"length=int64\[2\]: accepted is one integer"),
    ],
)
def test_bad_length_is_named(length, message, unchecked):
    with pytest.raises(ValueError, match=message):
        check_length(length, 9)


@pytest.mark.parametrize("scales", [[32, 8, 16], (16, 8, 32)])
def test_scales_are_sorted_and_static(scales):
    found = check_scales(scales, 32, 3)
    assert found == (8, 16, 32)
    assert all(type(s) is int for s in found)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ([], "scales=.*: accepted is two different segment lengths or more"),
        ([8], "scales=.*: accepted is two different segment lengths or more"),
        ([8, 8, 16], "scales=.*: accepted is two different segment lengths or more"),
        ([[8, 16]], "scales=.*: accepted is two different segment lengths or more"),
        ([8.0, 16.0], r"scales=\[8.0, 16.0\]: accepted is integers"),
        ([2, 16], r"scales=\[2, 16\] with values from 2 to 16: accepted is 3, which"),
        ([8, 33], r"scales=\[8, 33\] with values from 8 to 33: accepted is 3, .* to 32"),
    ],
)
def test_bad_scales_are_named(scales, message, unchecked):
    with pytest.raises(ValueError, match=message):
        check_scales(scales, 32, 3)


@pytest.mark.parametrize("q", [[2, -1.5, 0], (2, -1.5, 0), np.array([2, -1.5, 0])])
def test_concrete_orders_are_static(q):
    assert check_orders(q) == (2.0, -1.5, 0.0)


def test_traced_orders_pass():
    np.testing.assert_array_equal(jax.jit(check_orders)(jnp.arange(3.0)), [0, 1, 2])


@pytest.mark.parametrize("q", [[], [1.0, np.nan], [np.inf], 2.0, [[1.0, 2.0]]])
def test_bad_orders_are_named(q, unchecked):
    with pytest.raises(ValueError, match="q=.*: accepted is a list of finite moment orders"):
        check_orders(q)
