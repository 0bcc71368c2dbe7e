"""Each trigger against a second implementation in numpy, the warp against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from jaxml.backdoor.attacks import (
    blend_trigger,
    noise,
    patch_trigger,
    sinusoid_trigger,
    square_trigger,
    warp_trigger,
)

SHAPE = (12, 10, 3)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(4, *SHAPE))
PATCH, PATTERN = RNG.uniform(size=(3, 2, 3)), RNG.uniform(size=SHAPE)


def pasted(margin):
    x = IMAGES.copy()
    x[:, 12 - margin - 3 : 12 - margin, 10 - margin - 2 : 10 - margin] = PATCH
    return x


def squared():
    x = IMAGES.copy()
    x[:, 8:11, 7:9] += PATCH
    return np.minimum(x, 1)


def waved():
    wave = 20 / 255 * np.sin(2 * np.pi * np.arange(10) * 6 / 10)
    return np.clip(IMAGES + wave[None, None, :, None], 0, 1)


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (lambda: patch_trigger(jnp.asarray(PATCH), SHAPE), pasted(0)),
        (lambda: patch_trigger(jnp.asarray(PATCH), SHAPE, margin=2), pasted(2)),
        (lambda: square_trigger(jnp.asarray(PATCH), SHAPE, margin=1), squared()),
        (lambda: blend_trigger(jnp.asarray(PATTERN)), 0.8 * IMAGES + 0.2 * PATTERN),
        (lambda: blend_trigger(jnp.asarray(PATTERN), alpha=0.7), 0.3 * IMAGES + 0.7 * PATTERN),
        (lambda: sinusoid_trigger(SHAPE), waved()),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equals_a_second_implementation(trigger, expected, dtype):
    found = trigger()(jnp.asarray(IMAGES, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, atol=1e-6 if dtype == np.float32 else 1e-14)


def keys_cubic(x):
    """The cubic kernel with a = -1/2."""
    x = abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def upsampling(n, points):
    """Weights from points to pixels, corners on corners; those of points outside left out."""
    place = np.arange(n)[:, None] * (points - 1) / (n - 1)
    weights = keys_cubic(place - np.arange(points))
    return weights / weights.sum(axis=1, keepdims=True)


def warped(key, shape, points, strength):
    height, width, channels = shape
    control = np.asarray(jax.random.uniform(key, (points, points, 2), minval=-1, maxval=1))
    control = control / abs(control).mean()
    rows, columns = upsampling(height, points), upsampling(width, points)
    flow = np.einsum("ia,jb,abk->ijk", rows, columns, control)
    # Coordinates from -1 to 1 across the image, moved and clipped as in the paper.
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij"), -1)
    grid = np.clip(grid + strength * flow / height, -1, 1)
    place = (grid + 1) / 2 * np.array([height - 1, width - 1])
    place = list(np.moveaxis(place, -1, 0))
    sampled = [
        [map_coordinates(x[..., c], place, order=1, mode="nearest") for c in range(channels)]
        for x in IMAGES
    ]
    return np.moveaxis(np.array(sampled), 1, -1)


@pytest.mark.parametrize(("points", "strength"), [(4, 0.5), (2, 3.0), (10, 0.5)])
def test_warp_equals_scipy(points, strength):
    key = jax.random.key(3)
    trigger = warp_trigger(key, SHAPE, points=points, strength=strength)
    expected = warped(key, SHAPE, points, strength)
    assert abs(expected - IMAGES).max() > 0.05
    np.testing.assert_allclose(trigger(jnp.asarray(IMAGES)), expected, atol=1e-12)


def test_warp_with_a_point_at_each_pixel_is_not_smoothed():
    flow = warp_trigger(jax.random.key(0), (8, 8, 1), points=8).flow
    control = jax.random.uniform(jax.random.key(0), (8, 8, 2), minval=-1, maxval=1)
    expected = control / abs(control).mean() * 0.5 / 8 * 3.5
    np.testing.assert_allclose(flow, expected, atol=1e-14)


def test_noise_is_grey_and_enlarged_beyond_its_side():
    small, large = (noise(jax.random.key(0), (n, n, 3), side=8) for n in (8, 32))
    for pattern in (small, large):
        np.testing.assert_array_equal(pattern[..., 0], pattern[..., 2])
        assert 0 <= pattern.min() and pattern.max() <= 1
    step = lambda x: abs(np.diff(np.asarray(x), axis=0)).mean()
    assert step(large) < step(small) / 3


def test_is_a_pytree_under_jit_and_vmap():
    images = jnp.asarray(IMAGES)
    keys = jax.random.split(jax.random.key(0), 2)
    many = jax.vmap(lambda key: warp_trigger(key, SHAPE))(keys)
    found = jax.jit(jax.vmap(lambda trigger: trigger(images)))(many)
    expected = [warp_trigger(key, SHAPE)(images) for key in keys]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-12)
    assert abs(found[0] - found[1]).max() > 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patch_trigger(jnp.ones((13, 2, 3)), SHAPE), "patch=.*13, 2, 3.*: .* fits images"),
        (lambda: patch_trigger(jnp.ones((3, 3, 1)), SHAPE), "patch=.*3, 3, 1.*: .* fits images"),
        (lambda: square_trigger(jnp.ones((3, 3, 3)), SHAPE, margin=-1), "margin=-1: accepted is"),
        (lambda: square_trigger(jnp.ones((3, 3, 3)), SHAPE, margin=8), "patch=.* with margin=8"),
        (lambda: blend_trigger(jnp.ones(SHAPE), alpha=1.5), "alpha=1.5"),
        (lambda: warp_trigger(jax.random.key(0), SHAPE, points=1), "points=1: .* 2 or more"),
        (
            lambda: warp_trigger(jax.random.key(0), SHAPE, points=11),
            "points=11: accepted is 2 to 10",
        ),
        (lambda: warp_trigger(jax.random.key(0), SHAPE, strength=0.0), "strength=0.0"),
        (
            lambda: sinusoid_trigger(SHAPE)(jnp.ones((1, 9, 9, 3))),
            "images=.*the size of the trigger",
        ),
        (lambda: sinusoid_trigger(SHAPE)(jnp.ones(SHAPE)), r"images=.*: accepted is \[row, height"),
        (lambda: sinusoid_trigger(SHAPE)(jnp.ones((1, *SHAPE), "uint8")), "images=uint8"),
        (
            lambda: sinusoid_trigger(SHAPE)(jnp.full((1, *SHAPE), jnp.nan)),
            "images=.* from nan to nan",
        ),
        (
            lambda: sinusoid_trigger(SHAPE)(jnp.full((1, *SHAPE), 255.0)),
            "images=.* to 255.0: .* 0 to 1",
        ),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
