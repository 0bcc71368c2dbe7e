"""The result of an attack, and how often its trigger works on a network."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxml.backdoor.attacks._triggers import Trigger, check_images, patch_trigger
from jaxml.tracing import known

Relabel = Literal["all_to_one", "all_to_all", "untargeted"]
Images = Float[Array, "row height width channel"]
Labels = Int[Array, " row"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["images", "labels", "is_poisoned", "trigger"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Poisoned:
    """Result of an attack.

    Attributes:
      images: `[row, height, width, channel]`; rows that were not chosen are as given.
      labels: `[row]`.
      is_poisoned: `[row]`.
      trigger: a function of images for test time.
    """

    images: Float[Array, "*batch row height width channel"]
    labels: Int[Array, "*batch row"]
    is_poisoned: Bool[Array, "*batch row"]
    trigger: Trigger


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

    Raises:
      ValueError: `relabel` is unknown, or the arrays are not of these shapes and kinds.
    """
    check_labelled(images, labels)
    check_relabel(relabel)
    logits = logits_fn(images)
    found = jnp.argmax(logits, axis=-1).astype(labels.dtype)
    counted = jnp.ones_like(labels, bool)
    if relabel == "all_to_one":
        counted = labels != target
        success = found == target
    elif relabel == "all_to_all":
        success = found == (labels + 1) % logits.shape[-1]
    else:
        success = found != labels
    return jnp.mean(success, where=counted, dtype=logits.dtype)


def poison(
    images: Images,
    labels: Labels,
    index: Int[Array, " poisoned"],
    trigger: Trigger,
    *,
    relabelled: Labels | None = None,
) -> Poisoned:
    """Return the set with trigger and new labels in some rows.

    Args:
      images: `[row, height, width, channel]`.
      labels: `[row]`.
      index: rows to poison; numbers beyond the last row stand for none.
      trigger: to put into them.
      relabelled: labels that they get, `[row]`; they keep their own by default.
    """
    trigger = jax.tree.map(lambda a: a.astype(images.dtype), trigger)
    triggered = trigger(images.at[index].get(mode="clip"))
    if relabelled is not None:
        new = relabelled.at[index].get(mode="clip")
        labels = labels.at[index].set(new, mode="drop")
    return Poisoned(
        images.at[index].set(triggered, mode="drop"),
        labels,
        jnp.zeros(len(labels), bool).at[index].set(True, mode="drop"),
        trigger,
    )


def default_patch(key: Key[Array, ""], shape: tuple[int, ...]) -> Trigger:
    """Return the patch of `badnets`: random colours, side 5, 3 pixels from the border."""
    side = min(shape[:2])
    patch = jax.random.uniform(key, square_shape(shape, 5))
    return patch_trigger(patch, shape, margin=min(3, side // 8))


def square_shape(shape: tuple[int, ...], side: int) -> tuple[int, ...]:
    """Return the shape of a square of this side, or of a quarter of a small image."""
    side = max(1, min(side, min(shape[:2]) // 4))
    return side, side, shape[2]


def count_poisoned(ratio: float, rows: int) -> int:
    """Return round(ratio rows), which must be at least 1."""
    if not 0 < ratio < 1:
        raise ValueError(f"ratio={ratio}: accepted are numbers between 0 and 1")
    count = round(ratio * rows)
    if count == 0:
        raise ValueError(f"ratio={ratio}: of {rows} rows this leaves none to poison")
    return count


def check_relabel(relabel: str) -> None:
    """Raise ValueError unless this is one of `Relabel`."""
    if relabel not in get_args(Relabel):
        raise ValueError(f"relabel={relabel!r}: accepted are {', '.join(get_args(Relabel))}")


def check_labelled(
    images: Array, labels: Array, *, target: int = 0, classes: int | None = None
) -> None:
    """Raise ValueError unless these are images and labels below `classes`."""
    check_images(images)
    if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels: {labels.dtype}{list(labels.shape)}; accepted are {len(images)} integers"
        )
    if target < 0 or (classes is not None and target >= classes):
        below = "" if classes is None else f" and below {classes}"
        raise ValueError(f"target={target}: accepted are labels from 0{below}")
    if classes is not None and not known(
        labels, lambda labels: jnp.all((labels >= 0) & (labels < classes))
    ):
        raise ValueError(f"labels: accepted are 0 to classes - 1, classes={classes}")
