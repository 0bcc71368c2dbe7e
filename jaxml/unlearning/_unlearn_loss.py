"""What a step of unlearning minimises, for any language model and each method by its name."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, PyTree

from jaxml.tracing import is_concrete
from jaxml.unlearning import _objectives as objectives
from jaxml.unlearning import _token_objectives as token_objectives
from jaxml.unlearning._sharpness import shifted_to_worst
from jaxml.unlearning._validate import check_choice, check_counts, check_positive

Method = Literal["ga", "npo", "simnpo", "wga", "satimp", "dpo", "idk", "rmu"]
Retain = Literal["none", "nll", "kl"]
# Of parameters and tokens `[row, time]`.
OfTokens = Callable[[PyTree, Array], Array]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["tokens", "mask"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Sequences:
    """A set of texts as tokens of one length; several sets for `jax.vmap`, in front.

    Attributes:
      tokens: `[row, time]`, such as of `jaxml.data.text.chunk_tokens`.
      mask: `[row, time]`, True where a token counts; False for padding, at the right, and for a
        prompt that comes before what is to be learnt or forgotten.
    """

    tokens: Integer[Array, "*set row time"]
    mask: Bool[Array, "*set row time"]


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
      learning_rate: of AdamW, constant; the default is for large models, small ones need 1e-3.
      beta: of the method; by default 0.1 for "npo" and "dpo", 2.5 for "simnpo", 1 for "wga".
      retain_weight: factor of the retain term.
      rho: distance of a sharpness-aware forget step, see `sam_value_and_grad`; 0 is none.
      alpha: weight of RMU's retain term.
      scale: norm of RMU's target, see `rmu_control`.
    """

    method: Method = "npo"
    retain: Retain = "nll"
    steps: int = 100
    batch_size: int = 4
    learning_rate: float = 1e-5
    beta: float | None = None
    retain_weight: float = 1.0
    rho: float = 0.0
    alpha: float = 100.0
    scale: float = 20.0


def unlearning_data(
    config: UnlearnConfig,
    params: PyTree,
    forget: Sequences,
    retain: Sequences,
    alternative: Sequences | None,
    sequence_log_probs: Callable[[Sequences], Array],
) -> dict[str, Any]:
    """Return what `unlearning_loss` takes: the sets, and what the model before says of them.

    Args:
      config: of the loop; its method is not "rmu".
      params: of the model before.
      forget: what to forget.
      retain: what to keep.
      alternative: for "dpo" and "idk".
      sequence_log_probs: function of sequences, of the model before, to `[row]`, see
        `summed_log_prob`.
    """
    data: dict[str, Any] = {"forget": forget, "retain": retain}
    if config.method in ("npo", "dpo"):
        data["reference"] = sequence_log_probs(forget)
    if alternative is not None:
        data["alternative"] = alternative
        if config.method == "dpo":
            data["alternative_reference"] = sequence_log_probs(alternative)
    if config.retain == "kl":
        data["frozen"] = params
    return data


def unlearning_loss(
    params: PyTree,
    data: dict[str, Any],
    key: Array,
    *,
    config: UnlearnConfig,
    log_prob: OfTokens,
    logits: OfTokens,
) -> tuple[Array, dict[str, Array]]:
    """Return the loss of a step on a batch of each set, and its terms "forget" and "retain".

    Args:
      params: of the model.
      data: as of `unlearning_data`.
      key: of the batches; consumed.
      config: of the loop; its method is not "rmu".
      log_prob: to the log-probabilities `[row, time - 1]` of all tokens but the first.
      logits: `[row, time, vocabulary]`, for `retain="kl"`.
    """
    forget, retain = draw_batches(key, data, config.batch_size)
    of_forget = lambda params: _forget_term(params, forget, config, log_prob)
    if config.rho:
        first = of_forget(shifted_to_worst(of_forget, params, config.rho))
    else:
        first = of_forget(params)
    second = _retain_term(params, data.get("frozen"), retain, config, log_prob, logits)
    return first + config.retain_weight * second, {"forget": first, "retain": second}


def draw_batches(
    key: Array, data: dict[str, Any], batch_size: int
) -> tuple[dict[str, Any], Sequences]:
    """Return rows of the forget set with what belongs to them, and rows of the retain set.

    Args:
      key: consumed.
      data: as of `unlearning_data`, or with "forget" and "retain" alone.
      batch_size: different rows of each; all of a set that has fewer.
    """
    key_forget, key_retain = jax.random.split(key)
    names = ("forget", "reference", "alternative", "alternative_reference")
    forget = {name: data[name] for name in names if name in data}
    rows = draw_rows(key_forget, forget, batch_size)
    return rows, draw_rows(key_retain, data["retain"], batch_size)


def draw_rows(key: Array, rows: PyTree, batch_size: int) -> PyTree:
    """Return different rows of arrays `[row, ...]`, the same of each.

    Args:
      key: consumed.
      rows: arrays, such as `Sequences`.
      batch_size: number drawn; of fewer, all in their order.
    """
    count = len(jax.tree.leaves(rows)[0])
    if count <= batch_size:
        return rows
    index = jax.random.choice(key, jnp.arange(count, dtype=jnp.int32), (batch_size,), replace=False)
    return jax.tree.map(lambda leaf: leaf[index], rows)


