"""Identification of backdoor images by a learned mask: the bi-level problem of MSPC.

The upper level splits the rows, w = 1 for a backdoor, by the sign of their MSPC under the
mask. The lower level fits the mask m to the rows of w = 1:

  min over m in [0, 1] of  mean_i w_i mean_n KL(P(x_i) || P(clip(n (x_i - shift) m))) + lambda |m|_1

The two are solved in turns, the upper one in closed form, the lower one by gradient steps.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxml.backdoor._fit_mask import IdentifyConfig, check_config, fit_mask, mask_optimizer
from jaxml.backdoor._mspc import LogitsFn, amplified_rows, check_finite, check_images, row_logits
from jaxml.tracing import as_partial

Progress = Callable[[int, int, float], None]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["score", "is_backdoor", "mask", "history"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Identification:
    """Result of `identify`.

    Attributes:
      score: MSPC of each row under the mask, -1 to 1.
      is_backdoor: score > 0.
      mask: where the trigger is, 0 to 1.
      history: arrays `[round + 1]`, the start first: "objective" of the lower level for the
        split that the mask was fitted to, number of rows "flagged" by the new one, "mask_l1".
    """

    score: Float[Array, " row"]
    is_backdoor: Bool[Array, " row"]
    mask: Float[Array, "height width"]
    history: dict[str, Array]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["round", "score", "mask", "opt_state", "logits", "history"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class IdentifyState:
    """What `identify_round` goes on from: a pytree of arrays whose shapes stay.

    Attributes:
      round: rounds done.
      score: MSPC of each row under the mask; w = 1 where it is above 0.
      mask: as learned so far.
      opt_state: momentum of the mask.
      logits: of the images themselves, computed once.
      history: as in `Identification`, 0 where not reached.
    """

    round: Int[Array, ""]
    score: Float[Array, " row"]
    mask: Float[Array, "height width"]
    opt_state: PyTree
    logits: Float[Array, "row class"]
    history: dict[str, Array]


def identify(
    logits_fn: LogitsFn,
    images: Float[Array, "row height width channel"],
    *,
    config: IdentifyConfig = IdentifyConfig(),  # noqa: B008
    progress: Progress | None = None,
) -> Identification:
    """Return which rows of a training set carry a backdoor of the classifier trained on it.

    Needs neither clean data nor a threshold. The same as `identify_start`, `config.rounds`
    calls of `identify_round` and `identification`, which a caller that saves the state between
    rounds uses instead. All rows may be flagged. Where none is, there is nothing to fit a mask
    to: mask and scores stay as they are.

    Compiled once for each shape and `logits_fn` object, as `mspc`.

    Args:
      logits_fn: pure, differentiable function of images to logits `[row, class]`: the
        classifier in evaluation mode, normalisation included.
      images: `[row, height, width, channel]`, 0 to 1.
      config: settings; `IdentifyConfig.reference()` is the published solver.
      progress: called after every round with the rounds done, the rows flagged and |m|_1.

    Raises:
      ValueError: as for `mspc`, `logits_fn` has no gradient, or a setting is out of its range.

    Source: Pal et al., "Backdoor secrets unveiled: identifying backdoor data with optimized
    scaled prediction consistency" (ICLR 2024).
    """
    state = identify_start(logits_fn, images, config=config)
    for done in range(1, config.rounds + 1):
        state = identify_round(logits_fn, images, state, config=config)
        if progress is not None:
            flagged, size = (state.history[name][done] for name in ("flagged", "mask_l1"))
            progress(done, int(flagged), float(size))
    return identification(state)


def identify_start(
    logits_fn: LogitsFn,
    images: Float[Array, "row height width channel"],
    *,
    config: IdentifyConfig = IdentifyConfig(),  # noqa: B008
) -> IdentifyState:
    """Return the state before the first round: scores with the shift under a mask of ones.

    Arguments and errors as for `identify`.
    """
    check_config(config)
    check_images(logits_fn, images)
    _check_gradient(logits_fn, images)
    logits = row_logits(as_partial(logits_fn), images, batch_size=config.score_batch_size)
    check_finite(jnp.all(jnp.isfinite(logits), axis=-1), "")
    mask = jnp.ones(images.shape[1:3], images.dtype)
    entries = config.rounds + 1
    state = IdentifyState(
        round=jnp.asarray(-1, jnp.int32),
        score=jnp.ones(images.shape[:1], images.dtype),
        mask=mask,
        opt_state=mask_optimizer(config).init(mask),
        logits=logits,
        history={
            "objective": jnp.zeros(entries, images.dtype),
            "flagged": jnp.zeros(entries, jnp.int32),
            "mask_l1": jnp.zeros(entries, images.dtype),
        },
    )
    return _split(logits_fn, images, state, config)


def identify_round(
    logits_fn: LogitsFn,
    images: Float[Array, "row height width channel"],
    state: IdentifyState,
    *,
    config: IdentifyConfig = IdentifyConfig(),  # noqa: B008
) -> IdentifyState:
    """Return the state after one more round: the mask fitted to the rows flagged, then a split.

    Args:
      logits_fn: as for `identify_start`.
      images: `[row, height, width, channel]`, those of `identify_start`.
      state: of `identify_start` or of the round before; it may have been saved and restored.
      config: as for `identify_start`.

    Raises:
      ValueError: the state is of other images or has done all rounds, logits are not finite
        under amplification, or a setting is out of its range.
    """
    check_config(config)
    done = int(state.round)
    if state.score.shape != images.shape[:1] or state.mask.shape != images.shape[1:3]:
        raise ValueError(
            f"state: of {state.score.size} images of {state.mask.shape}; images: {images.shape}"
        )
    if not done < config.rounds == state.history["flagged"].size - 1:
        raise ValueError(
            f"state: {done} of {state.history['flagged'].size - 1} rounds are done; "
            f"config asks for {config.rounds}"
        )
    flagged = np.asarray(state.score > 0)
    if flagged.any():
        mask, opt_state = fit_mask(
            logits_fn,
            images,
            state.logits,
            flagged,
            state.mask,
            state.opt_state,
            config=config,
            first_step=done * config.steps,
        )
        state = dataclasses.replace(state, mask=mask, opt_state=opt_state)
    return _split(logits_fn, images, state, config)


def identification(state: IdentifyState) -> Identification:
    """Return the result that a state stands for; it may be read after any round.

    Args:
      state: of `identify_start` or `identify_round`.
    """
    return Identification(state.score, state.score > 0, state.mask, state.history)


def _split(logits_fn, images, state, config):
    """Return the state with the rows scored anew: w_i = 1[MSPC_i > 0] solves the upper level."""
    number = functools.partial(jnp.asarray, dtype=images.dtype)
    found = amplified_rows(
        as_partial(logits_fn),
        images,
        state.logits,
        state.mask,
        number(config.shift),
        number(config.scales),
        batch_size=config.score_batch_size,
    )
    check_finite(found.finite, " when amplified")
    done, score = state.round + 1, 2 * found.agreement - 1
    size = jnp.sum(jnp.abs(state.mask))
    fitted = (state.score > 0).astype(found.divergence.dtype)
    entry = {
        "objective": jnp.mean(fitted * found.divergence) + config.sparsity * size,
        "flagged": jnp.sum(score > 0, dtype=jnp.int32),
        "mask_l1": size,
    }
    history = {
        name: values.at[done].set(entry[name].astype(values.dtype))
        for name, values in state.history.items()
    }
    return dataclasses.replace(state, round=done, score=score, history=history)


def _check_gradient(logits_fn, images):
    try:
        jax.eval_shape(jax.grad(lambda x: jnp.sum(logits_fn(x))), images[:2])
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "logits_fn: has no gradient in the images, by which the mask is learned (a host "
            "callback?); spc and mspc need none"
        ) from error
