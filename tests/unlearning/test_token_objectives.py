"""Losses on tokens and whole logits: value and gradient against PyTorch and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning._log_prob import token_log_prob
from jaxml.unlearning._objectives import gradient_ascent
from jaxml.unlearning._token_objectives import kl_retain, satimp, wga

RNG = np.random.default_rng(0)
LOGP = -RNG.exponential(size=(3, 5))
MASK = np.arange(5) < np.array([[5], [3], [1]])
LOGITS, REFERENCE = 2 * RNG.normal(size=(2, 3, 5, 7))
PRECISION = pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-11), ("float32", 1e-5)])


@PRECISION
@pytest.mark.parametrize(
    ("loss", "weight"),
    [
        (lambda x, m: wga(x, m, beta=0.7), lambda p: p**0.7),
        (lambda x, m: satimp(x, m), lambda p: p**5 * (1 - p)),
        (lambda x, m: satimp(x, m, beta1=0.5, beta2=2.0), lambda p: p**0.5 * (1 - p) ** 2),
    ],
)
def test_weighted_ascent_is_a_mean_with_constant_weights(loss, weight, dtype, rtol):
    array, mask = jnp.asarray(LOGP, dtype), jnp.asarray(MASK)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: loss(x, mask)))(array)
    assert value.dtype == gradient.dtype == dtype
    constant = weight(np.exp(LOGP)) * MASK / MASK.sum()
    np.testing.assert_allclose(value, (constant * LOGP).sum(), rtol=rtol)
    np.testing.assert_allclose(gradient, constant, rtol=rtol)


@PRECISION
@pytest.mark.parametrize(("beta1", "beta2"), [(1.0, 0.0), (5.0, 1.0)])
def test_weighted_ascent_on_logits_equals_pytorch(beta1, beta2, dtype, rtol):
    torch = pytest.importorskip("torch")
    tokens = RNG.integers(0, 7, (3, 5))
    labels = torch.tensor(np.where(MASK, tokens, -100)[:, 1:])
    logits = torch.tensor(LOGITS, requires_grad=True)
    cross = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels, ignore_index=-100, reduction="none"
    )
    p = torch.exp(-cross).detach()
    expected = -(p**beta1 * (1 - p) ** beta2 * cross)[labels != -100].mean()
    expected.backward()

    def loss(x):
        logp = token_log_prob(x, jnp.asarray(tokens))
        return satimp(logp, jnp.asarray(MASK[:, 1:]), beta1=beta1, beta2=beta2)

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(LOGITS, dtype))
    np.testing.assert_allclose(value, expected.item(), rtol=rtol)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), rtol=rtol, atol=rtol * 0.1)


def test_weights_of_certain_tokens_are_exact_in_float32():
    # 1 - p by subtraction would be 0.
    logp = jnp.full((1, 1), -1e-9, "float32")
    gradient = jax.grad(lambda x: satimp(x, jnp.array([[True]])))(logp)
    np.testing.assert_allclose(gradient, 1e-9, rtol=1e-6)
    certain = jax.grad(lambda x: satimp(x, jnp.array([[True]])))(0 * logp)
    np.testing.assert_array_equal(certain, 0)


def test_without_weights_it_is_ascent_with_lengths():
    expected = gradient_ascent(
        jnp.asarray((LOGP * MASK).sum(axis=1)), lengths=jnp.asarray(MASK.sum(axis=1))
    )
    found = wga(jnp.asarray(LOGP), jnp.asarray(MASK), beta=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_masked_tokens_may_hold_anything():
    spoiled = jnp.asarray(np.where(MASK, LOGP, np.nan))
    mask = jnp.asarray(MASK)
    value, gradient = jax.value_and_grad(lambda x: wga(x, mask))(spoiled)
    np.testing.assert_allclose(value, wga(jnp.asarray(LOGP), mask), rtol=1e-12)
    np.testing.assert_array_equal(gradient == 0, ~MASK)
    assert satimp(spoiled, jnp.zeros_like(mask)) == 0


@PRECISION
@pytest.mark.parametrize("masked", [False, True])
def test_divergence_equals_pytorch(masked, dtype, rtol):
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    logits, reference = (torch.tensor(x, requires_grad=True) for x in (LOGITS, REFERENCE))
    both = [functional.log_softmax(x, -1).reshape(-1, 7) for x in (logits, reference)]
    chosen = torch.tensor(MASK if masked else MASK | True).reshape(-1)
    expected = functional.kl_div(*(x[chosen] for x in both), reduction="batchmean", log_target=True)
    expected.backward()
    mask = jnp.asarray(MASK) if masked else None
    function = jax.value_and_grad(lambda x, y: kl_retain(x, y, mask=mask), (0, 1))
    value, gradients = jax.jit(function)(*(jnp.asarray(x, dtype) for x in (LOGITS, REFERENCE)))
    assert value.dtype == dtype
    np.testing.assert_allclose(value, expected.item(), rtol=rtol)
    for found, tensor in zip(gradients, (logits, reference), strict=True):
        np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=rtol, atol=rtol * 0.1)


def test_divergence_by_hand_and_with_excluded_tokens():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.5, 0.5, 0.0])
    with np.errstate(divide="ignore"):
        logits, reference = (jnp.asarray(np.log(x))[None] for x in (p, q))
    function = jax.value_and_grad(kl_retain)
    value, gradient = function(logits, reference)
    np.testing.assert_allclose(value, 0.5 * np.log(2), rtol=1e-12)
    np.testing.assert_allclose(gradient, (p - q)[None], atol=1e-12)
    np.testing.assert_allclose(function(logits, logits)[1], 0, atol=1e-12)


@pytest.mark.parametrize("name", ["wga", "satimp", "kl_retain"])
def test_vmap_equals_one_by_one(name):
    function, first, second = {
        "wga": (wga, LOGP, MASK),
        "satimp": (satimp, LOGP, MASK),
        "kl_retain": (kl_retain, LOGITS, REFERENCE),
    }[name]
    pairs = jnp.asarray(first), jnp.asarray(second)
    expected = [function(*pair) for pair in zip(*pairs, strict=True)]
    np.testing.assert_allclose(jax.vmap(function)(*pairs), expected, rtol=1e-12)


def test_beta_may_be_an_array_that_a_compiled_function_captures():
    beta, mask = jnp.asarray(0.7), jnp.asarray(MASK)
    found = jax.jit(lambda logp: wga(logp, mask, beta=beta))(jnp.asarray(LOGP))
    np.testing.assert_allclose(found, wga(jnp.asarray(LOGP), mask, beta=0.7), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, m, z: wga(x, m[:2]),
            r"mask=\w+\[2, 5\]: accepted is \[3, 5\], the shape of logp",
        ),
        (lambda x, m, z: wga(x, m, beta=-1.0), "-1.0: accepted is 0 or more"),
        (lambda x, m, z: satimp(x, m, beta2=-0.5), "beta2=-0.5"),
        (lambda x, m, z: satimp(m, m), "logp=bool"),
        (lambda x, m, z: kl_retain(z, z[:2]), r"reference_logits=\w+\[2, 5, 7\]"),
        (lambda x, m, z: kl_retain(z, z, mask=m[:2]), r"mask=\w+\[2, 5\]"),
        (lambda x, m, z: kl_retain(z, z, mask=x), "mask=float64.*accepted is bool"),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(*map(jnp.asarray, (LOGP, MASK, LOGITS)))
