"""Scaled prediction consistency of classifiers whose consistency is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.backdoor._amplify import SCALES
from jaxml.backdoor._mspc import mspc
from jaxml.backdoor._spc import spc


def brighter_than_half(images):
    """Class 1 where the mean pixel is above 1/2."""
    mean = jnp.mean(images, axis=(1, 2, 3))
    return jnp.stack([jnp.full_like(mean, 0.5), mean], axis=-1)


def flat(values):
    return jnp.asarray(values)[:, None, None, None] * jnp.ones((4, 4, 1))


@pytest.mark.parametrize("batch_size", [2, 64])
def test_flat_images_change_class_where_they_cross_the_half(batch_size):
    # n x > 1/2 and x < 1/2 disagree: .02 never within 12 scales, .06 from n = 9 on.
    found = spc(brighter_than_half, flat([0.02, 0.06, 0.3, 0.7, 0.0]), batch_size=batch_size)
    np.testing.assert_allclose(found, [1, 7 / 11, 0, 1, 1], rtol=1e-12)


def test_is_mspc_without_mask_and_shift_on_the_unit_scale():
    images = flat(np.random.default_rng(0).uniform(0, 0.4, 30))
    found = mspc(brighter_than_half, images, jnp.ones((4, 4)), shift=0, scales=SCALES)
    score = spc(brighter_than_half, images)
    assert len(np.unique(score)) > 5
    np.testing.assert_allclose(2 * score - 1, found, atol=1e-12)


def test_float32_stays_float32():
    assert spc(brighter_than_half, flat([0.3]).astype("float32")).dtype == "float32"


@pytest.mark.parametrize(
    ("settings", "message"),
    [(dict(scales=(-1,)), r"scales=\(-1,\)"), (dict(batch_size=0), "batch_size=0")],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        spc(brighter_than_half, flat([0.3]), **settings)


def test_bytes_are_refused(unchecked):
    with pytest.raises(ValueError, match="images=uint8.*: accepted is floating-point"):
        spc(brighter_than_half, jnp.zeros((2, 4, 4, 1), jnp.uint8))
