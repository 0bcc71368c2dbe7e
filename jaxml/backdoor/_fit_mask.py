"""The mask that keeps the predictions of flagged rows steady: the lower level of `identify`."""

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, PyTree

from jaxml.backdoor._mspc import SCALES, LogitsFn, amplify, check_settings, divergence
from jaxml.tracing import as_partial


@dataclasses.dataclass(frozen=True)
class IdentifyConfig:
    """Settings of `identify`; the defaults are the fast solver.

    Attributes:
      scales: factors of the amplification, above 0.
      shift: subtracted from the images before it.
      sparsity: lambda, the weight of |m|_1.
      rounds: times that the mask is fitted and the rows are split.
      steps: of the mask in a round. A pixel falls from 1 to 0 in about 100, so that fewer than
        120 leave a mask that means little.
      learning_rate: of the steps.
      momentum: of the steps; it is kept from round to round, as is the mask.
      weight_decay: of the mask.
      proximal: shrink the mask by learning_rate * sparsity / (1 - momentum) after each step
        instead of adding the subgradient of |m|_1 to it; it leaves exact zeros.
      flagged_only: a step takes `batch_size` pairs of a flagged row and a scale. In turn
        they are all such pairs, and their mean is weighted by the fraction of rows flagged: the
        expected gradient is that of the problem. Otherwise a step takes `batch_size` rows as
        they come, flagged or not, at every scale, as published.
      batch_size: of a step of the mask.
      score_batch_size: rows scored at a time, each at all scales.
    """

    scales: tuple[float, ...] = SCALES
    shift: float = 0.2
    sparsity: float = 0.01
    rounds: int = 4
    steps: int = 200
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    proximal: bool = False
    flagged_only: bool = True
    batch_size: int = 128
    score_batch_size: int = 64

    @classmethod
    def reference(cls, *, rows: int = 50_000, epochs: int = 10) -> "IdentifyConfig":
        """Return the published solver: all rows in order, 1000 a step, `epochs` times a round.

        Gradients are taken a scale at a time, each with the logits of the images computed
        anew. Corrected are two faults of the released code: the last batch is not dropped but
        averaged over the rows it has, and the first split uses the shift.

        Args:
          rows: number of images; below 12,000 raise `epochs`, so that a round has 120 steps.
          epochs: passes over the data in a round.

        Source: the settings of Pal et al. (ICLR 2024) for CIFAR-10.
        """
        return cls(steps=epochs * math.ceil(rows / 1000), flagged_only=False, batch_size=1000)


def fit_mask(
    logits_fn: LogitsFn,
    images: Float[Array, "row height width channel"],
    logits: Float[Array, "row class"],
    flagged: Bool[np.ndarray, " row"],
    mask: Float[Array, "height width"],
    opt_state: PyTree,
    *,
    config: IdentifyConfig,
    first_step: int = 0,
) -> tuple[Float[Array, "height width"], PyTree]:
    """Return the mask and the state of its optimizer after the steps of one round.

    Args:
      logits_fn: as for `identify`.
      images: `[row, height, width, channel]`, 0 to 1.
      logits: of the images `[row, class]`.
      flagged: w `[row]`, true for one row or more.
      mask: `[height, width]`, from which to go on.
      opt_state: of `mask_optimizer`.
      config: settings.
      first_step: number of steps before, which tells the rows that come first.
    """
    gradient = functools.partial(
        _mask_gradient,
        as_partial(logits_fn),
        images,
        logits if config.flagged_only else None,
        shift=jnp.asarray(config.shift, images.dtype),
        rows=_row_sharding(images),
    )
    # Every step is a call of its own: in the body of a loop XLA's CPU backend takes five times
    # as long for the gradient of a convolution (jax issue 12868).
    for parts in batches(config, flagged, range(first_step, first_step + config.steps)):
        slopes = [gradient(mask, *(jnp.asarray(a) for a in part)) for part in parts]
        mask, opt_state = _mask_step(mask, opt_state, slopes, config=config)
    return mask, opt_state


