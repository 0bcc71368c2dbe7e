"""Masked scaled prediction consistency against float64 numpy, over kinds of models and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml.backdoor._amplify import amplify
from jaxml.backdoor._mspc import mspc
from jaxml.sharding import data_mesh

SCALES = (2, 3, 5)
ROWS, SIDE, CLASSES = 21, 6, 4
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(ROWS, SIDE, SIDE, 2))
MASK = RNG.uniform(size=(SIDE, SIDE))
WEIGHTS = RNG.normal(size=(SIDE * SIDE * 2, CLASSES))


def linear(images):
    return images.reshape(images.shape[0], -1) @ jnp.asarray(WEIGHTS, images.dtype)


def expected(images, mask, shift, scales):
    """The definition, a row and a scale at a time."""
    predict = lambda x: np.argmax(x.reshape(-1) @ WEIGHTS)
    score = []
    for x in np.asarray(images, float):
        amplified = [np.clip(n * (x - shift) * mask[:, :, None], 0, 1) for n in scales]
        score.append(np.mean([1 if predict(a) == predict(x) else -1 for a in amplified]))
    return score


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [1, 8, 21, 64])
def test_equals_the_definition(batch_size, dtype):
    images, mask = (jnp.asarray(a, dtype) for a in (IMAGES, MASK))
    found = mspc(linear, images, mask, shift=0.1, scales=SCALES, batch_size=batch_size)
    assert found.dtype == dtype
    truth = expected(IMAGES, MASK, 0.1, SCALES)
    assert len(set(truth)) >= 3
    np.testing.assert_allclose(found, truth, atol=1e-6)


def linen_model():
    model = linen.Dense(CLASSES, param_dtype=jnp.float64)
    flat = lambda x: x.reshape(x.shape[0], -1)
    variables = model.init(jax.random.key(0), flat(jnp.asarray(IMAGES)))
    return lambda x: model.apply(variables, flat(x))


class Net(nnx.Module):
    def __init__(self):
        self.weights = nnx.Param(jnp.asarray(WEIGHTS))

    def __call__(self, images):
        return images.reshape(images.shape[0], -1) @ self.weights[...]


def callback_model():
    """A classifier of numpy or scikit-learn on the host."""
    host = lambda x: np.asarray(x).reshape(len(x), -1) @ WEIGHTS
    return lambda x: jax.pure_callback(
        host, jax.ShapeDtypeStruct((x.shape[0], CLASSES), x.dtype), x
    )


@pytest.mark.parametrize("build", [Net, callback_model])
def test_any_model_gives_the_same(build):
    found = mspc(build(), jnp.asarray(IMAGES), jnp.asarray(MASK), scales=SCALES, batch_size=8)
    np.testing.assert_allclose(found, expected(IMAGES, MASK, 0.2, SCALES), atol=1e-12)


def test_linen_model_and_its_plain_form_agree():
    model = linen_model()
    jitted = jax.jit(lambda x: mspc(model, x, jnp.asarray(MASK), scales=SCALES))
    eager = mspc(model, jnp.asarray(IMAGES), jnp.asarray(MASK), scales=SCALES, batch_size=5)
    np.testing.assert_allclose(jitted(IMAGES), eager, atol=1e-12)


def test_vmap_over_masks_equals_one_by_one():
    masks = jnp.stack([jnp.asarray(MASK), jnp.ones_like(MASK)])
    call = lambda mask: mspc(linear, jnp.asarray(IMAGES), mask, scales=SCALES, batch_size=8)
    np.testing.assert_allclose(jax.vmap(call)(masks), [call(m) for m in masks], atol=1e-12)


@pytest.mark.parametrize("build", [lambda: linear, callback_model])
def test_rows_on_eight_devices_give_the_same(build):
    rows, mask = jnp.concatenate([jnp.asarray(IMAGES)] * 8)[:160], jnp.asarray(MASK)
    split = jax.device_put(rows, NamedSharding(data_mesh(), P("data")))
    found = mspc(build(), split, mask, scales=SCALES, batch_size=16)
    np.testing.assert_allclose(found, mspc(linear, rows, mask, scales=SCALES), atol=1e-12)
    if build is not callback_model:
        assert len(found.sharding.device_set) == 8


def test_amplification_has_the_gradient_of_the_closed_interval():
    image = jnp.array([0.2, 0.5, 0.7, 1.0, 0.6]).reshape(1, 1, 5, 1)
    mask = jnp.array([[1.0, 0.0, 1.0, 1.0, 0.5]])
    slope = jax.grad(lambda m: jnp.sum(amplify(image, m, 0.2, 2.0)))(mask)
    # 2 (x - .2) where 2 (x - .2) m is in [0, 1], both ends included: the second pixel is at 0
    # and the third one at 1.
    np.testing.assert_allclose(slope, [[0, 0.6, 1.0, 0, 0.8]], atol=1e-12)


NAN_ROW = IMAGES.copy()
NAN_ROW[3, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"images=float64\[6, 6, 2\]: accepted is \[row, height, width, channel\]"),
        (IMAGES[:0], r"images=float64\[0, 6, 6, 2\]: accepted is"),
        ((IMAGES * 255).astype("uint8"), r"images=uint8.*: accepted is .* in \[0, 1\]"),
        (IMAGES * 255, r"images=.* with values from 0.* to 25\d.*: accepted is 0 to 1"),
        (IMAGES - 0.5, "images=.* with values from -0.4.*: accepted is 0 to 1"),
        (NAN_ROW, "images=.* with values from nan to nan: accepted is 0 to 1"),
    ],
)
def test_bad_images_are_named(images, message, unchecked):
    with pytest.raises(ValueError, match=message):
        mspc(linear, jnp.asarray(images), jnp.asarray(MASK))


# Not finite for row 7 itself, or for what amplification makes of row 2 alone.
BROKEN = lambda x: jnp.where(x[:, :1, 0, 0] == IMAGES[7, 0, 0, 0], jnp.nan, linear(x))
FRAGILE = lambda x: jnp.where(x[:, :1, 0, 0] == 2 * IMAGES[2, 0, 0, 0], jnp.inf, linear(x))


@pytest.mark.parametrize(
    ("logits_fn", "message"),
    [
        (BROKEN, r"logits_fn\(images\)=.* with NaN or infinity in 1 rows, the first of them row 7"),
        (FRAGILE, r"\(amplified images\)=.* with NaN or infinity in 1 rows, .* row 2"),
        (lambda x: linear(x)[:, :1], r"logits_fn\(images\[:2\]\)=.*\[2, 1\]: .* two classes"),
        (lambda x: linear(x)[0], r"logits_fn\(images\[:2\]\)=float64\[4\]: .*\[2, class\]"),
        (lambda x: (linear(x), x), r"logits_fn\(images\[:2\]\)=\(.*\[2, class\]"),
        (lambda x: linear(x).astype(int), r"logits_fn\(images\[:2\]\)=int.* floating-point"),
    ],
)
def test_bad_logits_are_named(logits_fn, message):
    images = jnp.asarray(IMAGES).at[2, 0, 0, 0].set(IMAGES[:, 0, 0, 0].min() / 3)
    if logits_fn is FRAGILE:
        images = images.at[2, 0, 0, 0].set(IMAGES[2, 0, 0, 0])
    with pytest.raises(ValueError, match=message):
        mspc(logits_fn, images, jnp.ones_like(MASK), shift=0, scales=(2,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(shift=1.0), "shift=1.0"),
        (dict(shift=-0.1), "shift=-0.1"),
        (dict(shift=np.nan), "shift=nan"),
        (dict(scales=()), r"scales=\(\)"),
        (dict(scales=(2, 0)), r"scales=\(2, 0\)"),
        (dict(batch_size=0), "batch_size=0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        mspc(linear, jnp.asarray(IMAGES), jnp.asarray(MASK), **settings)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK[:3], r"mask=float64\[3, 6\]: accepted is \[6, 6\], height and width of images"),
        (MASK * 2, "mask=.* with values from .*: accepted is 0 to 1"),
    ],
)
def test_bad_masks_are_named(mask, message, unchecked):
    with pytest.raises(ValueError, match=message):
        mspc(linear, jnp.asarray(IMAGES), jnp.asarray(mask))
