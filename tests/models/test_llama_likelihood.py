"""Log-probabilities of a text in pieces: equal to those of all logits, and their memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.models import llama
from jaxml.models.llama import LlamaConfig

RNG = np.random.default_rng(0)
HIDDEN, HEAD = RNG.normal(size=(3, 10, 6)), RNG.normal(size=(6, 11))
TOKENS = jnp.asarray(RNG.integers(0, 11, (3, 10)))
WEIGHT = jnp.asarray(RNG.normal(size=(3, 9)))


def plain(hidden, head):
    logp = jax.nn.log_softmax((hidden @ head)[:, :-1])
    return jnp.take_along_axis(logp, TOKENS[:, 1:, None], axis=-1)[..., 0]


@pytest.mark.parametrize("chunk", [1, 3 * 33, 4 * 33 + 5, 10 * 33, 9999])
def test_value_and_gradient_equal_those_of_all_logits(chunk):
    hidden, head = jnp.asarray(HIDDEN), jnp.asarray(HEAD)
    chunked = functools.partial(llama.chunked_log_prob, tokens=TOKENS, chunk=chunk)
    np.testing.assert_allclose(chunked(hidden, head), plain(hidden, head), rtol=1e-12)
    # A loss in which the weight of a token depends on all others, as in NPO.
    loss = lambda f: lambda h, w: jnp.sum(jnp.tanh(jnp.sum(WEIGHT * f(h, w), axis=1)))
    found = jax.jit(jax.grad(loss(chunked), argnums=(0, 1)))(hidden, head)
    expected = jax.grad(loss(plain), argnums=(0, 1))(hidden, head)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
def test_lower_precision(dtype, tolerance):
    hidden, head = jnp.asarray(HIDDEN, dtype), jnp.asarray(HEAD, dtype)
    total = lambda h, w: jnp.sum(llama.chunked_log_prob(h, w, TOKENS, chunk=4 * 33))
    value, slope = jax.value_and_grad(total, argnums=(0, 1))(hidden, head)
    expected = jax.grad(lambda h, w: plain(h, w).sum(), argnums=(0, 1))(
        *(jnp.asarray(x) for x in (HIDDEN, HEAD))
    )
    assert value.dtype == "float32"
    for one, other in zip(slope, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one.astype("float64"), other, atol=tolerance)


def test_maps_over_heads():
    heads = jnp.stack([jnp.asarray(HEAD), -jnp.asarray(HEAD)])
    total = lambda w: llama.chunked_log_prob(jnp.asarray(HIDDEN), w, TOKENS, chunk=4 * 33).sum()
    found = jax.vmap(jax.grad(total))(heads)
    for one, head in zip(found, heads, strict=True):
        np.testing.assert_allclose(one, jax.grad(total)(head), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_of_a_decoder_padded_on_the_left(tied):
    config = LlamaConfig(11, 8, 2, 2, 1, 4, 12, tie_embeddings=tied)
    params = llama.init(jax.random.key(0), config, dtype="float64")
    params = jax.tree.map(lambda leaf: 9 * leaf, params)
    mask = jnp.arange(10) >= jnp.asarray([[0], [3], [4]])
    garbage = jnp.where(mask, TOKENS, 0)
    logits = llama.apply(params, garbage, config, mask=mask)
    logp = jax.nn.log_softmax(logits[:, :-1])
    expected = jnp.take_along_axis(logp, garbage[:, 1:, None], axis=-1)[..., 0]
    found = llama.log_prob(params, garbage, config, mask=mask, chunk=4 * 33, remat=True)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_tokens_that_do_not_count_may_hold_anything():
    tokens = TOKENS.at[:, -2:].set(-100)
    found = llama.chunked_log_prob(jnp.asarray(HIDDEN), jnp.asarray(HEAD), tokens, chunk=4 * 33)
    np.testing.assert_allclose(found[:, :-2], plain(HIDDEN, HEAD)[:, :-2], rtol=1e-12)
    total = lambda h: llama.chunked_log_prob(h, jnp.asarray(HEAD), tokens, chunk=4 * 33)[
        :, :-2
    ].sum()
    assert np.isfinite(jax.grad(total)(jnp.asarray(HIDDEN))).all()


def test_memory_of_the_gradient_grows_with_the_chunk_and_not_with_text_or_vocabulary():
    def temporary(time, chunk, vocabulary=4096):
        # The gradient of the head has its size: what is temporary shows beside it.
        width = 8
        total = lambda h, w, t: llama.chunked_log_prob(h, w, t, chunk=chunk).sum()
        shapes = [
            jax.ShapeDtypeStruct((2, time, width), jnp.float32),
            jax.ShapeDtypeStruct((width, vocabulary), jnp.float32),
            jax.ShapeDtypeStruct((2, time), jnp.int32),
        ]
        compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(*shapes).compile()
        heads = 4 * width * vocabulary
        return compiled.memory_analysis().temp_size_in_bytes - heads

    chunk = 2**17
    logits = 4 * 2 * 512 * 4096
    small = temporary(512, chunk)
    assert small < logits / 8
    assert 3 * small < temporary(512, 4 * chunk) < 5 * small
    assert temporary(2048, chunk) < 1.5 * small
    assert temporary(512, chunk, vocabulary=16384) < 1.5 * small


@pytest.mark.parametrize(
    ("tokens", "head", "chunk", "message"),
    [
        (TOKENS, HEAD, 0, "chunk=0: accepted is a whole number, 1 or more"),
        (TOKENS[:, :9], HEAD, 4, r"tokens=int\d+\[3, 9\]: accepted is \[3, 10\]"),
        (TOKENS, HEAD[:5], 4, r"head=\w+\[5, 11\]: accepted is \[6, vocabulary\]"),
    ],
)
def test_bad_input_is_named(tokens, head, chunk, message, unchecked):
    with pytest.raises(ValueError, match=message):
        llama.chunked_log_prob(jnp.asarray(HIDDEN), jnp.asarray(head), tokens, chunk=chunk)
