"""Masks of the similarities against numpy and loops over windows, and what they leave out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxml.registration import mse, mutual_information, ncc

EACH_VOLUME = pytest.mark.parametrize("shape", [(9, 8), (5, 6, 7)])
EACH_LOSS = pytest.mark.parametrize(
    "loss", [functools.partial(ncc, window=3), mse, functools.partial(mutual_information, bins=8)]
)


def images(shape, dtype="float64"):
    """Return two related images of intensities 0 to 1, and weights, a third of them 0."""
    rng = np.random.default_rng(0)
    fixed = rng.uniform(size=shape)
    moved = 0.7 * fixed + 0.3 * rng.uniform(size=shape)
    weights = rng.uniform(-0.5, 1, shape).clip(0)
    return tuple(image.astype(dtype) for image in (fixed, moved, weights))


def arrays(shape, dtype="float64"):
    return tuple(map(jnp.asarray, images(shape, dtype)))


def masked_ncc(fixed, moved, weights, window):
    """The formula of each window, with voxels of 0 and weight 1 around the volume."""
    pad = lambda image, value: np.pad(image, window // 2, constant_values=value)
    fixed, moved, around = pad(fixed, 0), pad(moved, 0), pad(weights, 1)
    total = 0.0
    for corner in np.argwhere(weights > 0):
        here = tuple(slice(c, c + window) for c in corner)
        w, i, j = around[here], fixed[here], moved[here]
        i, j = (x - np.average(x, weights=w) for x in (i, j))
        cross, variances = np.sum(w * i * j), np.sum(w * i * i) * np.sum(w * j * j)
        total += weights[tuple(corner)] * cross**2 / (variances + 1e-5)
    return -total / weights.sum()


@EACH_VOLUME
@pytest.mark.parametrize("window", [3, 9])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-4), (np.float64, 1e-10)])
def test_ncc_equals_a_loop_over_windows(shape, window, dtype, tolerance):
    fixed, moved, weights = images(shape, dtype)
    double = (x.astype(float) for x in (fixed, moved, weights))
    expected = masked_ncc(*double, window=window)
    found = ncc(jnp.asarray(fixed), jnp.asarray(moved), window=window, mask=jnp.asarray(weights))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance)


@EACH_VOLUME
def test_mse_equals_numpy(shape):
    fixed, moved, weights = images(shape)
    expected = np.average((fixed - moved) ** 2, weights=weights)
    np.testing.assert_allclose(mse(*arrays(shape)[:2], mask=jnp.asarray(weights)), expected)


@EACH_VOLUME
@EACH_LOSS
def test_a_mask_of_ones_changes_nothing(shape, loss):
    fixed, moved, _ = arrays(shape)
    expected = jax.value_and_grad(loss, 1)(fixed, moved)
    for mask in (jnp.ones(shape), jnp.ones(shape, bool), jnp.ones(shape, "float32")):
        found = jax.value_and_grad(loss, 1)(fixed, moved, mask=mask)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-9, atol=1e-12)


@EACH_VOLUME
@EACH_LOSS
@pytest.mark.parametrize("garbage", [1e30, -1024, np.nan, np.inf])
def test_what_a_voxel_of_weight_0_holds_has_no_influence(shape, loss, garbage):
    fixed, moved, weights = arrays(shape)
    run = jax.jit(jax.value_and_grad(loss, (0, 1)))
    expected = run(fixed, moved, mask=weights)
    for mask in (weights, weights > 0):
        expected = run(fixed, moved, mask=mask)
        spoilt = (jnp.where(weights == 0, garbage, image) for image in (fixed, moved))
        found = run(*spoilt, mask=mask)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        for gradient in found[1]:
            np.testing.assert_array_equal(gradient[weights == 0], 0)
            assert jnp.any(gradient != 0)


@EACH_LOSS
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_and_counts_leaves_no_finite_result(loss, bad):
    fixed, moved, weights = arrays((9, 8))
    counted = tuple(jnp.argwhere(weights > 0)[3])
    assert not jnp.isfinite(loss(fixed, moved.at[counted].set(bad), mask=weights))
    assert not jnp.isfinite(loss(fixed.at[counted].set(bad), moved, mask=weights))
    assert not jnp.isfinite(jax.jit(loss)(fixed, moved, mask=weights.at[counted].set(bad)))


@EACH_LOSS
def test_under_vmap_and_in_half_precision(loss):
    rows = [jnp.stack([image, image[::-1]]) for image in arrays((9, 8))]
    found = jax.jit(jax.vmap(lambda f, m, w: loss(f, m, mask=w)))(*rows)
    np.testing.assert_allclose(found, loss(*arrays((9, 8))[:2], mask=rows[2][0]), rtol=1e-9)
    half = [row[0].astype("float16") for row in rows]
    expected = loss(*(x.astype("float32") for x in half[:2]), mask=half[2])
    found = loss(*half[:2], mask=half[2])
    assert found.dtype == "float16"
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@EACH_LOSS
def test_there_is_a_gradient_of_images_and_none_of_the_mask(loss):
    fixed, moved, weights = arrays((4, 5))
    slope = jax.grad(lambda w: loss(fixed, moved, mask=w))(weights)
    np.testing.assert_array_equal(slope, 0)
    weights = weights.at[0, 0].set(1).at[2, 3].set(1)
    ends = lambda image: jnp.asarray(image).at[0, 0].set(-1).at[2, 3].set(2)
    of_images = lambda f, m: loss(ends(f), ends(m), mask=weights)
    check_grads(of_images, (fixed, moved), 1, modes=["rev"], rtol=1e-5, atol=1e-5, eps=1e-7)


@EACH_LOSS
def test_bad_masks_are_named(loss, unchecked):
    image = jnp.ones((5, 6))
    bad = [
        (jnp.ones((6, 5)), r"mask=float64\[6, 5\]: accepted is \[5, 6\], the shape of image"),
        (jnp.ones((5, 6), int), r"mask=int64\[5, 6\]: accepted is floating-point"),
        (2 * image, r"mask=float64\[5, 6\] with values from 2.0 to 2.0: accepted is 0 to 1"),
        (image.at[2, 3].set(jnp.nan), r"mask=float64\[5, 6\] with NaN: accepted is 0 to 1"),
        (0 * image, r"mask=float64\[5, 6\] with 0 everywhere: accepted is weights above 0"),
        (image < 0, r"mask=bool\[5, 6\] with 0 everywhere: accepted is weights above 0"),
    ]
    for mask, message in bad:
        with pytest.raises(ValueError, match=message):
            loss(image, image, mask=mask)
    assert jnp.isnan(jax.jit(loss)(image, image, mask=0 * image))
