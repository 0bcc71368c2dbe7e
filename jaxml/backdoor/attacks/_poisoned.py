"""The result of an attack, and how often its trigger works on a network."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from jaxml import checks
from jaxml.precision import at_least_single
from jaxml.tracing import nan_unless

Relabel = Literal["all_to_one", "all_to_all", "untargeted"]
Images = Float[Array, "row height width channel"]
Labels = Int[Array, " row"]
TriggerFn = Callable[[Any], Any]
"""Function of images `[row, height, width, channel]` in [0, 1] to such images."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Poisoned:
    """Result of an attack.

    Attributes:
      images: `[row, height, width, channel]`; rows that were not chosen are as given.
      labels: `[row]`.
      is_poisoned: `[row]`.
      trigger: function of images for test time, a pytree.
    """

    images: Float[Array, "*batch row height width channel"]
    labels: Int[Array, "*batch row"]
    is_poisoned: Bool[Array, "*batch row"]
    trigger: TriggerFn


def attack_success_rate(
    logits_fn: Callable[[Array], Array],
    images: Images,
    labels: Labels,
    *,
    target: int = 1,
    relabel: Relabel = "all_to_one",
) -> Float[Array, ""]:
    """Return the share of images with the trigger that get the label of the attack.

    Over rows of other classes than `target` for "all_to_one", NaN without one; over all rows
    for "all_to_all", which is (y + 1) mod class, and "untargeted", which is any wrong label.

    Args:
      logits_fn: images `[row, height, width, channel]` to logits `[row, class]`.
      images: test images with the trigger, `[row, height, width, channel]`.
      labels: true labels, `[row]`.
      target: label of "all_to_one".
      relabel: as in the attack.

    Returns:
      0 to 1, in the dtype of the logits; NaN where a logit is not finite.

    Raises:
      ValueError: `relabel` is unknown, the arrays are not of these shapes and kinds, or a label
        or `target` is no class of the logits.
    """
    check_labelled(images, labels)
    checks.choice(get_args(Relabel), relabel=relabel)
    logits = logits_fn(images)
    checks.labels(labels=labels, rows=len(images), classes=logits.shape[-1])
    predicted = jnp.argmax(logits, axis=-1).astype(labels.dtype)
    counted = jnp.ones_like(labels, bool)
    if relabel == "all_to_one":
        checks.within(0, logits.shape[-1] - 1, target=target)
        counted = labels != target
        success = predicted == target
    elif relabel == "all_to_all":
        success = predicted == (labels + 1) % logits.shape[-1]
    else:
        success = predicted != labels
    rate = jnp.mean(success, where=counted, dtype=at_least_single(logits.dtype))
    # NaN is no class, and not the likeliest.
    return nan_unless(jnp.all(jnp.isfinite(logits)), rate.astype(logits.dtype))


def put_trigger(
    trigger: TriggerFn,
    images: Images,
    labels: Labels,
    index: Int[Array, " poisoned"],
    *,
    relabelled: Labels | None = None,
) -> Poisoned:
    """Return the set with trigger and new labels in some rows.

    Args:
      trigger: to put into them, a function of images.
      images: `[row, height, width, channel]`.
      labels: `[row]`.
      index: rows to poison; numbers beyond the last row stand for none.
      relabelled: labels that they get, `[row]`; they keep their own by default.

    Returns:
      The poisoned set.

    Raises:
      ValueError: the trigger returns no such images.
    """
    trigger = _as_pytree(trigger, images.dtype)
    chosen = images.at[index].get(mode="clip")
    triggered = trigger(chosen)
    if (triggered.shape, triggered.dtype) != (chosen.shape, chosen.dtype):
        accepted = f"{checks.described(chosen)}, as of the images"
        raise checks.refused("trigger(images)", triggered, accepted)
    if relabelled is not None:
        new = relabelled.at[index].get(mode="clip")
        labels = labels.at[index].set(new, mode="drop")
    return Poisoned(
        images.at[index].set(triggered, mode="drop"),
        labels,
        jnp.zeros(len(labels), bool).at[index].set(True, mode="drop"),
        trigger,
    )


def _as_pytree(trigger, dtype):
    """Return a function of images that may be a result of `jax.jit`, with arrays of a dtype."""
    if jax.tree_util.all_leaves([trigger]):
        return Partial(trigger)
    is_float = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    cast = lambda leaf: jnp.asarray(leaf, dtype) if is_float(leaf) else leaf
    return jax.tree.map(cast, trigger)


def count_poisoned(ratio: float, rows: int) -> int:
    """Return round(ratio rows), which must be at least 1."""
    checks.between(0, 1, ratio=ratio)
    count = round(ratio * rows)
    if count == 0:
        raise checks.refused("ratio", ratio, f"a share that leaves one of {rows} rows to poison")
    return count


def check_labelled(
    images: Array, labels: Array, *, target: int = 0, classes: int | None = None
) -> None:
    """Accept images with values in [0, 1], and labels and a target below `classes`."""
    checks.images(images=images)
    checks.values_within(0, 1, images=images)
    checks.counts(least=0, target=target)
    if classes is not None:
        checks.within(0, classes - 1, target=target)
    checks.labels(labels=labels, rows=len(images), classes=classes)
