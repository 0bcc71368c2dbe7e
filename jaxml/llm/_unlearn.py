"""Unlearning of a Llama-type model: RMU at the price of a few layers, checkpoints to go on from."""

import functools
from pathlib import Path
from typing import Any

import jax
import optax
from jaxtyping import Array, Key, PyTree

from jaxml import checks
from jaxml.files.digest import digest
from jaxml.models import llama
from jaxml.models.llama.likelihood import CHUNK
from jaxml.sharding import map_host_batches
from jaxml.training import Progress, checkpoints, fit
from jaxml.unlearning import Sequences, UnlearnConfig, Unlearned
from jaxml.unlearning._config import check_unlearning
from jaxml.unlearning._counted import row_sums
from jaxml.unlearning._methods import method_name
from jaxml.unlearning._optimise import optimizer_or_adamw
from jaxml.unlearning._problem import (
    Likelihood,
    Problem,
    States,
    likelihood_problem,
    rmu_problem,
)
from jaxml.unlearning._sequences import Texts, check_texts, sequences

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def unlearn_decoder(
    key: Key[Array, ""],
    params: PyTree,
    decoder: llama.LlamaConfig,
    forget: Texts,
    retain: Texts,
    *,
    config: UnlearnConfig = UnlearnConfig(),  # noqa: B008
    alternative: Texts | None = None,
    layer: int = 7,
    trained: str = "down",
    remat: bool = False,
    chunk: int = CHUNK,
    optimizer: optax.GradientTransformation | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Unlearned:
    """Return a model that was made to forget some texts and to keep others.

    As `jaxml.unlearning.unlearn`, for decoders that are large: no logits of a whole batch in
    memory unless `config.retain` is "kl", and checkpoints. RMU runs the layers up to the steered
    one alone; those below the trained ones run once for both models, without gradient.

    Args:
      key: of the batches, and of RMU's direction; consumed.
      params: of the decoder, as of `jaxml.models.llama.load`; not consumed.
      decoder: shape of the network.
      forget: what to forget, `Sequences` or plain tokens `[row, time]`, all of which count.
      retain: what to keep, of any length of its own.
      config: what is minimised and for how long.
      alternative: for methods that need it, such as "dpo" and "idk": an answer such as "I don't
        know" to each row of `forget`.
      layer: RMU steers the output of this layer, from 0.
      trained: RMU trains this matrix of the last three layers up to `layer`.
      remat: see `jaxml.models.llama.apply`.
      chunk: see `jaxml.models.llama.chunked_log_prob`.
      optimizer: instead of AdamW without decay; keep the object, as a compiled step is known by
        it.
      folder: of checkpoints; a run that was ended goes on from there. Those of another method, by
        the name of an objective's loss, of other settings, texts or parameters are refused; more
        steps than before train on.
      progress: as for `jaxml.training.fit`.

    Returns:
      Parameters, all of them, and the loss of each step.

    Raises:
      ValueError: unknown method or retain term, a number out of range, tokens beyond the
        vocabulary, sets without a row or masks of another shape, or `alternative` missing or
        not wanted; see also `jaxml.training.fit`.
      FloatingPointError: the loss is not finite; the checkpoints before it stay.
    """
    forget, retain = sequences(forget), sequences(retain)
    alternative = None if alternative is None else sequences(alternative)
    check_unlearning(config, forget, retain, alternative, vocabulary=decoder.vocab_size)
    key_control, key_fit = jax.random.split(key)

    def depends() -> dict[str, Any]:
        """Return what checkpoints are known by: what is given, as much of the data is computed."""
        settings = {**vars(config), "method": method_name(config.method)}
        # A run may be given more of them.
        del settings["steps"]
        if config.method == "rmu":
            settings |= {"layer": layer, "trained": trained}
        given = {"params": params, "forget": forget, "retain": retain, "alternative": alternative}
        contents = {k: checkpoints.described(tree, content=True) for k, tree in given.items()}
        return settings | {name: digest(content)[:12] for name, content in contents.items()}

    solve = functools.partial(
        _solve,
        key_fit,
        optimizer=optimizer_or_adamw(optimizer, config.learning_rate, params=params),
        steps=config.steps,
        folder=folder,
        depends=None if folder is None else depends(),
        progress=progress,
    )
    if config.method != "rmu":
        model = _likelihood(decoder, remat, chunk)
        before = functools.partial(sequence_log_probs, params, decoder=decoder, chunk=chunk)
        return solve(
            likelihood_problem(config, model, params, forget, retain, alternative, before=before)
        )
    checks.within(0, decoder.num_layers - 1, layer=layer)
    checks.choice(MATRICES, trained=trained)
    first, last = max(0, layer - 2), layer + 1
    matrices = params["layers"][trained]
    steered = solve(
        rmu_problem(
            key_control,
            config,
            _states(decoder, trained, first, last, remat),
            matrices[first:last],
            params,
            forget,
            retain,
            width=decoder.hidden_size,
            dtype=params["norm"].dtype,
        )
    )
    layers = {**params["layers"], trained: matrices.at[first:last].set(steered.params)}
    return Unlearned({**params, "layers": layers}, steered.history)


def sequence_log_probs(
    params: PyTree,
    texts: Texts,
    decoder: llama.LlamaConfig,
    *,
    batch_size: int = 8,
    chunk: int = CHUNK,
) -> Array:
    """Return the log-probability of each sequence, `[row]` in nats: of its tokens that count.

    Args:
      params: of the decoder.
      texts: of any number of rows.
      decoder: shape of the network.
      batch_size: rows at a time.
      chunk: see `jaxml.models.llama.chunked_log_prob`.
    """
    rows = sequences(texts)
    check_texts("texts", rows, vocabulary=decoder.vocab_size)
    one_batch = functools.partial(_summed, params, decoder=decoder, chunk=chunk)
    return map_host_batches(one_batch, rows, batch_size=batch_size)


def _solve(key: Array, problem: Problem, **settings) -> Unlearned:
    solved = fit(key, problem.loss, problem.trained, problem.data, **settings)
    return Unlearned(solved.params, solved.history)


@functools.partial(jax.jit, static_argnames=("decoder", "chunk"))
def _summed(params, texts: Sequences, *, decoder, chunk) -> Array:
    logp = llama.log_prob(params, texts.tokens, decoder, chunk=chunk)
    return row_sums(logp, texts.mask[:, 1:])


# Kept, as losses and so compiled steps are known by these.
@functools.lru_cache(maxsize=32)
def _likelihood(decoder: llama.LlamaConfig, remat: bool, chunk: int) -> Likelihood:
    return Likelihood(
        log_prob=functools.partial(llama.log_prob, config=decoder, remat=remat, chunk=chunk),
        logits=functools.partial(llama.apply, config=decoder, remat=remat),
    )


@functools.lru_cache(maxsize=32)
def _states(decoder: llama.LlamaConfig, trained: str, first: int, last: int, remat: bool) -> States:
    run = functools.partial(llama.run_layers, config=decoder)

    def states(matrices, frozen, forget: Sequences, retain: Sequences):
        layers = llama.select_layers(frozen["layers"], first, last)
        below = lambda texts: jax.lax.stop_gradient(
            llama.apply(frozen, texts.tokens, decoder, until_layer=first)
        )
        own, kept_below = {**layers, trained: matrices}, below(retain)
        moved = run(own, below(forget), remat=remat)
        return moved, run(own, kept_below, remat=remat), run(layers, kept_below)

    return states
