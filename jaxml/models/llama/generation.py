"""Continuation of texts, token by token, with the keys and values of earlier tokens kept."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer, Key

from jaxml.models.llama import decoder
from jaxml.models.llama.config import LlamaConfig
from jaxml.models.llama.decoder import Params
from jaxml.models.llama.precision import at_least_single
from jaxml.models.llama.rope import rotation
from jaxml.tracing import known


def generate(
    params: Params,
    tokens: Integer[Array, "row time"],
    config: LlamaConfig,
    *,
    steps: int,
    mask: Bool[Array, "row time"] | None = None,
    end: int | None = None,
) -> Integer[Array, "row step"]:
    """Return the most likely continuation, token after token.

    Compiled once per shape, config, steps and end: pad prompts to a few lengths.

    Args:
      params: as of `init` or `load`.
      tokens: prompts `[row, time]`, at their right end where lengths differ.
      config: shape of the decoder.
      steps: tokens to add, 1 or more.
      mask: `[row, time]`, False for the padding left of a prompt.
      end: token that ends a text; all after it are `end` too, and once every row has ended the
        work stops.

    Returns:
      The new tokens alone, `[row, steps]`.

    Raises:
      ValueError: `tokens` or `mask` have a wrong shape or dtype, padding is at the right, or
        `steps` is below 1.
    """
    mask = _check(tokens, mask, steps)
    return _continue(None, params, tokens, mask, None, config, steps, end, None)


def sample(
    key: Key[Array, ""],
    params: Params,
    tokens: Integer[Array, "row time"],
    config: LlamaConfig,
    *,
    steps: int,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    mask: Bool[Array, "row time"] | None = None,
    end: int | None = None,
) -> Integer[Array, "row step"]:
    """Return a continuation drawn from the model, token after token.

    Args:
      key: consumed.
      params: as of `init` or `load`.
      tokens: prompts `[row, time]`, at their right end where lengths differ.
      config: shape of the decoder.
      steps: as for `generate`.
      temperature: the logits are divided by it; above 0.
      top_k: draw from the so many most likely tokens only; from all by default.
      mask: as for `generate`.
      end: as for `generate`.

    Returns:
      The new tokens alone, `[row, steps]`.

    Raises:
      ValueError: as for `generate`, or `temperature` is not positive, or `top_k` is not in 1 to
        the size of the vocabulary.
    """
    mask = _check(tokens, mask, steps)
    if not known(temperature, lambda temperature: temperature > 0):
        raise ValueError(f"temperature={temperature}: accepted are positive numbers")
    if top_k is not None and not 1 <= top_k <= config.vocab_size:
        raise ValueError(f"top_k={top_k}: accepted is 1 to {config.vocab_size}")
    temperature = jnp.asarray(temperature, jnp.float32)
    return _continue(key, params, tokens, mask, temperature, config, steps, end, top_k)


@functools.partial(jax.jit, static_argnames=("config", "steps", "end", "top_k"))
def _continue(key, params, tokens, mask, temperature, config, steps, end, top_k):
    rows, prompt = tokens.shape
    mask = jnp.pad(mask, ((0, 0), (0, steps)), constant_values=True)
    forward = functools.partial(_forward, params, mask=mask, config=config)

    def unfinished(state):
        step, _, done, _, _ = state
        return (step < steps) & ~jnp.all(done)

    def one_step(state):
        step, logits, done, cache, out = state
        new = _choose(key, logits, step, temperature, top_k).astype(tokens.dtype)
        if end is not None:
            new = jnp.where(done, jnp.asarray(end, new.dtype), new)
            done = new == end
        out = lax.dynamic_update_slice_in_dim(out, new[:, None], step, 1)
        last = (step == steps - 1) | jnp.all(done)
        skip = lambda: (logits, cache)
        logits, cache = lax.cond(last, skip, lambda: forward(new[:, None], cache, prompt + step))
        return step + 1, logits, done, cache, out

    shape = (config.num_layers, rows, mask.shape[1], config.num_kv_heads, config.head_dim)
    empty = jnp.zeros(shape, params["embed"].dtype)
    zero = jnp.zeros((), jnp.int32)
    logits, cache = forward(tokens, (empty, empty), zero)
    out = jnp.full((rows, steps), 0 if end is None else end, tokens.dtype)
    state = zero, logits, jnp.zeros(rows, bool), cache, out
    return lax.while_loop(unfinished, one_step, state)[-1]


def _forward(params, tokens, cache, first, *, mask, config):
    """Return logits after the last of the tokens, at times from `first`, and the cache."""
    times = jnp.arange(mask.shape[1], dtype=jnp.int32)
    hidden = decoder.embed(params, tokens)
    now = first + times[: tokens.shape[1]]
    turn = rotation(now, config, at_least_single(hidden.dtype))
    seen = decoder.visible(now, times, config, mask)

    def block(hidden, layer_and_cache):
        layer, *kept = layer_and_cache
        query, *new = decoder.project(hidden, layer, turn, config)
        keys, values = (
            lax.dynamic_update_slice_in_dim(old, own, first, 1)
            for old, own in zip(kept, new, strict=True)
        )
        mixed = decoder.attend(query, keys, values, seen)
        return decoder.finish(hidden, mixed, layer, config), tuple(new)

    hidden, new = lax.scan(block, hidden, (params["layers"], *cache))
    # Only what is new leaves the loop over layers: the cache is changed in place.
    cache = jax.tree.map(
        lambda old, new: lax.dynamic_update_slice_in_dim(old, new, first, 2), cache, new
    )
    last = decoder.rms_norm(hidden[:, -1], params["norm"], config) @ decoder.head(params)
    return last.astype(at_least_single(last.dtype)), cache


def _choose(key, logits, step, temperature, top_k):
    """Return the likeliest token of each row, or with a key one that is drawn."""
    if key is None:
        return jnp.argmax(logits, axis=-1)
    if top_k is not None:
        least = lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    logits = logits / temperature.astype(logits.dtype)
    return jax.random.categorical(jax.random.fold_in(key, step), logits)


def _check(tokens: Array, mask: Array | None, steps: int) -> Array:
    if steps < 1:
        raise ValueError(f"steps={steps}: accepted is 1 or more")
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise ValueError(f"tokens: shape {tokens.shape}; accepted is [row, time], not empty")
    decoder.check_mask(mask, tokens.shape)
    if mask is None:
        return jnp.ones(tokens.shape, bool)
    if not known(mask, lambda mask: jnp.all(mask[:, -1])):
        raise ValueError("mask: False in the last column; accepted is padding left of the prompt")
    return mask
