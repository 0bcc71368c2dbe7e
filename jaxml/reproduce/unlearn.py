"""Unlearning of a Llama-type model: one loop for all objectives, over forget and retain batches."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Integer, Key, PyTree

from jaxml.models import llama
from jaxml.training import Progress, fit
from jaxml.unlearning import objectives, token_objectives
from jaxml.unlearning.rmu import rmu, rmu_control
from jaxml.unlearning.sharpness import shifted_to_worst
from jaxml.unlearning.validate import check_choice, check_positive

Method = Literal["ga", "npo", "simnpo", "wga", "satimp", "dpo", "idk", "rmu"]
Retain = Literal["none", "nll", "kl"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["tokens", "mask"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Sequences:
    """Texts as tokens of one length.

    Attributes:
      tokens: `[row, time]`, such as of `jaxml.data.text.chunk_tokens`.
      mask: `[row, time]`, True where a token counts; False for padding, at the right, and for a
        prompt that comes before what is to be learnt or forgotten.
    """

    tokens: Integer[Array, "row time"]
    mask: Bool[Array, "row time"]


@dataclasses.dataclass(frozen=True)
class UnlearnConfig:
    """What is minimised and for how long; defaults are those of MUSE, of RMU those of its paper.

    Attributes:
      method: what is done to the forget set: "ga" gradient ascent, with `retain="nll"` GradDiff;
        "npo" and "simnpo" negative preference; "wga" and "satimp" weighted ascent; "dpo" and
        "idk" prefer alternative answers; "rmu" misdirects hidden states.
      retain: what is done to the retain set: "nll", as GDR; "kl" to the model before, as KLR.
        RMU has its own term.
      steps: of the optimizer.
      batch_size: sequences of each set in a step.
      learning_rate: of AdamW, constant.
      beta: of the method; by default 0.1 for "npo" and "dpo", 2.5 for "simnpo", 1 for "wga".
      retain_weight: factor of the retain term.
      rho: distance of a sharpness-aware forget step, see `sam_value_and_grad`; 0 is none.
      layer: RMU steers the output of this layer, from 0.
      trained: RMU trains this matrix of the last three layers up to `layer`.
      alpha: weight of RMU's retain term.
      scale: norm of RMU's target, see `rmu_control`.
      remat: see `jaxml.models.llama.apply`.
      chunk: see `jaxml.models.llama.chunked_log_prob`.
    """

    method: Method = "npo"
    retain: Retain = "nll"
    steps: int = 100
    batch_size: int = 4
    learning_rate: float = 1e-5
    beta: float | None = None
    retain_weight: float = 1.0
    rho: float = 0.0
    layer: int = 7
    trained: str = "down"
    alpha: float = 100.0
    scale: float = 20.0
    remat: bool = False
    chunk: int = 128


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "history"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Unlearned:
    """Result of `unlearn`.

    Attributes:
      params: of the decoder, all of them.
      history: "loss", "forget" and "retain" at every step, numpy arrays `[step]`.
    """

    params: PyTree
    history: dict[str, Any]


def unlearn(
    key: Key[Array, ""],
    params: PyTree,
    decoder: llama.LlamaConfig,
    forget: Sequences,
    retain: Sequences,
    *,
    config: UnlearnConfig = UnlearnConfig(),  # noqa: B008
    alternative: Sequences | None = None,
    optimizer: optax.GradientTransformation | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Unlearned:
    """Return a model that was made to forget some texts and to keep others.

    Each step draws `batch_size` different sequences of both sets, independently; where a set has
    fewer, all of it. Steps are counted, not epochs, so that forget sets of any size get as many.
    Log-probabilities under the model before are computed once. RMU runs the layers up to the
    steered one alone; those below the trained ones run once for both models, without gradient.

    Args:
      key: of the batches, and of RMU's direction; consumed.
      params: of the decoder, as of `jaxml.models.llama.load`; not consumed.
      decoder: its shape.
      forget: what to forget.
      retain: what to keep, of any length of its own.
      config: what is minimised and for how long.
      alternative: for "dpo" and "idk": an answer such as "I don't know" to each row of `forget`.
      optimizer: instead of AdamW without decay; keep the object, as a compiled step is known by
        it.
      folder: of checkpoints; a run that was ended goes on from there.
      progress: as for `jaxml.training.fit`.

    Raises:
      ValueError: unknown method or retain term, a number out of range, tokens beyond the
        vocabulary, sets without a row or masks of another shape, or `alternative` missing or
        not wanted; see also `jaxml.training.fit`.
      FloatingPointError: the loss is not finite; the checkpoints before it stay.
    """
    _check(decoder, forget, retain, config, alternative)
    key_control, key_fit = jax.random.split(key)
    data = {"forget": forget, "retain": retain, "frozen": params}
    if config.method in ("npo", "dpo"):
        data["reference"] = sequence_log_probs(params, forget, decoder, chunk=config.chunk)
    if alternative is not None:
        data["alternative"] = alternative
        if config.method == "dpo":
            data["alternative_reference"] = sequence_log_probs(
                params, alternative, decoder, chunk=config.chunk
            )
    if config.method == "rmu":
        first = max(0, config.layer - 2)
        data["control"] = rmu_control(
            key_control, decoder.width, scale=config.scale, dtype=params["norm"].dtype
        )
        start = params["layers"][config.trained][first : config.layer + 1]
    else:
        if config.retain != "kl":
            # Not looked at: two models in memory are too many.
            del data["frozen"]
        start = params
    trained = fit(
        key_fit,
        _loss(config, decoder),
        start,
        data,
        optimizer=optimizer or _adamw(config.learning_rate),
        steps=config.steps,
        folder=folder,
        progress=progress,
    )
    found: Any = trained.params
    if config.method == "rmu":
        first = max(0, config.layer - 2)
        whole = params["layers"][config.trained]
        layers = {
            **params["layers"],
            config.trained: whole.at[first : config.layer + 1].set(found),
        }
        found = {**params, "layers": layers}
    return Unlearned(found, trained.history)


def sequence_log_probs(
    params: PyTree,
    sequences: Sequences,
    decoder: llama.LlamaConfig,
    *,
    batch_size: int = 8,
    chunk: int = 128,
) -> Array:
    """Return the log-probability of each sequence, `[row]` in nats: of its tokens that count.

    Args:
      params: of the decoder.
      sequences: of any number.
      decoder: its shape.
      batch_size: rows at a time.
      chunk: see `jaxml.models.llama.chunked_log_prob`.
    """
    rows = len(sequences.tokens)
    batch_size = min(batch_size, rows)
    parts = []
    for start in range(0, rows, batch_size):
        # The last batch starts early enough to be as long as the others.
        first = min(start, rows - batch_size)
        batch = jax.tree.map(lambda leaf: leaf[first : first + batch_size], sequences)  # noqa: B023
        parts.append(_summed(params, batch, decoder, chunk)[start - first :])
    return jnp.concatenate(parts)


@functools.partial(jax.jit, static_argnames=("decoder", "chunk"))
def _summed(params, sequences, decoder, chunk):
    return _sums(_token_log_probs(params, sequences, decoder, chunk=chunk), sequences)


# Kept, as `fit` knows a compiled step by the objects of loss and optimizer.
@functools.lru_cache(maxsize=32)
def _loss(config: UnlearnConfig, decoder: llama.LlamaConfig) -> Callable[..., Any]:
    def loss(params, data, key):
        key_forget, key_retain = jax.random.split(key)
        names = ("forget", "reference", "alternative", "alternative_reference")
        forget = _batch(key_forget, {n: data[n] for n in names if n in data}, config.batch_size)
        retain = _batch(key_retain, data["retain"], config.batch_size)
        if config.method == "rmu":
            return _rmu_loss(params, data, forget["forget"], retain, config, decoder)
        of_forget = lambda params: _forget_loss(params, forget, config, decoder)
        if config.rho:
            first = of_forget(shifted_to_worst(of_forget, params, config.rho))
        else:
            first = of_forget(params)
        second = _retain_loss(params, data.get("frozen"), retain, config, decoder)
        return first + config.retain_weight * second, {"forget": first, "retain": second}

    return loss


@functools.lru_cache(maxsize=32)
def _adamw(learning_rate: float) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, weight_decay=0.0)


def _forget_loss(params, batch, config: UnlearnConfig, decoder):
    method, forget = config.method, batch["forget"]
    log_prob = functools.partial(
        _token_log_probs, params, decoder=decoder, remat=config.remat, chunk=config.chunk
    )
    given: dict[str, Any] = {} if config.beta is None else {"beta": config.beta}
    if method == "idk":
        alternative = batch["alternative"]
        logp = _sums(log_prob(alternative), alternative)
        return objectives.nll(logp, lengths=_lengths(alternative))
    tokens = log_prob(forget)
    logp = _sums(tokens, forget)
    if method == "ga":
        return objectives.gradient_ascent(logp, lengths=_lengths(forget))
    if method == "npo":
        return objectives.npo(logp, batch["reference"], **given)
    if method == "simnpo":
        return objectives.simnpo(logp, _lengths(forget), **given)
    if method == "dpo":
        alternative = batch["alternative"]
        instead = _sums(log_prob(alternative), alternative)
        references = batch["reference"], batch["alternative_reference"]
        return objectives.dpo(logp, instead, *references, **given)
    if method == "wga":
        return token_objectives.wga(tokens, forget.mask[:, 1:], **given)
    return token_objectives.satimp(tokens, forget.mask[:, 1:])


def _retain_loss(params, frozen, retain: Sequences, config: UnlearnConfig, decoder):
    if config.retain == "none":
        return jnp.zeros((), params["norm"].dtype)
    if config.retain == "nll":
        logp = _token_log_probs(params, retain, decoder, remat=config.remat, chunk=config.chunk)
        return objectives.nll(_sums(logp, retain), lengths=_lengths(retain))
    logits = functools.partial(llama.apply, tokens=retain.tokens, config=decoder)
    before = jax.lax.stop_gradient(logits(frozen))
    return token_objectives.kl_retain(logits(params, remat=config.remat), before, mask=retain.mask)


def _rmu_loss(trained, data, forget: Sequences, retain: Sequences, config, decoder):
    frozen = data["frozen"]
    first = max(0, config.layer - 2)
    layers = llama.select_layers(frozen["layers"], first, config.layer + 1)
    run = functools.partial(llama.run_layers, config=decoder)
    below = lambda texts: jax.lax.stop_gradient(
        llama.apply(frozen, texts.tokens, decoder, until_layer=first)
    )
    own = {**layers, config.trained: trained}
    steered = run(own, below(forget), remat=config.remat)
    kept_below = below(retain)
    before = jax.lax.stop_gradient(run(layers, kept_below))
    kept = run(own, kept_below, remat=config.remat)
    loss_with = functools.partial(
        rmu,
        steered,
        data["control"],
        kept,
        before,
        forget_mask=forget.mask,
        retain_mask=retain.mask,
    )
    forgotten, loss = loss_with(alpha=0.0), loss_with(alpha=config.alpha)
    return loss, {"forget": forgotten, "retain": loss - forgotten}


def _token_log_probs(params, sequences: Sequences, decoder, *, remat=False, chunk=128):
    """Log-probability of every token but the first, `[row, time - 1]`."""
    return llama.log_prob(params, sequences.tokens, decoder, remat=remat, chunk=chunk)


def _sums(logp, sequences: Sequences):
    return jnp.sum(jnp.where(sequences.mask[:, 1:], logp, 0), axis=-1)


def _lengths(sequences: Sequences):
    return jnp.sum(sequences.mask[:, 1:], axis=-1, dtype=jnp.int32)


def _batch(key, rows, batch_size: int):
    """Return so many different rows of all arrays, or all of them if they are fewer."""
    count = len(jax.tree.leaves(rows)[0])
    if count <= batch_size:
        return rows
    index = jax.random.choice(key, jnp.arange(count, dtype=jnp.int32), (batch_size,), replace=False)
    return jax.tree.map(lambda leaf: leaf[index], rows)


def _check(decoder, forget, retain, config: UnlearnConfig, alternative) -> None:
    check_choice(config.method, get_args(Method), "method")
    check_choice(config.retain, get_args(Retain), "retain")
    check_positive(learning_rate=config.learning_rate)
    for name in ("steps", "batch_size", "chunk"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)}: accepted is 1 or more")
    for name in ("rho", "retain_weight", "alpha"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name}={getattr(config, name)}: accepted is 0 or more")
    wanted = config.method in ("dpo", "idk")
    if (alternative is not None) != wanted:
        state = "given" if alternative is not None else "None"
        raise ValueError(
            f"alternative: {state} with method={config.method!r}; accepted with 'dpo' and 'idk', "
            "and only there"
        )
    if config.method == "rmu":
        if not 0 <= config.layer < decoder.layers:
            raise ValueError(f"layer={config.layer}: accepted is 0 to {decoder.layers - 1}")
        matrices = ("q", "k", "v", "o", "gate", "up", "down")
        check_choice(config.trained, matrices, "trained")
    sets = {"forget": forget, "retain": retain, "alternative": alternative}
    for name, texts in sets.items():
        if texts is not None:
            _check_texts(name, texts, decoder.vocabulary)
    if alternative is not None and len(alternative.tokens) != len(forget.tokens):
        raise ValueError(
            f"alternative: {len(alternative.tokens)} rows; forget has {len(forget.tokens)}"
        )


def _check_texts(name: str, texts: Sequences, vocabulary: int) -> None:
    tokens, mask = texts.tokens, texts.mask
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        found = f"{tokens.dtype}{list(tokens.shape)}"
        raise ValueError(f"{name}: tokens {found}; accepted are integers [row, time]")
    if not tokens.shape[0] or tokens.shape[1] < 2:
        raise ValueError(f"{name}: tokens {tokens.shape}; accepted are rows of 2 tokens or more")
    if mask.shape != tokens.shape or mask.dtype != jnp.bool_:
        found = f"{mask.dtype}{list(mask.shape)}"
        raise ValueError(f"{name}: mask {found}; accepted is bool{list(tokens.shape)}")
    low, high = int(np.min(tokens)), int(np.max(tokens))
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"{name}: tokens from {low} to {high}; accepted are 0 to {vocabulary - 1}: does the "
            "tokenizer belong to the model?"
        )
