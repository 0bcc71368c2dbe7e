"""Losses against plain numpy and scipy in float64, and their invariants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxml.registration import bending_energy, dice, grad_l2, mse, mutual_information, ncc

EACH_VOLUME = pytest.mark.parametrize("shape", [(12, 15), (8, 10, 9)])
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 2e-4), (np.float64, 1e-10)]
)
PAIRWISE = [ncc, mse, mutual_information]


def images(shape, dtype=np.float64):
    """Return two related images of intensities 0 to 1."""
    rng = np.random.default_rng(0)
    fixed = rng.uniform(size=shape)
    moved = np.clip(0.7 * fixed + 0.3 * rng.uniform(size=shape), 0, 1)
    return fixed.astype(dtype), moved.astype(dtype)


def field(shape):
    return np.random.default_rng(2).standard_normal((*shape, len(shape)))


def voxelmorph_ncc(fixed, moved, window):
    n = window**fixed.ndim
    total = lambda plane: n * scipy.ndimage.uniform_filter(plane, window, mode="constant")
    i, j = total(fixed), total(moved)
    cross = total(fixed * moved) - j / n * i - i / n * j + i / n * j / n * n
    i_variance = total(fixed**2) - 2 * i / n * i + (i / n) ** 2 * n
    j_variance = total(moved**2) - 2 * j / n * j + (j / n) ** 2 * n
    return -np.mean(cross**2 / (i_variance * j_variance + 1e-5))


@EACH_VOLUME
@PRECISIONS
@pytest.mark.parametrize("window", [3, 9])
def test_ncc_equals_the_formula_of_voxelmorph(shape, dtype, tolerance, window):
    fixed, moved = images(shape, dtype)
    expected = voxelmorph_ncc(fixed.astype(float), moved.astype(float), window)
    found = ncc(jnp.asarray(fixed), jnp.asarray(moved), window=window)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance)


@EACH_VOLUME
def test_ncc_does_not_see_scale_and_is_minus_one_for_self(shape):
    fixed, moved = (100 * jnp.asarray(image) for image in images(shape))
    np.testing.assert_allclose(ncc(fixed, fixed, window=5), -1, rtol=1e-6)
    np.testing.assert_allclose(ncc(fixed, -2 * moved), ncc(fixed, moved), rtol=1e-6)
    np.testing.assert_allclose(ncc(moved, fixed), ncc(fixed, moved), rtol=1e-12)
    assert ncc(fixed, moved) > -0.95


def test_ncc_of_images_without_contrast_is_zero():
    flat = jnp.zeros((9, 9))
    value, gradient = jax.value_and_grad(ncc, 1)(jnp.asarray(images((9, 9))[0]), flat)
    assert value == 0
    np.testing.assert_array_equal(gradient, flat)


@EACH_VOLUME
@PRECISIONS
def test_mse(shape, dtype, tolerance):
    fixed, moved = images(shape, dtype)
    expected = np.mean((fixed.astype(float) - moved) ** 2)
    found = mse(jnp.asarray(fixed), jnp.asarray(moved))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance)


@EACH_VOLUME
@PRECISIONS
def test_dice_equals_numpy(shape, dtype, tolerance):
    rng = np.random.default_rng(0)
    fixed, moved = (rng.uniform(size=(*shape, 4)).astype(dtype) for _ in range(2))
    fixed[..., 3] = moved[..., 3] = 0
    overlaps = [
        2 * np.sum(f * m) / np.sum(f + m)
        for f, m in zip(fixed.astype(float).T[:3], moved.astype(float).T[:3], strict=True)
    ]
    found = dice(jnp.asarray(fixed), jnp.asarray(moved))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, 1 - np.mean([*overlaps, 1]), rtol=tolerance)


def test_dice_of_equal_and_of_disjoint_labels():
    labels = np.arange(48).reshape(6, 8) % 3
    one_hot = jnp.asarray(np.eye(3)[labels])
    assert dice(one_hot, one_hot) == 0
    assert dice(one_hot, jnp.asarray(np.eye(3)[(labels + 1) % 3])) == 1
    gradient = jax.grad(dice)(jnp.zeros((4, 4, 2)), jnp.zeros((4, 4, 2)))
    np.testing.assert_array_equal(gradient, np.zeros((4, 4, 2)))


@EACH_VOLUME
@PRECISIONS
def test_grad_l2_equals_numpy(shape, dtype, tolerance):
    u = field(shape).astype(dtype)
    expected = np.mean([np.mean(np.diff(u.astype(float), axis=a) ** 2) for a in range(len(shape))])
    found = grad_l2(jnp.asarray(u))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance)


@EACH_VOLUME
@PRECISIONS
def test_bending_energy_equals_numpy(shape, dtype, tolerance):
    u, expected = field(shape).astype(dtype), 0.0
    exact, ndim = u.astype(float), len(shape)
    for a in range(ndim):
        expected += np.mean(np.sum(np.diff(exact, n=2, axis=a) ** 2, axis=-1))
        for b in range(a):
            mixed = np.diff(np.diff(exact, axis=a), axis=b)
            expected += 2 * np.mean(np.sum(mixed**2, axis=-1))
    found = bending_energy(jnp.asarray(u))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=12, max_size=12))
def test_affine_fields_do_not_bend(entries):
    matrix, shift = np.reshape(entries[:9], (3, 3)), np.array(entries[9:])
    places = np.stack(np.meshgrid(*map(np.arange, (4, 5, 3)), indexing="ij"), axis=-1)
    u = jnp.asarray(places @ matrix.T + shift)
    np.testing.assert_allclose(bending_energy(u), 0, atol=1e-20)
    np.testing.assert_allclose(grad_l2(u), np.mean(matrix**2), rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 4)])
def test_gradients_equal_finite_differences(shape):
    pair = tuple(map(jnp.asarray, images(shape)))
    labels = tuple(jnp.asarray(np.stack([i, 1 - i], axis=-1)) for i in images(shape))
    u = (jnp.asarray(field(shape)),)
    functions = [
        (functools.partial(ncc, window=3), pair),
        (mse, pair),
        (dice, labels),
        (grad_l2, u),
        (bending_energy, u),
    ]
    for function, arguments in functions:
        check_grads(jax.jit(function), arguments, 1, modes=["rev"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [*PAIRWISE, dice])
def test_bad_images_are_named(loss, unchecked):
    trailing = (2,) if loss is dice else ()
    good = jnp.zeros((5, 6, *trailing))
    bad = [
        (jnp.zeros((5, *trailing)), good, r"fixed=float64\[.*\]: accepted is \[H, W"),
        (jnp.zeros((2, 5, 6, 7, *trailing)), good, r"fixed=float64\[.*\]: accepted is \[H, W"),
        (jnp.zeros((0, 6, *trailing)), good, r"fixed=float64\[.*\]: accepted is \[H, W"),
        (good, jnp.zeros((6, 5, *trailing)), r"moved=float64\[6, 5.*\]: accepted is .* of fixed"),
        (good.astype("int32"), good, r"fixed=int32\[.*\]: accepted is floating-point"),
        (good, good.astype("int32"), r"moved=int32\[.*\]: accepted is floating-point"),
        (
            good,
            good.astype("float32"),
            r"moved=float32\[.*\]: accepted is float64\[.*\], as of fixed",
        ),
    ]
    for fixed, moved, message in bad:
        with pytest.raises(ValueError, match=message):
            loss(fixed, moved)


def test_bad_arguments_are_named(unchecked):
    image = jnp.zeros((5, 6))
    for window in (0, -1, 4):
        with pytest.raises(ValueError, match=f"window={window}: accepted is an odd number"):
            ncc(image, image, window=window)
    with pytest.raises(ValueError, match="bins=3: accepted is a whole number, 4 or more"):
        mutual_information(image, image, bins=3)
