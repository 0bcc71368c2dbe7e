"""Relearning against a loop in PyTorch on the same batches, and of a table that had forgotten."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxml.unlearning import Sequences, UnlearnConfig, sequence_log_prob, unlearn
from jaxml.unlearning._sequences import draw_rows
from jaxml.unlearning.attacks import relearn

RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 3)
VOCABULARY = 11
TABLE = jnp.asarray(RNG.normal(size=(VOCABULARY, VOCABULARY)))


def sequences(rows, time=7):
    tokens = jnp.asarray(RNG.integers(0, VOCABULARY, (rows, time)), jnp.int32)
    length = RNG.integers(3, time + 1, (rows, 1))
    return Sequences(tokens, jnp.asarray(np.arange(time) < length))


TEXTS = sequences(6)


def bigram(table, tokens):
    """A model of a table: the logits of the next token given this one."""
    return table[tokens]


def log_prob(table, texts):
    return sequence_log_prob(bigram(table, texts.tokens), texts.tokens, texts.mask)


def test_equals_a_loop_in_pytorch():
    torch = pytest.importorskip("torch")
    found = relearn(KEYS[0], bigram, TABLE, TEXTS, steps=5, batch_size=2, learning_rate=0.1)
    table = torch.tensor(np.asarray(TABLE), requires_grad=True)
    optimizer = torch.optim.AdamW([table], lr=0.1, weight_decay=0.0)
    for step in range(5):
        batch = draw_rows(jax.random.fold_in(KEYS[0], jnp.uint32(step)), TEXTS, 2)
        tokens = torch.tensor(np.asarray(batch.tokens)).long()
        labels = torch.where(torch.tensor(np.asarray(batch.mask)), tokens, -100)
        logits = table[tokens][:, :-1].reshape(-1, VOCABULARY)
        # The mean over the tokens of the batch, as Hugging Face models have it.
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].reshape(-1))
        np.testing.assert_allclose(found.history[step], loss.item(), rtol=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(found.params, table.detach().numpy(), rtol=1e-5, atol=1e-7)


def test_brings_back_what_was_forgotten():
    learn = functools.partial(relearn, apply=bigram, steps=150, learning_rate=0.1)
    target = learn(KEYS[0], params=TABLE, texts=TEXTS).params
    retain = sequences(6)
    forgotten = unlearn(
        KEYS[1],
        bigram,
        target,
        TEXTS,
        retain,
        config=UnlearnConfig("npo", "none", steps=60, learning_rate=0.1),
    ).params
    some = TEXTS[:2]
    knows = lambda table, texts: float(jnp.mean(log_prob(table, texts)))
    for texts in (some, TEXTS):
        assert knows(forgotten, texts) < knows(target, texts) - 5
        again = learn(KEYS[2], params=forgotten, texts=texts).params
        assert knows(again, texts) > knows(target, texts) - 1


def test_a_small_set_is_taken_whole():
    settings = dict(steps=2, batch_size=50, optimizer=optax.sgd(0.5))
    found = [relearn(key, bigram, TABLE, TEXTS, **settings) for key in KEYS[:2]]
    np.testing.assert_array_equal(found[0].params, found[1].params)
    first = -np.asarray(log_prob(TABLE, TEXTS)).sum() / np.asarray(TEXTS.mask)[:, 1:].sum()
    np.testing.assert_allclose(found[0].history[0], first, rtol=1e-12)


def test_maps_over_keys_models_and_texts():
    run = functools.partial(relearn, apply=bigram, steps=3, batch_size=2, learning_rate=0.05)
    one = lambda key, table, texts: run(key, params=table, texts=texts)
    tables = TABLE + jnp.asarray(RNG.normal(size=(3, 1, 1)))
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(sequences(5) for _ in range(3)))
    found = jax.jit(jax.vmap(one))(KEYS, tables, several)
    for i in range(3):
        expected = one(KEYS[i], tables[i], jax.tree.map(lambda leaf: leaf[i], several))  # noqa: B023
        np.testing.assert_allclose(found.params[i], expected.params, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.history[i], expected.history, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_dtype_is_kept(dtype):
    found = relearn(KEYS[0], bigram, TABLE.astype(dtype), TEXTS, steps=2)
    assert found.params.dtype == dtype
    assert found.history.shape == (2,) and found.history.dtype == "float32"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(steps=0), "steps=0: accepted is a whole number, 1 or more"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(learning_rate=float("nan")), "learning_rate=nan: accepted is a positive"),
        (dict(texts=jax.tree.map(lambda leaf: leaf[:0], TEXTS)), r"texts=int32\[0, 7\]"),
        (
            dict(texts=jax.tree.map(lambda leaf: leaf[None], TEXTS)),
            r"texts=int32\[1, 6, 7\]",
        ),
    ],
)
def test_bad_input_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        relearn(KEYS[0], bigram, TABLE, **{"texts": TEXTS, **settings})
