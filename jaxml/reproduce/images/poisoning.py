"""Attacks of the experiments, of a strength that small networks learn, and their success."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxml.backdoor import attacks

TARGET = 1
# In a tenth of the published number of rows, and a network of an eighth of the width, the
# published strengths are not learnt: WaNet at 0.5 and the label-consistent attack on a tenth of
# one class reach no more than chance. These are.
WARP_STRENGTH = 2.0
LABEL_CONSISTENT: dict[str, Any] = dict(epsilon=32 / 255, step=8 / 255)
# Rows of the target class that the label-consistent attack poisons, for each row of `ratio`.
OF_CLASS = 5


def poisoned_set(
    key: Key[Array, ""],
    attack: str,
    images: Float[Array, "row height width channel"],
    labels: Int[Array, " row"],
    *,
    ratio: float,
    classes: int,
    clean_fn: Callable[[Array], Array] | None,
) -> attacks.Poisoned:
    """Return a training set after an attack.

    Args:
      key: consumed.
      attack: name in `jaxml.backdoor.attacks`.
      images: `[row, height, width, channel]`, 0 to 1.
      labels: `[row]`.
      ratio: share of the rows; of the label-consistent attack `OF_CLASS` times this share of
        the target class.
      classes: number of labels.
      clean_fn: images to logits of a network that was trained without poison, for the
        label-consistent attack.

    Returns:
      The poisoned set and its trigger.
    """
    if attack == "label_consistent":
        assert clean_fn is not None
        trigger = attacks.checkerboard_trigger(images.shape[1:], corners=4)
        return attacks.label_consistent(
            key,
            clean_fn,
            images,
            labels,
            ratio=OF_CLASS * ratio,
            target=TARGET,
            trigger=trigger,
            **LABEL_CONSISTENT,
        )
    if attack == "all_to_all":
        return attacks.all_to_all(key, images, labels, ratio=ratio, classes=classes)
    settings: dict[str, Any] = dict(ratio=ratio, target=TARGET, classes=classes)
    if attack == "wanet":
        # As many control points as pixels, as in the code of the paper on MSPC: no smoothing.
        key, key_warp = jax.random.split(key)
        shape = images.shape[1:]
        settings["trigger"] = attacks.warp_trigger(
            key_warp, shape, points=min(shape[:2]), strength=WARP_STRENGTH
        )
    make: Any = getattr(attacks, attack)
    return make(key, images, labels, **settings)


def accuracy_and_success(
    logits_fn: Callable[[Array], Array],
    trigger: Callable[[Array], Array] | None,
    images,
    labels,
    attack: str,
) -> np.ndarray:
    """Return accuracy and attack success rate, the latter NaN without a trigger.

    Success counts on images of other classes, stored as bytes with the trigger.

    Args:
      logits_fn: images to logits.
      trigger: of the attack; None without one.
      images: `[row, height, width, channel]`, 0 to 1.
      labels: `[row]`.
      attack: name in `jaxml.backdoor.attacks`.
    """
    is_right = jnp.argmax(logits_fn(images), axis=-1).astype(labels.dtype) == labels
    accuracy = float(jnp.mean(is_right))
    if trigger is None:
        return np.array([accuracy, np.nan])
    relabel = "all_to_all" if attack == "all_to_all" else "all_to_one"
    triggered = stored(trigger(images)).astype(images.dtype) / 255
    rate = attacks.attack_success_rate(logits_fn, triggered, labels, target=TARGET, relabel=relabel)
    return np.array([accuracy, float(rate)])


def stored(images):
    """Return images in [0, 1] as bytes."""
    return jnp.round(255 * images).astype(jnp.uint8)
