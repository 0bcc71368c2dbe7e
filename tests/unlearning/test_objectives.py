"""Losses on sequences: value and gradient against PyTorch, numpy and what theory says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning import _objectives as objectives
from jaxml.unlearning._log_prob import sequence_log_prob

RNG = np.random.default_rng(0)
SHAPE = (3, 5, 7)
NAMES = ("logits", "retain", "reference", "reference_retain")
LOGITS = {name: 2 * RNG.normal(size=SHAPE) for name in NAMES}
TOKENS = RNG.integers(0, 7, (2, *SHAPE[:2]))
MASK = np.stack([np.arange(5) < np.array([[5], [4], [2]]), np.arange(5) >= [[1], [2], [3]]])
LENGTHS = MASK[:, :, 1:].sum(axis=-1)
BETA = 0.3


def ours(name, logits):
    """The loss from a dictionary of logits."""
    rows = dict(logits=0, reference=0, retain=1, reference_retain=1)
    logp = {
        key: sequence_log_prob(value, jnp.asarray(TOKENS[rows[key]]), jnp.asarray(MASK[rows[key]]))
        for key, value in logits.items()
    }
    lengths, retain_lengths = map(jnp.asarray, LENGTHS)
    f, r, f_ref, r_ref = (
        logp[key] for key in ("logits", "retain", "reference", "reference_retain")
    )
    return {
        "nll": lambda: objectives.nll(f, lengths=lengths),
        "gradient_ascent": lambda: objectives.gradient_ascent(f, lengths=lengths),
        "grad_diff": lambda: objectives.grad_diff(
            f,
            r,
            lengths=lengths,
            retain_lengths=retain_lengths,
            forget_weight=0.7,
            retain_weight=1.5,
        ),
        "npo": lambda: objectives.npo(f, f_ref, beta=BETA),
        "npo_batch_token_mean": lambda: objectives.npo(
            f, f_ref, beta=BETA, normalization="batch_token_mean", lengths=lengths
        ),
        "npo_muse_logits": lambda: objectives.npo(
            logits["logits"], logits["reference"], beta=BETA, normalization="muse_logits"
        ),
        "simnpo": lambda: objectives.simnpo(f, lengths, beta=BETA, gamma=0.2),
        "dpo": lambda: objectives.dpo(f, r, f_ref, r_ref, beta=BETA),
        "idk_nll": lambda: objectives.idk_nll(f, lengths, r, retain_lengths),
    }[name]()


def in_torch(torch, name, logits):
    """The same with labels of -100 and the losses of PyTorch, as the released codes have it."""
    from torch.nn import functional

    labels = [torch.tensor(np.where(m, t, -100)[:, 1:]) for m, t in zip(MASK, TOKENS, strict=True)]

    def loss(key, side, reduction):
        flat = logits[key][:, :-1].reshape(-1, SHAPE[-1])
        target = labels[side].reshape(-1)
        return functional.cross_entropy(flat, target, ignore_index=-100, reduction=reduction)

    nll = lambda key, side: loss(key, side, "none").reshape(3, -1).sum(-1)
    f, r = nll("logits", 0), nll("retain", 1)
    f_ref, r_ref = nll("reference", 0), nll("reference_retain", 1)
    prefer = lambda x: -functional.logsigmoid(BETA * x).mean() * 2 / BETA
    if name == "idk_nll":
        both = torch.cat([logits["logits"], logits["retain"]])[:, :-1].reshape(-1, SHAPE[-1])
        return functional.cross_entropy(both, torch.cat(labels).reshape(-1))
    return {
        "nll": lambda: loss("logits", 0, "mean"),
        "gradient_ascent": lambda: -loss("logits", 0, "mean"),
        "grad_diff": lambda: -0.7 * loss("logits", 0, "mean") + 1.5 * loss("retain", 1, "mean"),
        "npo": lambda: prefer(f - f_ref),
        "npo_batch_token_mean": lambda: prefer(
            loss("logits", 0, "mean") - loss("reference", 0, "mean")
        ),
        "npo_muse_logits": lambda: prefer(logits["reference"] - logits["logits"]),
        "simnpo": lambda: prefer(f / (labels[0] != -100).sum(-1) - 0.2),
        "dpo": lambda: prefer((f - r) - (f_ref - r_ref)),
    }[name]()


LOSSES = [
    "nll",
    "gradient_ascent",
    "grad_diff",
    "npo",
    "npo_batch_token_mean",
    "npo_muse_logits",
    "simnpo",
    "dpo",
    "idk_nll",
]


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_equal_pytorch(name, dtype, rtol):
    torch = pytest.importorskip("torch")
    tensors = {key: torch.tensor(value, requires_grad=True) for key, value in LOGITS.items()}
    expected = in_torch(torch, name, tensors)
    expected.backward()
    logits = {key: jnp.asarray(value, dtype) for key, value in LOGITS.items()}
    value, gradient = jax.jit(jax.value_and_grad(functools.partial(ours, name)))(logits)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, expected.item(), rtol=rtol)
    for key in NAMES:
        found = tensors[key].grad
        wanted = np.zeros(SHAPE) if found is None else found.numpy()
        assert np.abs(wanted).max() > 0 or key != "logits"
        np.testing.assert_allclose(gradient[key], wanted, rtol=rtol, atol=rtol * 0.1)


LOGP, REFERENCE = -np.array([3.0, 40.0, 7.5]), -np.array([5.0, 33.0, 7.5])
COUNT = np.array([2, 10, 4])
rows = lambda *arrays: [jnp.asarray(array) for array in arrays]


def minus_log_sigmoid(x):
    return np.log1p(np.exp(-np.asarray(x)))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lambda f, *_: objectives.nll(f), 50.5 / 3),
        (lambda f, g, n: objectives.nll(f, lengths=n), 50.5 / 16),
        (lambda f, g, n: objectives.gradient_ascent(f, lengths=n), -50.5 / 16),
        (lambda f, g, n: objectives.grad_diff(f, g[:2]), -50.5 / 3 + 19),
        (
            lambda f, g, n: objectives.npo(f, g, beta=0.5),
            4 * minus_log_sigmoid([-1, 3.5, 0]).mean(),
        ),
        (
            lambda f, g, n: objectives.npo(
                f, g, beta=0.5, normalization="batch_token_mean", lengths=n
            ),
            4 * minus_log_sigmoid(0.5 * 5 / 16),
        ),
        (
            lambda f, g, n: objectives.simnpo(f, n, beta=2.0, gamma=1.0),
            minus_log_sigmoid([1, 6, 1.75]).mean(),
        ),
        (
            lambda f, g, n: objectives.dpo(f, g, g, g, beta=1.0),
            2 * minus_log_sigmoid([-2, 7, 0]).mean(),
        ),
        (lambda f, g, n: objectives.idk_nll(f, n, g[:2], n[:2]), 88.5 / 28),
    ],
)
def test_values_by_hand(found, expected):
    np.testing.assert_allclose(jax.jit(found)(*rows(LOGP, REFERENCE, COUNT)), expected, rtol=1e-12)


MODES = [
    ("sequence_sum", None),
    ("batch_token_mean", COUNT),
    ("muse_logits", None),
]


@pytest.mark.parametrize(("normalization", "lengths"), MODES)
@pytest.mark.parametrize("beta", [0.0225, 0.1, 2.0])
def test_npo_at_the_reference_is_a_constant_with_the_gradient_of_ascent(
    normalization, lengths, beta
):
    lengths = None if lengths is None else jnp.asarray(lengths)
    npo = functools.partial(objectives.npo, normalization=normalization, lengths=lengths)
    logp = jnp.asarray(LOGP)
    value, gradient = jax.value_and_grad(lambda x: npo(x, logp, beta=beta))(logp)
    np.testing.assert_allclose(value, 2 * np.log(2) / beta, rtol=1e-12)
    ascent = jax.grad(lambda x: objectives.gradient_ascent(x, lengths=lengths))(logp)
    np.testing.assert_allclose(gradient, ascent, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_npo_becomes_ascent_as_beta_goes_to_zero(dtype):
    logp, reference = jnp.asarray(LOGP, dtype), jnp.asarray(REFERENCE, dtype)
    ascent = jax.grad(objectives.gradient_ascent)(logp)
    gradient = jax.jit(jax.grad(lambda x, beta: objectives.npo(x, reference, beta=beta)))
    distance = [np.abs(gradient(logp, jnp.asarray(b, dtype)) - ascent).max() for b in (0.1, 0.01)]
    # First order: 2 sigmoid(beta d) = 1 + beta d / 2.
    assert 8 < distance[0] / distance[1] < 12
    np.testing.assert_allclose(gradient(logp, jnp.asarray(1e-20, dtype)), ascent, rtol=1e-6)


def test_npo_weighs_a_forgotten_sequence_less():
    gradient = jax.grad(lambda x: objectives.npo(x, jnp.asarray(REFERENCE), beta=0.5))(
        jnp.asarray(LOGP)
    )
    # 2 sigmoid(beta (logp - reference)) / sequences.
    np.testing.assert_allclose(gradient, 2 / (1 + np.exp(-np.array([1, -3.5, 0]))) / 3, rtol=1e-12)
    far = jax.grad(lambda x: objectives.npo(x, x * 0, beta=0.5))(jnp.full(3, -1e5, "float32"))
    np.testing.assert_array_equal(far, 0)


def test_simnpo_is_npo_per_token_without_reference():
    f, n = rows(LOGP, COUNT)
    expected = objectives.npo(f / n.astype(f.dtype), 0 * f, beta=2.5)
    np.testing.assert_allclose(objectives.simnpo(f, n), expected, rtol=1e-12)


def test_dpo_of_a_fixed_alternative_is_npo():
    f, g = rows(LOGP, REFERENCE)
    np.testing.assert_allclose(objectives.dpo(f, g, g, g), objectives.npo(f, g), rtol=1e-12)


def test_a_batch_without_tokens_that_count_is_zero():
    zero, none = jnp.zeros(2), jnp.zeros(2, int)
    value, gradient = jax.value_and_grad(lambda x: objectives.nll(x, lengths=none))(zero)
    assert value == 0 and np.isfinite(gradient).all()
    assert np.isfinite(objectives.simnpo(zero, none))


def test_vmap_over_batches_equals_one_by_one():
    f, g = (jnp.asarray(x + np.arange(4)[:, None]) for x in (LOGP, REFERENCE))
    found = jax.vmap(objectives.npo)(f, g)
    np.testing.assert_allclose(found, [objectives.npo(*row) for row in zip(f, g, strict=True)])


def test_beta_may_be_an_array_that_a_compiled_function_captures():
    logp, reference, _ = rows(LOGP, REFERENCE, COUNT)
    beta, negative = jnp.asarray(BETA), jnp.asarray(-BETA)
    found = jax.jit(lambda logp: objectives.npo(logp, reference, beta=beta))(logp)
    np.testing.assert_allclose(found, objectives.npo(logp, reference, beta=BETA), rtol=1e-12)
    with pytest.raises(ValueError, match="beta=-0.3"):
        jax.jit(lambda logp: objectives.npo(logp, reference, beta=negative))(logp)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f, g, n: objectives.npo(f, g[:2]),
            r"reference_logp=\w+\[2\]: accepted is \[3\], the shape of logp",
        ),
        (
            lambda f, g, n: objectives.npo(f[None], g[None]),
            r"logp=\w+\[1, 3\]: accepted is \[row\]",
        ),
        (lambda f, g, n: objectives.npo(f, g, beta=0), "beta=0: accepted is a positive"),
        (lambda f, g, n: objectives.npo(f, g, beta=float("nan")), "beta=nan"),
        (lambda f, g, n: objectives.npo(f, g, normalization="sum"), "normalization='sum'.*muse_l"),
        (
            lambda f, g, n: objectives.npo(f, g, lengths=n),
            "lengths=.*: accepted is None with normalization='sequence_sum'",
        ),
        (
            lambda f, g, n: objectives.npo(f, g, normalization="batch_token_mean"),
            "lengths=None: .* with normalization='batch_token_mean'",
        ),
        (lambda f, g, n: objectives.npo(n, n), "logp=int"),
        (
            lambda f, g, n: objectives.nll(f, lengths=n[:1]),
            r"lengths=\w+\[1\]: accepted is .*, the shape of logp",
        ),
        (lambda f, g, n: objectives.nll(f, lengths=g), "lengths=float64"),
        (lambda f, g, n: objectives.nll(f[:0]), r"logp=\w+\[0\]"),
        (lambda f, g, n: objectives.grad_diff(f, n), "retain_logp=int"),
        (lambda f, g, n: objectives.simnpo(f, n, beta=-1), "beta=-1"),
        (lambda f, g, n: objectives.simnpo(f, n[:2]), r"lengths=\w+\[2\]"),
        (lambda f, g, n: objectives.dpo(f, g[:1], f, g), r"alternative_logp=\w+\[1\]"),
        (lambda f, g, n: objectives.idk_nll(f, n, g, n[:1]), r"retain_lengths=\w+\[1\]"),
    ],
)
def test_bad_input_is_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(*rows(LOGP, REFERENCE, COUNT))
