"""The U-Net against a second implementation by scipy, and the file of its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate

from jaxml.models import UNet, load_voxelmorph
from jaxml.models.unet import _convolve, _convolve_planes

SHAPES = {
    "encoder": [(2, 16), (16, 32), (32, 32), (32, 32)],
    "decoder": [(32, 32), (64, 32), (64, 32), (48, 32), (32, 32), (34, 16), (16, 16)],
}


def images(shape, dtype=np.float64):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.uniform(size=shape), dtype) for _ in range(2))


def shapes(ndim):
    layers = [*SHAPES["encoder"], *SHAPES["decoder"], (16, ndim)]
    return [((3,) * ndim + layer, layer[1:]) for layer in layers]


def random_weights(ndim):
    """Return kernel and bias of the twelve layers, such that all of them matter."""
    rng = np.random.default_rng(1)
    scaled = lambda shape: rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
    return [(scaled(kernel), 0.1 * rng.normal(size=bias)) for kernel, bias in shapes(ndim)]


def parameters(weights):
    names = [f"{part}_{i}" for part, layers in SHAPES.items() for i in range(len(layers))]
    named = zip([*names, "flow"], weights, strict=True)
    return {
        "params": {n: {"kernel": jnp.asarray(k), "bias": jnp.asarray(b)} for n, (k, b) in named}
    }


def convolution(x, kernel, bias, stride=1):
    """The sum over all channels, at every voxel, then every other one as Keras takes them."""
    y = np.stack(
        [
            sum(
                correlate(x[..., i], kernel[..., i, o], mode="constant") for i in range(x.shape[-1])
            )
            for o in range(kernel.shape[-1])
        ],
        axis=-1,
    )
    # The window of the first output at stride 2 starts at voxel 0: its center is voxel 1.
    ndim = x.ndim - 1
    return (y[(slice(1, None, 2),) * ndim] if stride == 2 else y) + bias


def reference(weights, fixed, moving):
    leaky = lambda x: np.where(x > 0, x, 0.2 * x)
    twice = lambda x: np.kron(x, np.ones((2,) * (x.ndim - 1) + (1,)))
    x0 = np.stack([moving, fixed], axis=-1)
    x1 = leaky(convolution(x0, *weights[0], 2))
    x2 = leaky(convolution(x1, *weights[1], 2))
    x3 = leaky(convolution(x2, *weights[2], 2))
    x = leaky(convolution(x3, *weights[3], 2))
    x = leaky(convolution(x, *weights[4]))
    x = leaky(convolution(np.concatenate([twice(x), x3], -1), *weights[5]))
    x = leaky(convolution(np.concatenate([twice(x), x2], -1), *weights[6]))
    x = leaky(convolution(np.concatenate([twice(x), x1], -1), *weights[7]))
    x = leaky(convolution(x, *weights[8]))
    x = leaky(convolution(np.concatenate([twice(x), x0], -1), *weights[9]))
    x = leaky(convolution(x, *weights[10]))
    return convolution(x, *weights[11])


@pytest.mark.parametrize("shape", [(32, 48), (16, 32, 16)])
def test_equals_a_second_implementation(shape):
    weights = random_weights(len(shape))
    fixed, moving = images(shape)
    found = jax.jit(UNet().apply)(parameters(weights), fixed, moving)
    expected = reference(weights, *map(np.asarray, (fixed, moving)))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_other_sides_are_padded_with_zeros_and_cut():
    parameters_ = parameters(random_weights(2))
    fixed, moving = images((20, 33))
    pad = lambda image: jnp.pad(image, ((0, 12), (0, 15)))
    apply = jax.jit(UNet().apply)
    whole = apply(parameters_, pad(fixed), pad(moving))
    np.testing.assert_allclose(apply(parameters_, fixed, moving), whole[:20, :33], atol=1e-13)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_by_planes_is_the_whole_one(stride):
    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(6, 8, 4, 3))), rng.normal(size=(3, 3, 3, 3, 5))
    planes = lambda x, kernel: _convolve_planes(x, kernel, stride)
    whole = lambda x, kernel: _convolve(x[None], kernel, stride)[0]
    found, pull = jax.vjp(planes, x, jnp.asarray(kernel))
    expected, expected_pull = jax.vjp(whole, x, jnp.asarray(kernel))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    for one, other in zip(pull(found), expected_pull(found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)


def test_new_network_hardly_moves_and_maps_over_batches():
    fixed, moving = images((16, 16), np.float32)
    params = jax.jit(UNet().init)(jax.random.key(0), fixed, moving)
    found = jax.jit(UNet().apply)(params, fixed, moving)
    assert found.dtype == np.float32 and found.shape == (16, 16, 2)
    assert 0 < np.abs(found).max() < 1e-2
    layers = params["params"]
    assert not any(np.any(layer["bias"]) for layer in layers.values())
    np.testing.assert_allclose(np.std(layers["flow"]["kernel"]), 1e-5, rtol=0.2)
    # He: variance 2 / (9 * 32)
    np.testing.assert_allclose(np.var(layers["decoder_0"]["kernel"]), 2 / 288, rtol=0.1)
    both = jax.jit(jax.vmap(UNet().apply, (None, 0, 0)))(
        params, jnp.stack([fixed, moving]), jnp.stack([moving, fixed])
    )
    np.testing.assert_allclose(both[0], found, atol=1e-7)


def save(path, **changes):
    arrays = {}
    for i, (kernel, bias) in enumerate(random_weights(3)):
        arrays |= {f"kernel_{i:02d}": kernel, f"bias_{i:02d}": bias}
    arrays |= changes
    np.savez(path, **{name: a for name, a in arrays.items() if a is not None})
    return path


def test_weights_are_read_layer_by_layer(tmp_path):
    found = load_voxelmorph(save(tmp_path / "w.npz"))
    expected = jax.tree.map(lambda a: a.astype(jnp.float32), parameters(random_weights(3)))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_weights_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_voxelmorph(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="has no bias_11"):
        load_voxelmorph(save(tmp_path / "a.npz", bias_11=None))
    with pytest.raises(ValueError, match=r"kernel_04 is \(3, 3\), not \(3, 3, 3, 32, 32\)"):
        load_voxelmorph(save(tmp_path / "b.npz", kernel_04=np.zeros((3, 3))))
    whole = save(tmp_path / "c.npz").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(ValueError, match="no readable npz"):
            load_voxelmorph(tmp_path / "d.npz")


def test_bad_images_are_named(unchecked):
    image = jnp.zeros((16, 16))
    with pytest.raises(ValueError, match=r"moving=\S*\[.*\]: accepted is"):
        UNet().init(jax.random.key(0), image, jnp.zeros((16, 8)))
    with pytest.raises(ValueError, match=r"fixed=\S*\[.*\]: accepted is \[H, W\]"):
        UNet().init(jax.random.key(0), jnp.zeros(16), jnp.zeros(16))
