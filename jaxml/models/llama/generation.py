"""Continuation of texts, token by token, with the keys and values of earlier tokens kept."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Integer, Key

from jaxml import checks
from jaxml.models.llama import decoder
from jaxml.models.llama.config import LlamaConfig
from jaxml.models.llama.decoder import Params
from jaxml.models.llama.rope import rotation
from jaxml.precision import at_least_single
from jaxml.tracing import as_partial, known

Choose = Callable[[Array, Array], Array]
"""Of logits `[row, vocabulary]` and the number of the step, to the next tokens `[row]`."""


def generate(
    params: Params,
    tokens: Integer[Array, "row time"],
    config: LlamaConfig,
    *,
    steps: int,
    mask: Bool[Array, "row time"] | None = None,
    end: int | None = None,
    choose: Choose | None = None,
) -> Integer[Array, "row step"]:
    """Return a continuation, token after token: the likeliest one, or as `choose` has it.

    Compiled once per shape, config, steps, end and `choose`: pad prompts to a few lengths.

    Args:
      params: as of `init` or `load`.
      tokens: prompts `[row, time]`, at their right end where lengths differ.
      config: shape of the decoder.
      steps: tokens to add, 1 or more.
      mask: `[row, time]`, False for the padding left of a prompt.
      end: token that ends a text; all after it are `end` too, and once every row has ended the
        work stops.
      choose: function of the logits `[row, vocabulary]` and of the number of the step, from 0, to
        the next tokens `[row]`; by default the likeliest ones. Keep the object, as the compiled
        loop is known by it; arrays come with it as a `jax.tree_util.Partial`.

    Returns:
      The new tokens alone, `[row, steps]`. Where logits are not finite and that cannot be seen, as
      under `jax.jit`, the tokens of the row mean nothing.

    Raises:
      ValueError: `tokens` or `mask` have a wrong shape or dtype, tokens are beyond the vocabulary,
        padding is at the right, `steps` is below 1, or logits are not finite.
    """
    mask = _checked_mask(tokens, mask, steps)
    checks.values_within(0, config.vocab_size - 1, tokens=tokens)
    choose = as_partial(_likeliest if choose is None else choose)
    new, chosen_of_numbers = _continue(choose, params, tokens, mask, config, steps, end)
    if not known(chosen_of_numbers, jnp.all):
        row = f"NaN or infinity for row {int(jnp.argmin(chosen_of_numbers))}"
        raise checks.refused("logits", row, "finite numbers, of params that are finite")
    return new


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
    if not known(temperature, lambda temperature: temperature > 0):
        raise checks.refused("temperature", temperature, "a number above 0")
    if top_k is not None:
        checks.within(1, config.vocab_size, top_k=top_k)
    choose = Partial(_draw_from(top_k), key, jnp.asarray(temperature, jnp.float32))
    return generate(params, tokens, config, steps=steps, mask=mask, end=end, choose=choose)


@functools.partial(jax.jit, static_argnames=("config", "steps", "end"))
def _continue(choose, params, tokens, mask, config, steps, end):
    """Return the new tokens, and whether those of a row were all chosen from numbers."""
    rows, prompt = tokens.shape
    mask = jnp.pad(mask, ((0, 0), (0, steps)), constant_values=True)
    forward = functools.partial(_forward, params, mask=mask, config=config)

    def unfinished(state):
        step, _, done, *_ = state
        return (step < steps) & ~jnp.all(done)

    def one_step(state):
        step, logits, done, cache, out, numbers = state
        numbers = numbers & (done | jnp.all(jnp.isfinite(logits), axis=-1))
        new = choose(logits, step).astype(tokens.dtype)
        if end is not None:
            new = jnp.where(done, jnp.asarray(end, new.dtype), new)
            done = new == end
        out = lax.dynamic_update_slice_in_dim(out, new[:, None], step, 1)
        last = (step == steps - 1) | jnp.all(done)
        skip = lambda: (logits, cache)
        logits, cache = lax.cond(last, skip, lambda: forward(new[:, None], cache, prompt + step))
        return step + 1, logits, done, cache, out, numbers

    shape = (config.num_layers, rows, mask.shape[1], config.num_kv_heads, config.head_dim)
    empty = jnp.zeros(shape, params["embed"].dtype)
    zero = jnp.zeros((), jnp.int32)
    logits, cache = forward(tokens, (empty, empty), zero)
    out = jnp.full((rows, steps), 0 if end is None else end, tokens.dtype)
    state = zero, logits, jnp.zeros(rows, bool), cache, out, jnp.ones(rows, bool)
    return lax.while_loop(unfinished, one_step, state)[-2:]


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


def _likeliest(logits: Array, step: Array) -> Array:
    return jnp.argmax(logits, axis=-1)


# Kept, as the compiled loop is known by the object.
@functools.lru_cache(maxsize=32)
def _draw_from(top_k: int | None) -> Callable[..., Array]:
    """Return a function that draws one of the likeliest tokens, with its key and temperature."""

    def draw(key, temperature, logits, step):
        if top_k is not None:
            least = lax.top_k(logits, top_k)[0][:, -1:]
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        logits = logits / temperature.astype(logits.dtype)
        return jax.random.categorical(jax.random.fold_in(key, step), logits)

    return draw


def _checked_mask(tokens: Array, mask: Array | None, steps: int) -> Array:
    checks.counts(steps=steps)
    checks.axes("row time", tokens=tokens)
    decoder.check_mask(mask, tokens.shape)
    if mask is None:
        return jnp.ones(tokens.shape, bool)
    if not known(mask, lambda mask: jnp.all(mask[:, -1])):
        left = "padding left of the prompt"
        raise checks.refused("mask", mask, left, holds="False in the last column")
    return mask
