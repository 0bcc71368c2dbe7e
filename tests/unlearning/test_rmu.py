"""Representation misdirection against PyTorch and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning._rmu import rmu, rmu_control

RNG = np.random.default_rng(0)
FORGET, RETAIN, FROZEN = RNG.normal(size=(3, 4, 6)), *RNG.normal(size=(2, 2, 5, 6))
CONTROL = RNG.uniform(size=6)
ARRAYS = FORGET, CONTROL, RETAIN, FROZEN
MASKS = np.arange(4) < np.array([[4], [2], [1]]), np.arange(5) < np.array([[3], [5]])


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_equal_pytorch(masked, dtype, rtol):
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(x, requires_grad=True) for x in ARRAYS]
    forget, control, retain, frozen = tensors
    forget_mask, retain_mask = (torch.tensor(m if masked else m | True) for m in MASKS)
    mse = torch.nn.functional.mse_loss
    expected = mse(forget[forget_mask], control.expand_as(forget)[forget_mask])
    expected = expected + 12 * mse(retain[retain_mask], frozen[retain_mask])
    expected.backward()

    masks = dict(zip(("forget_mask", "retain_mask"), map(jnp.asarray, MASKS), strict=True))
    loss = lambda *arrays: rmu(*arrays, alpha=12.0, **(masks if masked else {}))
    function = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
    value, gradients = function(*(jnp.asarray(x, dtype) for x in ARRAYS))
    assert value.dtype == dtype
    np.testing.assert_allclose(value, expected.item(), rtol=rtol)
    for found, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=rtol, atol=rtol * 0.1)


def test_terms_by_hand():
    found = rmu(*map(jnp.asarray, ARRAYS))
    expected = np.mean((FORGET - CONTROL) ** 2) + 100 * np.mean((RETAIN - FROZEN) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    reached = rmu(
        jnp.broadcast_to(CONTROL, (3, 4, 6)), *map(jnp.asarray, (CONTROL, FROZEN, FROZEN))
    )
    assert reached == 0


def test_equal_lengths_make_the_masks_needless():
    padded = [np.concatenate([x, 9 * np.ones_like(x)], axis=1) for x in (FORGET, RETAIN, FROZEN)]
    forget_mask, retain_mask = np.arange(8) < 4, np.arange(10) < 5
    found = rmu(
        *map(jnp.asarray, (padded[0], CONTROL, *padded[1:])),
        forget_mask=jnp.broadcast_to(forget_mask, (3, 8)),
        retain_mask=jnp.broadcast_to(retain_mask, (2, 10)),
    )
    np.testing.assert_allclose(found, rmu(*map(jnp.asarray, ARRAYS)), rtol=1e-12)


def test_vmap_equals_one_by_one():
    batch = [jnp.asarray(np.stack([x, x + 1])) for x in ARRAYS]
    expected = [rmu(*row) for row in zip(*batch, strict=True)]
    np.testing.assert_allclose(jax.vmap(rmu)(*batch), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_control_is_positive_and_as_long_as_said(dtype):
    keys = jax.random.split(jax.random.key(0), 2)
    first, second = (rmu_control(key, 500, scale=6.5, dtype=dtype) for key in keys)
    assert first.dtype == dtype and (first >= 0).all()
    np.testing.assert_allclose(jnp.linalg.norm(first), 6.5, rtol=1e-6)
    # The cosine of two vectors of uniform components: (1 / 2)^2 over 1 / 3.
    np.testing.assert_allclose(jnp.vdot(first, second) / 6.5**2, 0.75, atol=0.05)
    assert rmu_control(keys[0], 3).dtype == "float32"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f, c, r, z: rmu(f, c[:5], r, z),
            r"control=\w+\[5\]: accepted is \[6\], the width of hidden_forget",
        ),
        (lambda f, c, r, z: rmu(f, c, r, z[:1]), r"frozen_retain=\w+\[1, 5, 6\]"),
        (lambda f, c, r, z: rmu(f, c, r > 0, z), "hidden_retain=bool"),
        (
            lambda f, c, r, z: rmu(f, c, r, z, forget_mask=jnp.ones(3, bool)),
            r"mask=\w+\[3\]: accepted is \[3, 4\], the shape of hidden_forget without",
        ),
        (lambda f, c, r, z: rmu_control(jax.random.key(0), 0), "width=0"),
        (lambda f, c, r, z: rmu_control(jax.random.key(0), 3, scale=0.0), "scale=0.0"),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(*map(jnp.asarray, ARRAYS))
