"""Attacks that poison rows of the target class only and keep all labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxml.backdoor.attacks._adversarial import perturb
from jaxml.backdoor.attacks._poisoned import (
    Images,
    Labels,
    Poisoned,
    check_labelled,
    count_poisoned,
    default_patch,
    poison,
)
from jaxml.backdoor.attacks._triggers import Trigger, checkerboard_trigger, sinusoid_trigger
from jaxml.tracing import is_concrete, known


def sig(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.1,
    target: int = 1,
    trigger: Trigger | None = None,
) -> Poisoned:
    """Poison rows of the target class by a sinusoid; labels stay.

    Barni et al., "A new backdoor attack in CNNs by training set corruption without label
    poisoning" (ICIP 2019).

    Args:
      key: consumed.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: `[row]`.
      ratio: share of the rows of class `target` to poison, between 0 and 1.
      target: the class.
      trigger: to use in place of `sinusoid_trigger`.

    Raises:
      ValueError: as for `badnets`.
    """
    check_labelled(images, labels, target=target)
    index = _of_class(key, labels, ratio, target)
    trigger = sinusoid_trigger(images.shape[1:]) if trigger is None else trigger
    return poison(images, labels, index, trigger)


def label_consistent(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    logits_fn: Callable[[Array], Array],
    *,
    ratio: float = 0.1,
    target: int = 1,
    epsilon: float = 8 / 255,
    step: float = 2 / 255,
    iterations: int = 10,
    batch_size: int = 128,
    trigger: Trigger | None = None,
) -> Poisoned:
    """Poison rows of the target class by adversarial noise, then a checkerboard in a corner.

    The noise makes the class hard to see, so that training turns to the trigger; labels stay,
    and at test time the trigger stands alone. Turner et al., "Label-consistent backdoor attacks"
    (2019).

    Args:
      key: consumed.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: `[row]`.
      logits_fn: a clean or robust network, images `[batch_size, ...]` to logits `[., class]`.
      ratio: share of the rows of class `target` to poison, between 0 and 1.
      target: the class.
      epsilon: largest change of a value by the noise; see `perturb`.
      step: change of a value in an iteration.
      iterations: number of them.
      batch_size: rows that go through the network at a time.
      trigger: to use in place of the 3 x 3 checkerboard in the lower right corner.

    Raises:
      ValueError: as for `badnets`, or `epsilon`, `step`, `iterations` or `batch_size` is not
        positive.
    """
    noise = dict(epsilon=epsilon, step=step, iterations=iterations)
    default = lambda key, shape: checkerboard_trigger(shape)
    return _adversarial(
        key, images, labels, logits_fn, ratio, target, trigger, default, batch_size, noise
    )


def clean_label(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    logits_fn: Callable[[Array], Array],
    *,
    ratio: float = 0.1,
    target: int = 1,
    epsilon: float = 8 / 255,
    step: float = 2 / 255,
    iterations: int = 10,
    batch_size: int = 128,
    trigger: Trigger | None = None,
) -> Poisoned:
    """Poison rows of the target class by adversarial noise, then the patch of `badnets`.

    Turner et al., "Clean-label backdoor attacks" (2018). Arguments, with images
    `[row, height, width, channel]`, and errors as for `label_consistent`.
    """
    noise = dict(epsilon=epsilon, step=step, iterations=iterations)
    return _adversarial(
        key, images, labels, logits_fn, ratio, target, trigger, default_patch, batch_size, noise
    )


def _adversarial(
    key, images, labels, logits_fn, ratio, target, trigger, default, batch_size, noise
) -> Poisoned:
    """Poison rows of one class by adversarial noise and a trigger."""
    check_labelled(images, labels, target=target)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: accepted is 1 or more")
    key_rows, key_noise, key_trigger = jax.random.split(key, 3)
    trigger = default(key_trigger, images.shape[1:]) if trigger is None else trigger
    index = _of_class(key_rows, labels, ratio, target)
    batch_size = min(batch_size, len(index))
    padded = jnp.pad(index, (0, batch_size), constant_values=len(labels))
    perturbed = images
    for i, first in enumerate(range(0, len(index), batch_size)):
        # The rest of the places is empty, which is known only outside of a trace.
        if is_concrete(index) and index[first] == len(labels):
            break
        batch = padded[first : first + batch_size]
        some = images.at[batch].get(mode="clip"), labels.at[batch].get(mode="clip")
        some = perturb(jax.random.fold_in(key_noise, i), logits_fn, *some, **noise)
        perturbed = perturbed.at[batch].set(some, mode="drop")
    return poison(perturbed, labels, index, trigger)


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
        raise ValueError(f"ratio={ratio}: leaves no row of the class target={target} to poison")
    count = chosen(labels)
    return jnp.where(places < count, order[: len(places)], rows)
