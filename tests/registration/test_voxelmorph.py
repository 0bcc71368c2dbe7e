"""The loss of a registration network, training through the layer, and pretrained weights."""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxml import training
from jaxml.models import UNet, load_voxelmorph
from jaxml.registration import (
    count_folds,
    diffeomorphic_layer,
    fold_free,
    grad_l2,
    layer_residual,
    mse,
    ncc,
    predict,
    voxelmorph_loss,
    warp,
)

BRAIN = Path(os.environ.get("JAXML_DATA", "")) / "brain"


def blob(center, side=32, ndim=2):
    grids = np.meshgrid(*[np.arange(side)] * ndim, indexing="ij")
    squares = sum((g - c) ** 2 for g, c in zip(grids, center, strict=True))
    return jnp.asarray(np.exp(-squares / 50), jnp.float32)


def smooth_flow(params, fixed, moving):
    """A stand-in for a network: a field that depends on parameters and images."""
    return params + 0.1 * (fixed - moving)[..., None]


def random_field(ndim=2, side=16):
    coarse = np.random.default_rng(0).normal(size=(4,) * ndim + (ndim,))
    shape = (side,) * ndim + (ndim,)
    return jax.image.resize(jnp.asarray(coarse, jnp.float32), shape, "cubic")


def weights(ndim, flow):
    """Return the parameters of a U-Net, drawn here since compiling its own draws takes long."""
    rng, image = np.random.default_rng(1), jax.ShapeDtypeStruct((16,) * ndim, jnp.float32)
    shapes = jax.eval_shape(UNet().init, jax.random.key(0), image, image)["params"]
    draw = lambda name, s: rng.normal(
        size=s.shape, scale=flow if name == "flow" else np.sqrt(2 / np.prod(s.shape[:-1]))
    )
    zero = lambda s: jnp.zeros(s.shape, s.dtype)
    layers = {
        name: {"kernel": jnp.asarray(draw(name, s["kernel"]), jnp.float32), "bias": zero(s["bias"])}
        for name, s in shapes.items()
    }
    return {"params": layers}


PAIR = blob((7, 8), side=16), blob((9, 7), side=16)


@pytest.mark.parametrize(
    ("projection", "boundary"),
    [(None, "dirichlet"), ("layer", "dirichlet"), ("layer", "neumann"), ("fold_free", "dirichlet")],
)
def test_loss_is_the_weighted_sum_of_its_terms(projection, boundary):
    params = 3 * random_field()
    ending = dict(projection=projection, boundary=boundary)
    weights = dict(smoothness=3.0, poisson_weight=0.7)
    loss = functools.partial(voxelmorph_loss, smooth_flow, **weights, **ending)
    total, terms = jax.jit(loss)(params, *PAIR)
    u = smooth_flow(params, *PAIR)
    assert count_folds(u, scheme="digital") > 0
    expected = 0.0
    if projection == "layer":
        reconstruction = diffeomorphic_layer(u, boundary=boundary)
        u, residual = reconstruction.displacement, layer_residual(reconstruction)
        np.testing.assert_allclose(terms["layer_residual"], residual, rtol=1e-6)
        expected += 0.7 * float(residual)
    if projection == "fold_free":
        u = jax.jit(fold_free)(u).displacement
        assert count_folds(u, scheme="digital") == 0
    assert ("layer_residual" in terms) == (projection == "layer")
    np.testing.assert_allclose(terms["similarity"], ncc(PAIR[0], warp(PAIR[1], u)), rtol=1e-5)
    np.testing.assert_allclose(terms["smoothness"], grad_l2(u), rtol=1e-6)
    expected += float(terms["similarity"]) + 3.0 * float(terms["smoothness"])
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    found = jax.jit(functools.partial(predict, smooth_flow, **ending))(params, *PAIR)
    np.testing.assert_allclose(found.displacement, u, atol=1e-6)
    np.testing.assert_allclose(found.moved, warp(PAIR[1], u), atol=1e-6)


def test_similarity_is_the_one_given():
    params = random_field()
    total, _ = voxelmorph_loss(smooth_flow, params, *PAIR, similarity=mse, smoothness=0.0)
    moved = warp(PAIR[1], smooth_flow(params, *PAIR))
    np.testing.assert_allclose(total, np.mean((PAIR[0] - moved) ** 2), rtol=1e-5)


