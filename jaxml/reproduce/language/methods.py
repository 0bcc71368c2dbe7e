"""How a decoder is made to forget: the methods that the studies compare, with their settings."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxml import unlearning
from jaxml.llm._unlearn import unlearn_decoder
from jaxml.models import llama
from jaxml.reproduce.language.books import joined
from jaxml.reproduce.language.setting import Setting, steered_layer
from jaxml.reproduce.language.training import fit_texts
from jaxml.unlearning import Sequences, UnlearnConfig

REFUSAL = "I do not know how this goes on."


class Method(NamedTuple):
    """How a model is made to forget.

    Attributes:
      config: of the loop; of RMU `scale` is in units of the mean norm of the hidden states.
      task_vector: factor of what training on the forget set adds, which is taken away; 0 for
        the loop.
    """

    config: UnlearnConfig
    task_vector: float = 0.0


# Settings for small decoders trained from nothing, the same for all of them.
METHODS: Mapping[str, Method] = {
    "GA": Method(UnlearnConfig("ga", "none", learning_rate=1e-4)),
    "GradDiff": Method(UnlearnConfig("ga", "nll", learning_rate=3e-4)),
    "NPO": Method(UnlearnConfig("npo", "nll", learning_rate=2.5e-3, beta=0.05)),
    "NPO, KL": Method(UnlearnConfig("npo", "kl", learning_rate=2.5e-3, beta=0.05)),
    "SimNPO": Method(UnlearnConfig("simnpo", "nll", learning_rate=1e-3)),
    "WGA": Method(UnlearnConfig("wga", "nll", learning_rate=1e-3)),
    "SatImp": Method(UnlearnConfig("satimp", "nll", learning_rate=1e-3)),
    "DPO": Method(UnlearnConfig("dpo", "nll", learning_rate=1e-3)),
    "IDK": Method(UnlearnConfig("idk", "nll", learning_rate=1e-3)),
    "RMU": Method(UnlearnConfig("rmu", learning_rate=3e-3, alpha=10.0, scale=2.0)),
    "task vector": Method(UnlearnConfig("ga", learning_rate=1e-4), task_vector=5.0),
}


def forgotten(
    setting: Setting, method: Method, params: PyTree, forget: Sequences, steps: int, key
) -> PyTree:
    """Return the parameters after unlearning some texts.

    Args:
      setting: of the seed.
      method: one of `METHODS`.
      params: of the model before.
      forget: texts to forget.
      steps: of the optimizer.
      key: of the batches.
    """
    books = setting.library
    if method.task_vector:
        rate = method.config.learning_rate
        more, _ = fit_texts(setting, key, params, forget, steps=steps, rate=rate)
        vector = unlearning.task_vector(more, params)
        return unlearning.subtract_task_vector(params, vector, scale=method.task_vector)
    config = dataclasses.replace(
        method.config,
        steps=steps,
        batch_size=min(setting.scale.batch_size, len(forget)),
        learning_rate=setting.scale.rates * method.config.learning_rate,
    )
    layer = steered_layer(setting.decoder)
    if config.method == "rmu":
        config = dataclasses.replace(config, scale=config.scale * _norm(setting, params, layer))
    return unlearn_decoder(
        key,
        params,
        setting.decoder,
        forget,
        joined(books.retain, books.retain_answers),
        config=config,
        alternative=_refusals(setting, forget) if config.method in ("dpo", "idk") else None,
        layer=layer,
    ).params


@functools.partial(jax.jit, static_argnames=("decoder", "layer"))
def _norms(params, tokens, *, decoder, layer):
    hidden = llama.apply(params, tokens, decoder, until_layer=layer + 1)
    return jnp.mean(jnp.linalg.norm(hidden, axis=-1))


def _norm(setting: Setting, params, layer: int) -> float:
    tokens = setting.library.forget.tokens[: setting.scale.batch_size]
    return float(_norms(params, tokens, decoder=setting.decoder, layer=layer))


def _refusals(setting: Setting, forget: Sequences) -> Sequences:
    """Return the start of each chunk with a refusal after it, which alone counts."""
    tokenizer, prompt = setting.library.tokenizer, 1 + setting.scale.prompt
    refusal: Array = jnp.asarray(tokenizer.encode(REFUSAL, add_special_tokens=False), jnp.int32)
    start = forget.tokens[:, :prompt]
    tokens = jnp.concatenate([start, jnp.tile(refusal, (len(start), 1))], axis=1)
    counts = jnp.arange(tokens.shape[1]) >= prompt
    return Sequences(tokens, jnp.tile(counts, (len(start), 1)))
