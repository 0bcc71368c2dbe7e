import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.multifractal._flat import center, flat_threshold, usable_segments
from jaxml.multifractal._segments import Segments

SCALES = (4, 8)


@pytest.mark.parametrize("length", [7, 4, 1])
def test_center_takes_mean_and_peak_of_the_valid_part(length):
    x = np.array([3.0, -8.0, 1.0, 2.0, 0.5, 0.25, 4.0])
    centerd, peak = center(jnp.asarray(x), jnp.asarray(length, jnp.int32))
    inside = x[:length]
    assert peak == np.abs(inside).max()
    np.testing.assert_allclose(centerd[:length], (inside - inside.mean()) / peak, atol=1e-15)
    np.testing.assert_array_equal(centerd[length:], 0)


@pytest.mark.parametrize(("x", "length"), [(np.zeros(5), 5), (np.ones(5), 0)])
def test_center_of_nothing_is_zero(x, length):
    centerd, peak = center(jnp.asarray(x), jnp.asarray(length, jnp.int32))
    np.testing.assert_array_equal(centerd, 0)
    assert peak == 1


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_center_keeps_squares_of_any_unit_in_range(unit):
    x = jnp.asarray(unit * np.random.default_rng(0).normal(size=50), jnp.float32)
    centerd, peak = center(x, jnp.asarray(50, jnp.int32))
    assert 0.1 < jnp.sum(centerd**2) < 50
    np.testing.assert_allclose(peak, np.abs(x).max())


@pytest.mark.parametrize(("dtype", "decibel"), [("float64", -100), ("float32", -80)])
def test_threshold_lies_below_the_variance(dtype, decibel):
    x = jnp.asarray(np.tile([0.5, -0.5], 50), dtype)
    found = flat_threshold(x, jnp.asarray(100, jnp.int32), SCALES, 1)
    np.testing.assert_allclose(10 * np.log10(found / 0.25), decibel, atol=0.01)


def test_threshold_of_a_zero_series():
    nothing = jnp.zeros(10), jnp.asarray(10, jnp.int32), SCALES
    np.testing.assert_array_equal(flat_threshold(*nothing, 1), 0)
    assert (flat_threshold(*nothing, 0) > 0).all()


def segments():
    """Three segments of scale 4, two of scale 8; one of them beyond the series."""
    product = jnp.array([[[2.0, 1e-9, 0.0], [-3.0, 5.0, 7.0]]])
    valid = jnp.array([[True, True, True], [True, True, False]])
    return Segments(product, valid, np.array([0, 1]), jnp.array([3, 2], jnp.int32))


@pytest.mark.parametrize(
    ("flat", "f2", "valid", "dropped"),
    [
        ("drop", [[2, 1, 1], [3, 5, 1]], [[1, 0, 0], [1, 1, 0]], [2, 0]),
        ("floor", [[2, 1e-6, 1e-6], [3, 5, 1]], [[1, 1, 1], [1, 1, 0]], [0, 0]),
        ("keep", [[2, 1e-9, 1], [3, 5, 1]], [[1, 1, 0], [1, 1, 0]], [1, 0]),
    ],
)
def test_policies(flat, f2, valid, dropped):
    threshold = jnp.array([1e-6, 1e-6])
    found = usable_segments(segments(), threshold, flat)
    np.testing.assert_array_equal(found[0][0], f2)
    np.testing.assert_array_equal(found[1], np.array(valid, bool))
    np.testing.assert_array_equal(found[2], dropped)


def test_floor_cannot_raise_to_a_zero_threshold():
    _, valid, dropped = usable_segments(segments(), jnp.zeros(2), "floor")
    np.testing.assert_array_equal(valid[0], [True, True, False])
    np.testing.assert_array_equal(dropped, [1, 0])


def test_peak_is_a_constant_to_autodiff():
    x, length = jnp.array([1.0, -4.0, 2.0]), jnp.asarray(3, jnp.int32)
    jacobian = jax.jacobian(lambda x: center(x, length)[0])(x)
    np.testing.assert_allclose(jacobian, (np.eye(3) - 1 / 3) / 4, atol=1e-15)
