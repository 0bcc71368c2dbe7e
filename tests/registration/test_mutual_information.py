"""Mutual information against loops over voxels, counted entropies and SimpleITK."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.test_util import check_grads
from scipy.interpolate import BSpline
from sklearn.metrics import mutual_info_score

from jaxml.registration import _mutual_information, mse, mutual_information, register, warp

EACH_VOLUME = pytest.mark.parametrize("shape", [(12, 15), (8, 10, 9)])
SPLINE = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)


def images(shape, dtype="float64"):
    """Return two related images of intensities 0 to 1, of a seed."""
    rng = np.random.default_rng(0)
    fixed = rng.uniform(size=shape)
    moved = np.clip(0.7 * fixed + 0.3 * rng.uniform(size=shape), 0, 1)
    return fixed.astype(dtype), moved.astype(dtype)


def levels(shape, count):
    """Return two related images of few levels, all of which occur in both."""
    rng = np.random.default_rng(1)
    first = rng.integers(count, size=shape)
    second = np.where(rng.uniform(size=shape) < 0.6, (count - 1 - first) // 2, first)
    first.flat[:count] = second.flat[:count] = np.arange(count)
    return first, second


def shares(image, counted, bins, window):
    """Share of each voxel in each bin: bins of the range of what counts, one more at each end."""
    low, high = image[counted].min(), image[counted].max()
    places = 1 + (image.ravel() - low) / (high - low) * (bins - 3)
    return window(places[:, None] - np.arange(bins))


def information(fixed, moved, weights, bins, window):
    first, second = (shares(image, weights > 0, bins, window) for image in (fixed, moved))
    joint = np.zeros((bins, bins))
    for one, other, weight in zip(first, second, weights.ravel(), strict=True):
        if weight > 0:
            joint += weight * np.outer(one, other)
    joint /= weights.sum()
    entropy = lambda p: -np.sum(p[p > 0] * np.log(p[p > 0]))
    return entropy(joint) - entropy(joint.sum(0)) - entropy(joint.sum(1))


def spline(distance):
    return np.nan_to_num(SPLINE(distance))


def linear_between_eighths(distance):
    eighths = np.arange(-17, 18) / 8
    return np.interp(distance, eighths, spline(eighths))


@EACH_VOLUME
@pytest.mark.parametrize("bins", [4, 7, 32])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_a_loop_over_voxels(shape, bins, masked):
    fixed, moved = images(shape)
    weights = np.random.default_rng(3).uniform(-0.5, 1, shape).clip(0) if masked else np.ones(shape)
    mask = jnp.asarray(weights) if masked else None
    fixed[weights == 0] = 17  # Out of the range of all that counts.
    expected = information(fixed, moved, weights, bins, linear_between_eighths)
    found = mutual_information(jnp.asarray(fixed), jnp.asarray(moved), bins=bins, mask=mask)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # How near that is to the B-spline itself.
    exact = information(fixed, moved, weights, bins, spline)
    np.testing.assert_allclose(found, exact, rtol=2e-2)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_of_levels_in_bins_of_their_own_is_the_information_of_counts(count):
    """Windows are 4 bins wide: levels 4 bins apart share none."""
    first, second = levels((9, 8, 7), count)
    bins = 4 * (count - 1) + 3
    found = mutual_information(jnp.asarray(first * 1.5), jnp.asarray(second - 9.0), bins=bins)
    expected = mutual_info_score(first.ravel(), second.ravel())
    np.testing.assert_allclose(found, -expected, rtol=1e-12)


def itk_information(fixed, moved, bins):
    itk = pytest.importorskip("SimpleITK")
    method = itk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(bins)
    method.SetInterpolator(itk.sitkLinear)
    return method.MetricEvaluate(itk.GetImageFromArray(fixed), itk.GetImageFromArray(moved))


def test_equals_simpleitk_where_both_have_the_same_windows():
    """ITK has two bins at each end, and no window for the fixed image."""
    first, second = (image.astype(float) for image in levels((9, 8, 7), 3))
    found = mutual_information(jnp.asarray(first), jnp.asarray(second), bins=11)
    np.testing.assert_allclose(found, itk_information(first, second, 12), rtol=1e-6)


@EACH_VOLUME
def test_of_self_other_and_nothing(shape):
    fixed, moved = map(jnp.asarray, images(shape))
    between = mutual_information(fixed, moved)
    np.testing.assert_allclose(mutual_information(moved, fixed), between, rtol=1e-12)
    assert mutual_information(fixed, fixed) < between < 0
    assert mutual_information(fixed, 1 - fixed) < between
    np.testing.assert_allclose(mutual_information(fixed, jnp.full(shape, 0.3)), 0, atol=1e-12)
    gradient = jax.grad(mutual_information, 1)(fixed, jnp.full(shape, 0.3))
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


@pytest.mark.parametrize("scale, shift", [(4024, -1024), (0.01, 0), (-1, 0)])
def test_does_not_see_scale_and_shift(scale, shift):
    fixed, moved = map(jnp.asarray, images((12, 15)))
    value, gradient = jax.value_and_grad(mutual_information, 1)(fixed, moved)
    found, slope = jax.value_and_grad(mutual_information, 1)(fixed, scale * moved + shift)
    np.testing.assert_allclose(found, value, rtol=1e-9)
    np.testing.assert_allclose(slope * scale, gradient, atol=1e-9 * abs(gradient).max())


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_finite_differences(masked):
    """Of all voxels but two in each image, which hold the range."""
    mask = jnp.asarray(images((5, 6))[0]) if masked else None

    def with_ends(fixed, moved):
        ends = lambda image: image.at[0, 0].set(-1).at[2, 3].set(2)
        return mutual_information(ends(fixed), ends(moved), bins=8, mask=mask)

    pair = tuple(map(jnp.asarray, images((5, 6))))
    check_grads(jax.jit(with_ends), pair, 1, modes=["rev"], rtol=1e-6, atol=1e-6, eps=1e-7)


def test_single_precision_of_many_voxels(monkeypatch):
    fixed, moved = images((700, 600), "float32")
    fixed[:350] = 0.3
    double = [jnp.asarray(image.astype(float)) for image in (fixed, moved)]
    expected, slope = jax.value_and_grad(mutual_information, 1)(*double)
    single = map(jnp.asarray, (fixed, moved))
    found, gradient = jax.jit(jax.value_and_grad(mutual_information, 1))(*single)
    assert found.dtype == gradient.dtype == "float32"
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # A voxel on the edge of a cell may be in either of two, whose slopes differ a little.
    distance = np.abs(np.asarray(gradient) - np.asarray(slope))
    assert np.mean(distance) < 1e-2 * np.mean(np.abs(slope))
    monkeypatch.setattr(_mutual_information, "_VOXELS_A_TABLE", 5000)
    np.testing.assert_allclose(mutual_information(*double), expected, rtol=1e-12)


def test_registers_images_of_another_contrast():
    """Three tissues, the brightest of one image the darkest of the other, moved by (2, -1)."""
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((48, 44)), 4)
    tissue = np.digitize(noise / noise.std(), [-0.6, 0.6])

    def scan(tissue, intensities):
        image = np.pad(np.take(intensities, tissue)[8:-8, 8:-8], 8)
        return jnp.asarray(scipy.ndimage.gaussian_filter(image, 0.7).astype("float32"))

    rolled = np.roll(tissue, (2, -1), (0, 1))
    fixed, moving = scan(tissue, [0.3, 0.6, 1.0]), scan(rolled, [0.7, 1.0, 0.2])
    similarity = functools.partial(mutual_information, bins=16)
    found = register(fixed, moving, similarity=similarity, smoothness=0.1, levels=2, steps=50)
    inside = found.displacement[14:-14, 14:-14]
    np.testing.assert_allclose(np.median(inside, (0, 1)), [2, -1], atol=0.5)
    alike = scan(rolled, [0.3, 0.6, 1.0])
    assert mse(fixed, warp(alike, found.displacement)) < 0.4 * mse(fixed, alike)
