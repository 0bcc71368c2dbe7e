"""Rounding of matrices: within half a step, to the nearest level, and once and for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.models import llama
from jaxml.models.llama.decoder import parameter_shapes
from jaxml.unlearning.attacks import quantize

RNG = np.random.default_rng(0)
MATRIX = RNG.standard_t(3, size=(3, 12, 5))
MATRIX[1, :, 2] = 0


def by_hand(matrix, bits, group):
    """Column by column: the nearest of all levels, found by trying each."""
    levels, found = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)), np.zeros_like(matrix)
    for layer, out in np.ndindex(matrix.shape[0], matrix.shape[2]):
        for start in range(0, matrix.shape[1], group):
            w = matrix[layer, start : start + group, out]
            values = levels * np.abs(w).max() / levels.max()
            nearest = np.abs(w[:, None] - values).argmin(1)
            found[layer, start : start + group, out] = values[nearest]
    return found


@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_each_weight_becomes_the_nearest_level_of_its_group(bits, group):
    found = jax.jit(lambda x: quantize(x, bits=bits, group=group))(jnp.asarray(MATRIX))
    np.testing.assert_allclose(found, by_hand(MATRIX, bits, group or 12), rtol=1e-12, atol=1e-15)
    grouped = np.abs(MATRIX.reshape(3, -1, group or 12, 5))
    step = grouped.max(2, keepdims=True) / (2 ** (bits - 1) - 1)
    error = np.abs(MATRIX - np.asarray(found)).reshape(grouped.shape)
    assert np.all(error <= step / 2 + 1e-12)
    assert error.max() > 0.25 * step.max()


@pytest.mark.parametrize(("dtype", "rtol"), [("bfloat16", 0), ("float32", 1e-6)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_again_changes_nothing_and_dtype_is_kept(bits, dtype, rtol):
    once = quantize(jnp.asarray(MATRIX, dtype), bits=bits)
    again = quantize(once, bits=bits)
    assert once.dtype == again.dtype == dtype
    np.testing.assert_allclose(np.float64(again), np.float64(once), rtol=rtol)
    np.testing.assert_array_equal(once[1, :, 2], 0)


def test_more_bits_are_nearer_and_eight_nearly_exact():
    w = jnp.asarray(RNG.normal(size=(64, 8)))
    errors = [float(jnp.abs(quantize(w, bits=b) - w).max() / jnp.abs(w).max()) for b in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1 / 254 + 1e-9


def test_a_change_below_half_a_step_is_undone():
    """The failure of unlearning: what it moved comes back where no weight crosses a border."""
    levels = RNG.integers(-6, 7, (20, 6)).astype(float)
    levels[0] = 7
    unlearned = jnp.asarray(levels * 0.1)
    unlearned = unlearned.at[1:].add(jnp.asarray(RNG.uniform(-0.049, 0.049, (19, 6))))
    np.testing.assert_allclose(quantize(unlearned), levels * 0.1, rtol=1e-12, atol=1e-15)


def test_matrices_of_a_decoder_are_rounded_and_nothing_else():
    config = llama.LlamaConfig(
        vocab_size=9,
        hidden_size=8,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        intermediate_size=12,
        architecture="qwen2",
    )
    draw = lambda shape: jnp.asarray(RNG.normal(size=shape), "float32")
    is_shape = lambda x: isinstance(x, tuple)
    params = jax.tree.map(draw, parameter_shapes(config), is_leaf=is_shape)
    found = quantize(params, bits=3)
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), params, found)
    matrices = {"q", "k", "v", "o", "gate", "up", "down"}
    assert {name for name, moved in changed["layers"].items() if moved} == matrices
    assert not changed["embed"] and not changed["head"] and not changed["norm"]
    assert jax.tree.structure(found) == jax.tree.structure(params)
    all_of_it = quantize(params, bits=3, keep=())
    assert jnp.any(all_of_it["embed"] != params["embed"])
    np.testing.assert_array_equal(all_of_it["norm"], params["norm"])


def test_integers_and_vectors_stay():
    params = {
        "step": jnp.arange(6).reshape(2, 3),
        "scale": jnp.linspace(0, 1, 5),
        "n": jnp.array(2),
    }
    jax.tree.map(np.testing.assert_array_equal, quantize(params), params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(bits=1), "bits=1: accepted is 2 to 8"),
        (dict(bits=9), "bits=9: accepted is 2 to 8"),
        (dict(group=0), "group=0: accepted is a whole number, 1 or more"),
        (dict(group=5), r"params\['q'\]=float64\[3, 12, 5\]: accepted is a multiple of group=5"),
    ],
)
def test_bad_input_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        quantize({"q": jnp.asarray(MATRIX)}, **settings)
