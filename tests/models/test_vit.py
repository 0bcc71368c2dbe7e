"""The vision transformer against a second implementation by numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from jaxml.models.vit import ViT

MODEL = ViT(classes=3, patch=4, width=8, depth=2, heads=2, mean=(0.5,), std=(0.25,))
IMAGES = np.random.default_rng(0).uniform(size=(3, 8, 12, 1))


def variables():
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.asarray(IMAGES))
    return jax.tree.map(lambda like: jnp.asarray(0.4 * rng.normal(size=like.shape)), shapes)


def reference(params, x):
    def norm(x, name):
        own = params[name]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * own["scale"] + own["bias"]

    dense = lambda x, own: np.tensordot(x, own["kernel"], 1) + own["bias"]
    x = (x - 0.5) / 0.25
    cells = x.reshape(3, 2, 4, 3, 4, 1).swapaxes(2, 3).reshape(3, 6, 16)
    x = dense(cells, params["embed"])
    x = np.concatenate([np.tile(params["token"], (3, 1, 1)), x], axis=1) + params["position"]
    for i in range(2):
        attention = params[f"attention_{i:02d}"]
        y = norm(x, f"norm_{i:02d}_attention")
        q, k, v = (dense(y, attention[name]) for name in ("query", "key", "value"))
        weights = softmax(np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(4), axis=-1)
        y = np.einsum("bhqk,bkhd->bqhd", weights, v)
        x = x + np.einsum("bqhd,hdo->bqo", y, attention["out"]["kernel"]) + attention["out"]["bias"]
        y = dense(norm(x, f"norm_{i:02d}_mlp"), params[f"widen_{i:02d}"])
        x = x + dense(y * (1 + erf(y / np.sqrt(2))) / 2, params[f"narrow_{i:02d}"])
    token = norm(x, "norm_last")[:, 0]
    return dense(token, params["head"]), token


def test_equals_a_second_implementation_and_maps_over_networks():
    own = variables()
    expected = reference(jax.tree.map(np.asarray, own)["params"], IMAGES)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), own)
    found = jax.jit(jax.vmap(MODEL.apply, (0, None)))(two, jnp.asarray(IMAGES))
    for one, other in zip(found, expected, strict=True):
        assert abs(other).max() > 0.1
        np.testing.assert_allclose(one[0], other, atol=1e-10)


def test_number_of_parameters():
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(ViT(classes=1000).init, jax.random.key(0), images)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 5_717_416
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("shape", [(1, 8, 10, 1), (1, 8, 8, 3), (8, 8, 1)])
def test_bad_images_are_named(shape, unchecked):
    with pytest.raises(ValueError, match=r"images=float\d+\[.*\]: accepted is"):
        jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros(shape))
