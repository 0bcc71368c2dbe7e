"""Attacks that poison rows of the target class only and keep all labels."""

from collections.abc import Callable
from typing import TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxml import checks
from jaxml.backdoor.attacks._adversarial import perturb
from jaxml.backdoor.attacks._labels_changed import drawn, random_patch
from jaxml.backdoor.attacks._poisoned import (
    Images,
    Labels,
    Poisoned,
    TriggerFn,
    check_labelled,
    count_poisoned,
    put_trigger,
)
from jaxml.backdoor.attacks._triggers import checkerboard_trigger, sinusoid_trigger
from jaxml.tracing import is_concrete, known


def sig(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.1,
    target: int = 1,
    trigger: TriggerFn | None = None,
) -> Poisoned:
    """Poison rows of the target class by a sinusoid; labels stay.

    Args:
      key: consumed.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: `[row]`.
      ratio: share of the rows of class `target` to poison, between 0 and 1.
      target: the class.
      trigger: to use in place of `sinusoid_trigger`, a function of images.

    Returns:
      As of `poison`.

    Raises:
      ValueError: as for `poison`.

    Source: Barni et al., "A new backdoor attack in CNNs by training set corruption without
    label poisoning" (ICIP 2019).
    """
    check_labelled(images, labels, target=target)
    index = _of_class(key, labels, ratio, target)
    trigger = sinusoid_trigger(images.shape[1:]) if trigger is None else trigger
    return put_trigger(trigger, images, labels, index)


def label_consistent(
    key: Key[Array, ""],
    logits_fn: Callable[[Array], Array],
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.1,
    target: int = 1,
    epsilon: float = 8 / 255,
    step: float = 2 / 255,
    iterations: int = 10,
    batch_size: int = 128,
    trigger: TriggerFn | None = None,
) -> Poisoned:
    """Poison rows of the target class by adversarial noise, then a checkerboard in a corner.

    The noise makes the class hard to see, so that training turns to the trigger; labels stay,
    and at test time the trigger stands alone.

    Args:
      key: consumed.
      logits_fn: a clean or robust network, images `[batch_size, ...]` to logits `[., class]`.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: `[row]`.
      ratio: share of the rows of class `target` to poison, between 0 and 1.
      target: the class.
      epsilon: largest change of a value by the noise; see `perturb`.
      step: change of a value in an iteration.
      iterations: number of them.
      batch_size: rows that go through the network at a time.
      trigger: to use in place of the 3 x 3 checkerboard in the lower right corner, a function
        of images.

    Returns:
      As of `poison`.

    Raises:
      ValueError: as for `poison`, or `epsilon`, `step`, `iterations` or `batch_size` is not
        positive.

    Source: Turner et al., "Label-consistent backdoor attacks" (2019).
    """
    check_labelled(images, labels, target=target)
    checks.counts(batch_size=batch_size)
    key_rows, key_noise, _ = jax.random.split(key, 3)
    trigger = checkerboard_trigger(images.shape[1:]) if trigger is None else trigger
    index = _of_class(key_rows, labels, ratio, target)
    batch_size = min(batch_size, len(index))
    padded = jnp.pad(index, (0, batch_size), constant_values=len(labels))
    perturbed = images
    for i, first in enumerate(range(0, len(index), batch_size)):
        # The rest of the places is empty, which is known only outside of a trace.
        if is_concrete(index) and index[first] == len(labels):
            break
        batch = padded[first : first + batch_size]
        noisy = perturb(
            jax.random.fold_in(key_noise, i),
            logits_fn,
            images.at[batch].get(mode="clip"),
            labels.at[batch].get(mode="clip"),
            epsilon=epsilon,
            step=step,
            iterations=iterations,
        )
        perturbed = perturbed.at[batch].set(noisy, mode="drop")
    return put_trigger(trigger, perturbed, labels, index)


class AdversarialRule(TypedDict, total=False):
    """Keyword arguments of `label_consistent`, which `clean_label` passes on to it.

    Attributes:
      ratio: share of the rows of class `target` to poison, 0.1 by default.
      target: the class, 1 by default.
      epsilon: largest change of a value by the noise, 8/255 by default.
      step: change of a value in an iteration, 2/255 by default.
      iterations: number of them, 10 by default.
      batch_size: rows that go through the network at a time, 128 by default.
    """

    ratio: float
    target: int
    epsilon: float
    step: float
    iterations: int
    batch_size: int


def clean_label(
    key: Key[Array, ""],
    logits_fn: Callable[[Array], Array],
    images: Images,
    labels: Labels,
    *,
    trigger: TriggerFn | None = None,
    **rule: Unpack[AdversarialRule],
) -> Poisoned:
    """Poison rows of the target class by adversarial noise, then the patch of `badnets`.

    Arguments (`rule`: ratio, target, epsilon, step, iterations, batch_size), with images
    `[row, height, width, channel]`, result and errors as for `label_consistent`.

    Source: Turner et al., "Clean-label backdoor attacks" (2018).
    """
    # `label_consistent` takes the other two.
    _, _, key_trigger = jax.random.split(key, 3)
    trigger = drawn(trigger, random_patch, key_trigger, images)
    return label_consistent(key, logits_fn, images, labels, trigger=trigger, **rule)


def _of_class(key, labels, ratio, target):
    """Return random rows of a class, the share `ratio` of them, then `len(labels)`, as padding."""
    rows = len(labels)
    places = jnp.arange(count_poisoned(ratio, rows))
    order = jax.random.permutation(key, rows)
    order = order[jnp.argsort(labels[order] != target, stable=True)]
    # A table, since the product is exact on the host only.
    counts = np.rint(ratio * np.arange(rows + 1)).astype(int)
    chosen = lambda labels: jnp.asarray(counts)[jnp.sum(labels == target)]
    if not known(labels, lambda labels: chosen(labels) > 0):
        accepted = f"a share that leaves a row of class target={target} to poison"
        raise checks.refused("ratio", ratio, accepted)
    count = chosen(labels)
    return jnp.where(places < count, order[: len(places)], rows)