def mask_optimizer(config: IdentifyConfig) -> optax.GradientTransformation:
    """Return gradient descent with momentum on the mask and its weight decay."""
    sgd = optax.sgd(config.learning_rate, momentum=config.momentum)
    return optax.chain(optax.add_decayed_weights(config.weight_decay), sgd)


def batches(config: IdentifyConfig, flagged: np.ndarray, steps: range) -> Iterator[list]:
    """Yield for every step its parts: row numbers, scales and weights whose gradients add up."""
    rows, scales = flagged.size, np.asarray(config.scales, float)
    if not config.flagged_only:
        size = min(config.batch_size, rows)
        for step in steps:
            index = step % math.ceil(rows / size) * size + np.arange(size)
            inside = index < rows
            index = np.minimum(index, rows - 1)
            weight = (flagged[index] & inside) / (inside.sum() * scales.size)
            yield [(index, np.full(size, n), weight) for n in scales]
        return
    # Always the same order, and not that of the data, in which classes may follow each other.
    order = np.random.default_rng(0).permutation(np.flatnonzero(flagged))
    pairs = order.size * scales.size
    used = np.arange(config.batch_size) < pairs
    weight = used * (order.size / rows / used.sum())
    for step in steps:
        place = (step * config.batch_size + np.arange(config.batch_size)) % pairs
        # One pass over the rows has them at scales in turn, the next one at those that follow.
        turn, row = np.divmod(place, order.size)
        yield [(order[row], scales[(row + turn) % scales.size], weight)]


@functools.partial(jax.jit, static_argnames="rows")
def _mask_gradient(logits_fn, images, logits, mask, index, scale, weight, *, shift, rows):
    """Gradient in the mask of sum_i weight_i KL(P(x_i) || P(clip(n_i (x_i - shift) mask)))."""
    x = images[index]
    if rows is not None:
        x = lax.with_sharding_constraint(x, rows)
    base = logits_fn(x) if logits is None else logits[index]
    scale = scale.astype(x.dtype)[:, None, None, None]

    def loss(mask):
        kl = divergence(base, logits_fn(amplify(x, mask, shift, scale)))
        return jnp.sum(weight.astype(kl.dtype) * kl)

    return jax.grad(loss)(mask)


@functools.partial(jax.jit, static_argnames="config")
def _mask_step(mask, opt_state, slopes, *, config):
    gradient = functools.reduce(jnp.add, slopes)
    if not config.proximal:
        gradient += config.sparsity * jnp.sign(mask)
    # optax is not written for strict promotion, which the caller may have switched on.
    with jax.numpy_dtype_promotion("standard"):
        change, opt_state = mask_optimizer(config).update(gradient, opt_state, mask)
    mask += change
    if config.proximal:
        # Momentum takes a constant slope so many times; the shrinking has none.
        mask -= config.learning_rate * config.sparsity / (1 - config.momentum)
    return jnp.clip(mask, 0, 1), opt_state


def _row_sharding(images):
    """Sharding of the rows over several devices, or None."""
    sharding = getattr(images, "sharding", None)
    split = isinstance(sharding, NamedSharding) and not sharding.is_fully_replicated
    return sharding if split else None


def check_config(config: IdentifyConfig) -> None:
    """Raise ValueError for a setting out of its range."""
    check_settings(config.shift, config.scales, config.score_batch_size)
    for name in ("rounds", "steps", "batch_size"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)}: accepted is 1 or more")
    for name in ("sparsity", "weight_decay"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name}={getattr(config, name)}: accepted is 0 or more")
    if not config.learning_rate > 0:
        raise ValueError(f"learning_rate={config.learning_rate}: accepted are positive numbers")
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum={config.momentum}: accepted is 0 or more and below 1")