def test_gradient_through_the_layer_is_the_finite_difference():
    params, direction = (
        f.astype(jnp.float64) for f in (0.5 * random_field(), random_field()[::-1])
    )
    fixed, moving = (image.astype(jnp.float64) for image in PAIR)
    loss = jax.jit(lambda p: voxelmorph_loss(smooth_flow, p, fixed, moving, projection="layer")[0])
    found = jnp.vdot(jax.grad(loss)(params), direction)
    h = 1e-6
    expected = (loss(params + h * direction) - loss(params - h * direction)) / (2 * h)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("projection", [None, "layer"])
def test_training_moves_a_blob_onto_another(projection):
    fixed, moving = blob((15, 16)), blob((17, 15))
    flow = UNet().apply

    def loss(params, pair, key):
        del key
        terms = dict(similarity=mse, smoothness=1e-3, poisson_weight=1e-4)
        return voxelmorph_loss(flow, params, *pair, projection=projection, **terms)

    params = weights(2, flow=1e-5)
    adam, key = optax.adam(1e-3), jax.random.key(1)
    trained = training.fit(key, loss, params, (fixed, moving), optimizer=adam, steps=40)
    assert trained.history["loss"][-1] < 0.2 * trained.history["loss"][0]
    network = jax.jit(functools.partial(predict, flow, projection=projection))
    found = network(trained.params, fixed, moving)
    assert mse(fixed, found.moved) < 0.1 * mse(fixed, moving)


def test_gradient_reaches_every_layer_in_three_dimensions():
    fixed, moving = blob((7, 8, 9), 16, 3), blob((9, 7, 8), 16, 3)
    # A field that is not almost 0, so that the diffeomorphic layer has something to do.
    params = weights(3, flow=0.1)
    loss = lambda p: voxelmorph_loss(UNet().apply, p, fixed, moving, projection="layer")[0]
    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(leaf).all() and np.any(leaf != 0)


def test_bad_input_is_named(unchecked):
    params = random_field()
    with pytest.raises(
        ValueError, match=r"flow\(.*\)=float32\[16, 16\]: accepted is \[16, 16, 2\]"
    ):
        predict(lambda p, f, m: f, params, *PAIR)
    with pytest.raises(
        ValueError, match=r"moving=float32\[8, 16\]: accepted is \[16, 16\], the shape of"
    ):
        predict(smooth_flow, params, PAIR[0], PAIR[1][:8])
    with pytest.raises(ValueError, match="boundary='periodic': accepted is one of"):
        voxelmorph_loss(smooth_flow, params, *PAIR, projection="layer", boundary="periodic")
    with pytest.raises(ValueError, match="projection='svf': accepted is one of None, 'layer'"):
        predict(smooth_flow, params, *PAIR, projection="svf")


@pytest.mark.slow
@pytest.mark.skipif(not BRAIN.is_dir(), reason="JAXML_DATA has no folder brain")
def test_pretrained_network_on_two_brains():
    one, other = (np.load(BRAIN / f"subject_{s}_160x192x224.npz") for s in "ab")
    labels = np.load(BRAIN / "labels30.npz")["labels"]
    fixed, moving = (jnp.asarray(s["vol"] / np.float32(255)) for s in (other, one))
    params = load_voxelmorph(BRAIN / "voxelmorph_vm2_cc.npz")
    found = jax.jit(functools.partial(predict, UNet().apply))(params, fixed, moving)

    def overlap(segmentation):
        pairs = [(segmentation == label, other["seg"] == label) for label in labels]
        return np.mean([2 * np.sum(a & b) / (np.sum(a) + np.sum(b)) for a, b in pairs])

    moved = warp(jnp.asarray(one["seg"], jnp.float32), found.displacement, order=0)
    np.testing.assert_allclose(overlap(one["seg"]), 0.5224, atol=1e-4)
    np.testing.assert_allclose(overlap(np.asarray(moved)), 0.7115, atol=2e-3)
    np.testing.assert_allclose(count_folds(found.displacement), 50153, rtol=1e-2)
