"""Identification of backdoor images by a learned mask: the bi-level problem of MSPC.

The upper level splits the rows, w = 1 for a backdoor, by the sign of their MSPC under the
mask. The lower level fits the mask m to the rows of w = 1:

  min over m in [0, 1] of  mean_i w_i mean_n KL(P(x_i) || P(clip(n (x_i - shift) m))) + lambda |m|_1

The two are solved in turns, the upper one in closed form, the lower one by gradient steps.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxml import checks
from jaxml.backdoor._amplify import LogitsFn, amplified_rows, check_images, row_logits
from jaxml.backdoor._fit_mask import fit_mask, mask_optimizer
from jaxml.backdoor._identify_config import IdentifyConfig, check_config
from jaxml.tracing import as_partial, known

Progress = Callable[[int, int, float], None]


@jax.tree_util.register_dataclass
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IdentifyState:
    """What `identify_step` goes on from: a pytree of arrays whose shapes stay.

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

    Needs neither clean data nor a threshold. The same as `identify_init`, `config.rounds`
    calls of `identify_step` and `identify_result`, which a caller that saves the state between
    rounds uses instead. All rows may be flagged. Where none is, there is nothing to fit a mask
    to: mask and scores stay as they are.

    Compiled once for each shape and `logits_fn` object, as `mspc`.

    Args:
      logits_fn: pure, differentiable function of images to logits `[row, class]`: the
        classifier in evaluation mode, normalisation included.
      images: `[row, height, width, channel]`, 0 to 1.
      config: settings; `IdentifyConfig.reference()` is the published solver.
      progress: called after every round with the rounds done, the rows flagged and |m|_1.

    Returns:
      Score and flag of each row, the mask, and how the rounds went.

    Raises:
      ValueError: as for `mspc`, images of half precision, `logits_fn` has no gradient or returns
        probabilities, or a setting is out of its range.

    Source: Pal et al., "Backdoor secrets unveiled: identifying backdoor data with optimized
    scaled prediction consistency" (ICLR 2024).
    """
    state = identify_init(logits_fn, images, config=config)
    for done in range(1, config.rounds + 1):
        state = identify_step(logits_fn, images, state, config=config)
        if progress is not None:
            flagged, size = (state.history[name][done] for name in ("flagged", "mask_l1"))
            progress(done, int(flagged), float(size))
    return identify_result(state)


def identify_init(
    logits_fn: LogitsFn,
    images: Float[Array, "row height width channel"],
    *,
    config: IdentifyConfig = IdentifyConfig(),  # noqa: B008
) -> IdentifyState:
    """Return the state before the first round: scores with the shift under a mask of ones.

    Arguments and errors as for `identify`.

    Returns:
      State for `identify_step`.
    """
    check_config(config)
    check_images(logits_fn, images)
    # The small steps of a mask are lost in half precision.
    checks.single_or_double(images=images)
    _check_gradient(logits_fn, images)
    network = as_partial(logits_fn)
    logits = row_logits(network, images, batch_size=config.score_batch_size)
    _check_logits(logits)
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
    return _split(network, images, state, config)


def identify_step(
    logits_fn: LogitsFn,
    images: Float[Array, "row height width channel"],
    state: IdentifyState,
    *,
    config: IdentifyConfig = IdentifyConfig(),  # noqa: B008
) -> IdentifyState:
    """Return the state after one more round: the mask fitted to the rows flagged, then a split.

    Args:
      logits_fn: as for `identify_init`.
      images: `[row, height, width, channel]`, those of `identify_init`.
      state: of `identify_init` or of the round before; it may have been saved and restored.
      config: as for `identify_init`.

    Returns:
      State with one more round done.

    Raises:
      ValueError: the state is of other images, holds NaN or has done all rounds, logits are not
        finite under amplification, or a setting is out of its range.
    """
    check_config(config)
    _check_state(state, images, config)
    network, done = as_partial(logits_fn), int(state.round)
    flagged = np.asarray(state.score > 0)
    if flagged.any():
        mask, opt_state = fit_mask(
            network,
            images,
            state.logits,
            flagged,
            state.mask,
            state.opt_state,
            config=config,
            first_step=done * config.steps,
        )
        state = dataclasses.replace(state, mask=mask, opt_state=opt_state)
    return _split(network, images, state, config)


def identify_result(state: IdentifyState) -> Identification:
    """Return the result that a state stands for; it may be read after any round.

    Args:
      state: of `identify_init` or `identify_step`.

    Returns:
      As of `identify`.
    """
    return Identification(state.score, state.score > 0, state.mask, state.history)


def _split(network, images, state, config):
    """Return the state with the rows scored anew: w_i = 1[MSPC_i > 0] solves the upper level."""
    rows = amplified_rows(
        network,
        images,
        state.logits,
        state.mask,
        shift=config.shift,
        scales=config.scales,
        batch_size=config.score_batch_size,
    )
    done, score = state.round + 1, 2 * rows.agreement - 1
    size = jnp.sum(jnp.abs(state.mask))
    # The split that the mask was fitted to.
    fitted = (state.score > 0).astype(rows.divergence.dtype)
    entry = {
        "objective": jnp.mean(fitted * rows.divergence) + config.sparsity * size,
        "flagged": jnp.sum(score > 0, dtype=jnp.int32),
        "mask_l1": size,
    }
    history = {
        name: values.at[done].set(entry[name].astype(values.dtype))
        for name, values in state.history.items()
    }
    return dataclasses.replace(state, round=done, score=score, history=history)


def _check_gradient(logits_fn, images):
    """Accept a network that JAX can differentiate in the images, by which the mask is learned."""
    try:
        jax.eval_shape(jax.grad(lambda x: jnp.sum(logits_fn(x))), images[:2])
    except (NotImplementedError, TypeError, ValueError) as error:
        accepted = (
            "a function with a gradient in the images, by which the mask is learned; a host "
            "callback has none, and does for spc and mspc"
        )
        raise checks.refused("logits_fn", logits_fn, accepted) from error


def _check_logits(logits):
    """Accept logits, not the probabilities of a softmax: of those another softmax is taken."""

    def are_logits(logits):
        tolerance = max(1e-3, 4 * float(jnp.finfo(logits.dtype).eps))
        sums = jnp.sum(logits, axis=-1, dtype=jnp.float32)
        are_sums_one = jnp.all(jnp.abs(sums - 1) < tolerance)
        return ~(jnp.all((logits >= 0) & (logits <= 1)) & are_sums_one)

    if not known(logits, are_logits):
        accepted = "logits; the logarithms of probabilities are some"
        holds = "probabilities, which are 1 in every row together"
        raise checks.refused("logits_fn(images)", logits, accepted, holds=holds)


def _check_state(state, images, config):
    """Accept a state of these images, and of so many rounds, not all of which are done."""
    for name, values, shape in (
        ("state.score", state.score, images.shape[:1]),
        ("state.mask", state.mask, images.shape[1:3]),
    ):
        if values.shape != shape:
            raise checks.refused(name, values, f"{list(shape)}, as of images")
    parts = {"score": state.score, "mask": state.mask, "logits": state.logits}
    checks.finite(**{f"state.{name}": values for name, values in parts.items()})
    rounds = state.history["flagged"].size - 1
    if config.rounds != rounds:
        raise checks.refused("rounds", config.rounds, f"{rounds}, those of the state")
    if not state.round < rounds:
        raise checks.refused("state.round", state.round, f"below rounds={rounds}")
