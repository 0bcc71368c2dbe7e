"""ResNet-18 against a second implementation by scipy, and its numbers of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate

from jaxml.models.resnet import ResNet18

MEAN, STD = (0.3, 0.5), (0.2, 0.4)


def model(stem="cifar"):
    return ResNet18(classes=3, width=2, stem=stem, mean=MEAN, std=STD)


def shapes(network, *shape, dtype=np.float64):
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape, dtype))


def random_variables(network, *shape):
    """Return variables such that all of them matter; variances are positive."""
    rng = np.random.default_rng(1)
    draw = lambda like: rng.normal(size=like.shape) / np.sqrt(max(1, np.prod(like.shape[:-1])))
    variables = jax.tree.map(draw, shapes(network, *shape))
    for name, norm in variables["batch_stats"].items():
        norm["var"] = 0.5 + norm["var"] ** 2
        variables["params"][name]["scale"] = 1 + 0.3 * variables["params"][name]["scale"]
    return jax.tree.map(jnp.asarray, variables)


def images(*shape):
    return np.random.default_rng(0).uniform(size=shape)


def reference(variables, x, stem, train):
    """Return logits, features, and the mean and variance at each normalisation."""
    variables = jax.tree.map(np.asarray, variables)
    params, stats, moments = variables["params"], variables["batch_stats"], {}

    def convolve(x, i, stride=1):
        kernel = params[f"conv_{i:02d}"]["kernel"]
        planes = [
            [
                sum(correlate(row[..., c], k[..., c], mode="constant") for c in range(k.shape[-1]))
                for k in np.moveaxis(kernel, -1, 0)
            ]
            for row in x
        ]
        y = np.moveaxis(np.array(planes), 1, -1)[:, ::stride, ::stride]
        norm, scale = stats[f"norm_{i:02d}"], params[f"norm_{i:02d}"]
        own = y.mean((0, 1, 2)), y.var((0, 1, 2))
        moments[f"norm_{i:02d}"] = own
        mean, var = own if train else (norm["mean"], norm["var"])
        return (y - mean) / np.sqrt(var + 1e-5) * scale["scale"] + scale["bias"]

    relu = lambda x: np.maximum(x, 0)
    x = (x - np.array(MEAN)) / np.array(STD)
    if stem == "cifar":
        x = relu(convolve(x, 0))
    else:
        x = relu(convolve(x, 0, 2))
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        h, w = (n // 2 for n in x.shape[1:3])
        windows = [
            padded[:, i : i + 2 * h : 2, j : j + 2 * w : 2] for i in range(3) for j in range(3)
        ]
        x = np.max(windows, axis=0)
    # Number of the first convolution, stride, and that of the shortcut's convolution.
    blocks = [(1, 1, None), (3, 1, None), (5, 2, 7), (8, 1, None), (10, 2, 12), (13, 1, None)]
    for first, stride, shortcut in [*blocks, (15, 2, 17), (18, 1, None)]:
        y = convolve(relu(convolve(x, first, stride)), first + 1)
        x = relu(y + (x if shortcut is None else convolve(x, shortcut, stride)))
    pooled = x.mean((1, 2))
    return pooled @ params["head"]["kernel"] + params["head"]["bias"], pooled, moments


@pytest.mark.parametrize(("stem", "side"), [("cifar", 8), ("imagenet", 16)])
def test_equals_a_second_implementation(stem, side):
    x = images(3, side, 2 * side, 2)
    variables = random_variables(model(stem), *x.shape)
    logits, features = jax.jit(model(stem).apply)(variables, x)
    expected, expected_features, _ = reference(variables, x, stem, train=False)
    assert abs(expected).min() > 1e-3
    np.testing.assert_allclose(logits, expected, atol=1e-10)
    np.testing.assert_allclose(features, expected_features, atol=1e-10)


def test_training_mode_uses_the_batch_and_returns_its_moments_and_inputs():
    x = images(4, 8, 8, 2)
    variables = random_variables(model(), *x.shape)
    apply = lambda params, x: model().apply(
        {"params": params}, x, train=True, mutable=["batch_stats", "intermediates"]
    )
    single = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)
    (logits, _), state = jax.jit(apply)(single(variables["params"]), single(x))
    expected, _, moments = reference(variables, x, "cifar", train=True)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert sorted(moments) == sorted(state["batch_stats"]) and len(moments) == 20
    for name, (mean, var) in moments.items():
        np.testing.assert_allclose(state["batch_stats"][name]["mean"], mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(state["batch_stats"][name]["var"], var, rtol=1e-3, atol=1e-4)
        (found,) = state["intermediates"][name.replace("norm", "input")]
        np.testing.assert_allclose(jnp.mean(found, (0, 1, 2)), mean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "side", "count"),
    [
        (ResNet18(), 32, 11_173_962),
        (ResNet18(classes=1000, stem="imagenet"), 224, 11_689_512),
        # torchvision's ResNet(BasicBlock, [1, 1, 1, 1]).
        (ResNet18(classes=1000, stem="imagenet", blocks=1), 224, 5_418_792),
    ],
)
def test_number_of_parameters(network, side, count):
    found = shapes(network, 1, side, side, 3, dtype=np.float32)
    assert sum(leaf.size for leaf in jax.tree.leaves(found["params"])) == count
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found))


def test_new_kernels_and_vmap_over_networks():
    x = jnp.asarray(images(2, 8, 8, 2), jnp.float32)
    last = jax.jit(lambda key: model().init(key, x)["params"]["conv_19"]["kernel"])
    # He, fan-out: variance 2 / (9 * 16)
    np.testing.assert_allclose(np.var(last(jax.random.key(0))), 2 / 144, rtol=0.1)
    one = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), random_variables(model(), *x.shape))
    other = {**one, "params": jax.tree.map(lambda leaf: 0.9 * leaf, one["params"])}
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, other)
    found, _ = jax.jit(jax.vmap(model().apply, (0, None)))(both, x)
    assert found.dtype == np.float32 and found.shape == (2, 2, 3)
    apply = jax.jit(model().apply)
    for i, variables in enumerate((one, other)):
        np.testing.assert_allclose(found[i], apply(variables, x)[0], atol=1e-4)


@pytest.mark.parametrize(
    ("stem", "x", "message"),
    [
        ("cifar", jnp.zeros((1, 8, 8, 3)), r"images=float\d+\[1, 8, 8, 3\]: accepted is"),
        ("cifar", jnp.zeros((8, 8, 2)), r"images=float\d+\[8, 8, 2\]: accepted is"),
        (
            "cifar",
            jnp.zeros((1, 8, 8, 2), jnp.uint8),
            r"images=uint8\[1, 8, 8, 2\]: accepted is floating",
        ),
        ("small", jnp.zeros((1, 8, 8, 2)), "stem='small': accepted is one of 'cifar'"),
    ],
)
def test_bad_input_is_named(stem, x, message, unchecked):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model(stem).init, jax.random.key(0), x)
