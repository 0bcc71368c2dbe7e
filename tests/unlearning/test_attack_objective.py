"""What a suffix is to lower: against PyTorch, and against the decoder on whole sequences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxml.models import llama
from jaxml.models.llama.decoder import parameter_shapes, rms_norm
from jaxml.unlearning import Sequences, token_log_prob
from jaxml.unlearning.attacks import attack_objective, gcg
from jaxml.unlearning.attacks._gcg import token_gradient

RNG = np.random.default_rng(0)
VOCABULARY, WIDTH, STATE = 9, 5, 6
EMBEDDING = jnp.asarray(RNG.normal(size=(VOCABULARY, WIDTH)))
MIX, HEAD = (jnp.asarray(RNG.normal(size=s)) for s in ((WIDTH, STATE), (STATE, VOCABULARY)))


def texts(lengths, time, *, left=False):
    tokens = jnp.asarray(RNG.integers(0, VOCABULARY, (len(lengths), time)))
    place = np.arange(time)[::-1] if left else np.arange(time)
    return Sequences(tokens, jnp.asarray(place < np.array(lengths)[:, None]))


PROMPTS, TARGETS = texts([4, 2, 3], 4, left=True), texts([1, 3, 2], 3)
SUFFIX = jnp.array([7, 0])


def apply(mix, embedded, mask):
    """Running means of what is not padding, a tanh, and a matrix to logits."""
    weight = mask.astype(embedded.dtype)[..., None]
    mean = jnp.cumsum(weight * embedded, 1) / jnp.maximum(jnp.cumsum(weight, 1), 1)
    hidden = jnp.tanh(mean @ mix)
    return hidden @ HEAD, hidden


def before(mix, embedded, mask):
    return apply(mix, embedded, mask)[1]


def objective(mix=MIX, prompts=PROMPTS, targets=TARGETS, *, weight=0.7):
    reference = Partial(before, MIX + 0.5) if weight else None
    return attack_objective(
        Partial(apply, mix), EMBEDDING, prompts, targets, reference=reference, weight=weight
    )


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_value_and_gradient_equal_pytorch_row_by_row(weight):
    torch = pytest.importorskip("torch")
    tensor = lambda x: torch.tensor(np.asarray(x))
    embedding, head = tensor(EMBEDDING), tensor(HEAD)
    one_hot = torch.nn.functional.one_hot(tensor(SUFFIX), VOCABULARY).double().requires_grad_()
    total = 0
    for row in range(3):
        # No padding here: the row alone, at its own length.
        prompt, target = (tensor(t.tokens[row])[tensor(t.mask[row])] for t in (PROMPTS, TARGETS))
        x = torch.cat([embedding[prompt], one_hot @ embedding, embedding[target]])
        mean = torch.cumsum(x, 0) / torch.arange(1, len(x) + 1)[:, None]
        hidden, wanted = torch.tanh(mean @ tensor(MIX)), torch.tanh(mean @ tensor(MIX + 0.5))
        given = len(x) - len(target)
        logits = (hidden @ head)[given - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(logits, target)
        apart = ((hidden - wanted)[:given] ** 2).sum(1).mean()
        total = total + weight * apart
    (total / 3).backward()
    found = objective(weight=weight)
    value = jax.jit(lambda f, e: f(e))(found, EMBEDDING[SUFFIX])
    np.testing.assert_allclose(value, total.item() / 3, rtol=1e-12)
    gradient = token_gradient(found, EMBEDDING, SUFFIX)
    np.testing.assert_allclose(gradient, one_hot.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_reference_that_is_the_model_adds_nothing():
    run = lambda **k: attack_objective(Partial(apply, MIX), EMBEDDING, PROMPTS, TARGETS, **k)
    same = run(reference=Partial(before, MIX), weight=5.0)(EMBEDDING[SUFFIX])
    np.testing.assert_allclose(same, run()(EMBEDDING[SUFFIX]), rtol=1e-12)


DECODER = llama.LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
)
PARAMS = jax.tree.map(
    lambda shape: jnp.asarray(RNG.normal(size=shape) / 2),
    parameter_shapes(DECODER),
    is_leaf=lambda x: isinstance(x, tuple),
)


def decoder(params, embedded, mask):
    hidden = llama.run_layers(params["layers"], embedded, DECODER, mask=mask)
    return rms_norm(hidden, params["norm"], DECODER) @ llama.head(params), hidden


@pytest.mark.parametrize("behind", [None, texts([3, 3, 3], 3)])
def test_equals_the_log_probability_of_whole_sequences_under_a_decoder(behind):
    suffix = jnp.broadcast_to(SUFFIX, (3, 2))
    parts = [PROMPTS, Sequences(suffix, jnp.ones((3, 2), bool)), TARGETS]
    parts[2:2] = [] if behind is None else [behind]
    pairs = [(part.tokens, part.mask) for part in parts]
    tokens, mask = (jnp.concatenate(arrays, axis=1) for arrays in zip(*pairs, strict=True))
    logp = token_log_prob(llama.apply(PARAMS, tokens, DECODER, mask=mask), tokens)[:, -3:]
    expected = -np.mean([np.mean(l[m]) for l, m in zip(logp, TARGETS.mask, strict=True)])
    embedding = PARAMS["embed"]
    found = attack_objective(Partial(decoder, PARAMS), embedding, PROMPTS, TARGETS, behind=behind)
    np.testing.assert_allclose(found(embedding[SUFFIX]), expected, rtol=1e-9)


def test_search_maps_over_models_and_prompts_and_lowers_the_loss():
    mixes = MIX + jnp.arange(3.0)[:, None, None] / 4
    prompts = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(texts([4, 2, 3], 4, left=True) for _ in range(3))
    )
    keys = jax.random.split(jax.random.key(0), 3)
    search = functools.partial(gcg, steps=4, candidates=16, top_k=4)
    run = lambda key, mix, prompts: search(key, objective(mix, prompts), EMBEDDING, SUFFIX)
    found = jax.jit(jax.vmap(run))(keys, mixes, prompts)
    assert np.all(found.history[:, -1] < found.history[:, 0])
    for i in range(3):
        one = run(keys[i], mixes[i], jax.tree.map(lambda leaf: leaf[i], prompts))  # noqa: B023
        np.testing.assert_array_equal(found.suffix[i], one.suffix)
        np.testing.assert_allclose(found.history[i], one.history, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(targets=texts([2, 2], 3)),
            r"targets=int64\[2, 3\]: accepted is 3 rows, as many as prompts",
        ),
        (
            dict(behind=texts([2, 2], 3)),
            r"behind=int64\[2, 3\]: accepted is 3 rows, as many as prompts",
        ),
        (dict(prompts=Sequences(PROMPTS.tokens + 9, PROMPTS.mask)), "prompts=.*tokens from 9 to"),
        (
            dict(targets=jax.tree.map(lambda leaf: leaf[None], TARGETS)),
            r"targets=int64\[1, 3, 3\]: accepted is integers \[row, time\]",
        ),
        (dict(targets=texts([0, 0, 0], 0)), r"targets=int64\[3, 0\]: .*1 tokens or more"),
        (dict(embedding=EMBEDDING.astype(int)), "embedding=int"),
    ],
)
def test_bad_input_is_named(change, message, unchecked):
    settings = dict(
        apply=Partial(apply, MIX), embedding=EMBEDDING, prompts=PROMPTS, targets=TARGETS
    )
    with pytest.raises(ValueError, match=message):
        attack_objective(**{**settings, **change})


def test_hidden_states_of_another_shape_are_named(unchecked):
    narrow = lambda embedded, mask: before(MIX, embedded, mask)[..., 1:]
    found = attack_objective(Partial(apply, MIX), EMBEDDING, PROMPTS, TARGETS, reference=narrow)
    with pytest.raises(
        ValueError, match=r"reference=\w+\[3, 9, 5\]: accepted is \[3, 9, 6\], the shape of hidden"
    ):
        found(EMBEDDING[SUFFIX])
