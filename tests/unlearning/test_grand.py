"""Norms of gradients chunk by chunk, against PyTorch and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.unlearning import Sequences, coreset, gradient_ascent, npo, sequence_log_prob

RNG = np.random.default_rng(0)
VOCABULARY, WIDTH, ROWS, TIME = 11, 6, 7, 8
PARAMS = {
    "embed": RNG.normal(size=(VOCABULARY, WIDTH)),
    "layers": [
        {"up": RNG.normal(size=(WIDTH, 9)), "bias": RNG.normal(size=9)},
        {"down": RNG.normal(size=(9, VOCABULARY))},
    ],
}
TOKENS = RNG.integers(0, VOCABULARY, (ROWS, TIME))
MASK = np.arange(TIME) < RNG.integers(3, TIME + 1, (ROWS, 1))
MASK[2, 3] = False
TEXTS = Sequences(jnp.asarray(TOKENS), jnp.asarray(MASK))
LEAVES = {
    "all": None,
    "down": lambda path: path == "layers/1/down",
    "first": lambda path: path.startswith("layers/0"),
}


def model(params, tokens):
    first, second = params["layers"]
    hidden = jnp.tanh(params["embed"][tokens] @ first["up"] + first["bias"])
    return hidden @ second["down"]


def as_arrays(dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), PARAMS)


def torch_norms(name):
    """One backward pass a chunk, in float64."""
    torch = pytest.importorskip("torch")
    tensors = jax.tree.map(lambda leaf: torch.tensor(leaf, requires_grad=True), PARAMS)
    embed, (first, second) = tensors["embed"], tensors["layers"]
    chosen = {
        "all": [embed, *first.values(), second["down"]],
        "down": [second["down"]],
        "first": list(first.values()),
    }[name]
    norms = []
    for tokens, mask in zip(torch.tensor(TOKENS), torch.tensor(MASK), strict=True):
        logits = torch.tanh(embed[tokens] @ first["up"] + first["bias"]) @ second["down"]
        nll = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="none")
        slopes = torch.autograd.grad(nll[mask[1:]].sum(), chosen)
        norms.append(torch.sqrt(sum((slope**2).sum() for slope in slopes)).item())
    return norms


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("name", LEAVES)
def test_equals_torch(name, dtype, rtol):
    found = coreset.grand(model, as_arrays(dtype), TEXTS, leaves=LEAVES[name], batch_size=3)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, torch_norms(name), rtol=rtol)


def test_batches_of_any_size_agree_and_a_new_choice_of_the_same_leaves_compiles_nothing():
    params, traced = as_arrays("float64"), []

    def counted(params, tokens):
        traced.append(1)
        return model(params, tokens)

    of = lambda size: coreset.grand(counted, params, TEXTS, leaves=lambda p: True, batch_size=size)
    expected = of(1)
    for size in (3, 20):
        np.testing.assert_allclose(of(size), expected, rtol=1e-12)
    before = len(traced)
    of(20)
    assert len(traced) == before > 0


def test_jit_and_vmap_over_models_and_sets():
    models = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), as_arrays("float64"))
    sets = jax.tree.map(lambda leaf: jnp.stack([leaf[:5], leaf[2:]]), TEXTS)
    one = lambda params, texts: coreset.grand(model, params, texts, batch_size=2)
    found = jax.jit(jax.vmap(one))(models, sets)
    for i in range(2):
        expected = one(*jax.tree.map(lambda leaf: leaf[i], (models, sets)))  # noqa: B023
        np.testing.assert_allclose(found[i], expected, rtol=1e-10)


def test_is_the_first_step_of_npo_and_of_gradient_ascent():
    params = as_arrays("float64")
    found = coreset.grand(model, params, TEXTS)

    def norm(loss, tokens, mask):
        logp = lambda params: sequence_log_prob(model(params, tokens), tokens, mask)[None]
        leaves = jax.tree.leaves(
            jax.grad(lambda params: loss(logp(params), logp(as_arrays("float64"))))(params)
        )
        return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in leaves))

    for loss in (npo, lambda logp, reference: gradient_ascent(logp)):
        of = lambda tokens, mask: norm(loss, tokens, mask)  # noqa: B023
        first = jax.jit(jax.vmap(of))(TEXTS.tokens, TEXTS.mask)
        np.testing.assert_allclose(first, found, rtol=1e-9)


def test_half_precision_integers_and_rows_of_nothing():
    params = {**as_arrays("bfloat16"), "steps": jnp.array(3)}
    texts = Sequences(TEXTS.tokens, TEXTS.mask.at[1].set(False))
    found = coreset.grand(model, params, texts)
    assert found.dtype == "float32"
    np.testing.assert_allclose(np.delete(found, 1), np.delete(torch_norms("all"), 1), rtol=0.1)
    assert found[1] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            dict(leaves=lambda path: path == "norm"),
            "leaves=.* with none of params chosen: .* embed, layer",
        ),
        (dict(leaves=lambda path: path == "steps"), "leaves=.* with none of params chosen"),
        (dict(batch_size=0), "batch_size=0: accepted is a whole number, 1 or more"),
        (
            dict(texts=jax.tree.map(lambda x: x[:, :1], TEXTS)),
            r"texts=int\d+\[\d+, 1\]: .* 2 tokens or more",
        ),
        (dict(texts=jax.tree.map(lambda x: x[:0], TEXTS)), r"texts=int\d+\[0, 8\]"),
    ],
)
def test_bad_input_is_named(settings, message, unchecked):
    params = {**as_arrays("float32"), "steps": jnp.array(3)}
    with pytest.raises(ValueError, match=message):
        coreset.grand(model, params, **{"texts": TEXTS, **settings})