def summed_log_prob(logp: Float[Array, "row transition"], texts: Sequences) -> Float[Array, " row"]:
    """Return the log-probability of each sequence, in nats, from those of its tokens.

    Args:
      logp: of all tokens but the first, `[row, time - 1]`.
      texts: the sequences; tokens that do not count are left out.
    """
    return jnp.sum(jnp.where(texts.mask[:, 1:], logp, 0), axis=-1)


def mean_nll(logp: Float[Array, "row transition"], texts: Sequences) -> Float[Array, ""]:
    """Return the mean of minus the log-probability over all tokens that count, in nats.

    Args:
      logp: of all tokens but the first, `[row, time - 1]`.
      texts: the sequences.
    """
    return objectives.nll(summed_log_prob(logp, texts), lengths=_lengths(texts))


def _forget_term(params, batch, config: UnlearnConfig, log_prob: OfTokens):
    method, forget = config.method, batch["forget"]
    of = lambda texts: summed_log_prob(log_prob(params, texts.tokens), texts)
    given: dict[str, Any] = {} if config.beta is None else {"beta": config.beta}
    if method == "idk":
        alternative = batch["alternative"]
        return mean_nll(log_prob(params, alternative.tokens), alternative)
    if method == "dpo":
        references = batch["reference"], batch["alternative_reference"]
        return objectives.dpo(of(forget), of(batch["alternative"]), *references, **given)
    if method == "ga":
        return objectives.gradient_ascent(of(forget), lengths=_lengths(forget))
    if method == "npo":
        return objectives.npo(of(forget), batch["reference"], **given)
    if method == "simnpo":
        return objectives.simnpo(of(forget), _lengths(forget), **given)
    tokens, counted = log_prob(params, forget.tokens), forget.mask[:, 1:]
    if method == "wga":
        return token_objectives.wga(tokens, counted, **given)
    return token_objectives.satimp(tokens, counted)


def _retain_term(params, frozen, retain: Sequences, config: UnlearnConfig, log_prob, logits):
    if config.retain == "nll":
        return mean_nll(log_prob(params, retain.tokens), retain)
    if config.retain == "kl":
        before = jax.lax.stop_gradient(logits(frozen, retain.tokens))
        now = logits(params, retain.tokens)
        return token_objectives.kl_retain(now, before, mask=retain.mask)
    return jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))


def _lengths(texts: Sequences):
    return jnp.sum(texts.mask[:, 1:], axis=-1, dtype=jnp.int32)


def check_unlearning(
    config: UnlearnConfig,
    forget: Sequences,
    retain: Sequences,
    alternative: Sequences | None,
    *,
    vocabulary: int | None = None,
) -> None:
    """Raise ValueError if settings or sets cannot be used.

    Args:
      config: of the loop.
      forget: what to forget.
      retain: what to keep.
      alternative: for "dpo" and "idk", and only there.
      vocabulary: number of tokens, where it is known.
    """
    check_choice(config.method, get_args(Method), "method")
    check_choice(config.retain, get_args(Retain), "retain")
    check_positive(learning_rate=config.learning_rate)
    check_counts(steps=config.steps, batch_size=config.batch_size)
    for name in ("rho", "retain_weight", "alpha"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name}={getattr(config, name)}: accepted is 0 or more")
    if (alternative is not None) != (config.method in ("dpo", "idk")):
        state = "given" if alternative is not None else "None"
        raise ValueError(
            f"alternative: {state} with method={config.method!r}; accepted with 'dpo' and 'idk', "
            "and only there"
        )
    sets = {"forget": forget, "retain": retain, "alternative": alternative}
    for name, texts in sets.items():
        if texts is not None:
            check_texts(name, texts, vocabulary=vocabulary)
    if alternative is not None and len(alternative.tokens) != len(forget.tokens):
        raise ValueError(
            f"alternative: {len(alternative.tokens)} rows; forget has {len(forget.tokens)}"
        )


def check_texts(
    name: str, texts: Sequences, *, vocabulary: int | None = None, shortest: int = 2
) -> None:
    """Raise ValueError if sequences cannot be used.

    Args:
      name: of the argument.
      texts: the sequences.
      vocabulary: number of tokens, where it is known.
      shortest: least length of a row.
    """
    tokens, mask = texts.tokens, texts.mask
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        found = f"{tokens.dtype}{list(tokens.shape)}"
        raise ValueError(f"{name}: tokens {found}; accepted are integers [row, time]")
    if not tokens.shape[0] or tokens.shape[1] < shortest:
        accepted = f"accepted are rows of {shortest} tokens or more"
        raise ValueError(f"{name}: tokens {tokens.shape}; {accepted}")
    if mask.shape != tokens.shape or mask.dtype != jnp.bool_:
        found = f"{mask.dtype}{list(mask.shape)}"
        raise ValueError(f"{name}: mask {found}; accepted is bool{list(tokens.shape)}")
    if vocabulary is None or not is_concrete(tokens):
        return
    # Tokens that a traced function captures are known, but what is computed from them is not.
    with jax.ensure_compile_time_eval():
        low, high = int(jnp.min(tokens)), int(jnp.max(tokens))
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"{name}: tokens from {low} to {high}; accepted are 0 to {vocabulary - 1}: does the "
            "tokenizer belong to the model?"
        )
