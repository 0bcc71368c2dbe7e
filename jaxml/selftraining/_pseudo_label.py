"""Labels that a network gives to augmented views of images."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxml import checks
from jaxml.augment import Augment
from jaxml.precision import at_least_single
from jaxml.selftraining._unit import unit
from jaxml.sharding import map_host_batches
from jaxml.tracing import as_partial, known, nan_unless

LogitsFn = Callable[[Array], Array]
"""Function of images `[row, height, width, channel]` to logits `[row, class]`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """Result of `pseudo_label`.

    Attributes:
      targets: what to train on, `[row, class]`: 1 for the label, or the probabilities if soft.
      probabilities: mean over the views, `[row, class]`.
      labels: the most probable class, `[row]`.
      confidence: probability of the label, `[row]`.
      agreement: share of the views that have it as their own most probable class, `[row]`.
      kept: whether a row passed the threshold and is among the first of its class, `[row]`.
    """

    targets: Float[Array, "*batch row class"]
    probabilities: Float[Array, "*batch row class"]
    labels: Int[Array, "*batch row"]
    confidence: Float[Array, "*batch row"]
    agreement: Float[Array, "*batch row"]
    kept: Bool[Array, "*batch row"]


def pseudo_label(
    key: Key[Array, ""],
    logits_fn: LogitsFn,
    augment: Augment,
    images: Shaped[Array, "row height width channel"],
    *,
    views: int = 8,
    soft: bool = False,
    threshold: float = 0.0,
    per_class: int | None = None,
    batch_size: int = 64,
) -> PseudoLabels:
    """Return the labels that a network gives to images, from augmented views of each.

    p(x) = 1/K sum_k softmax f(A_k(x)) over K views A_k, and the label is argmax p. An
    augmentation that destroys a trigger and leaves the class takes the backdoor out of the
    labels. With `jaxml.augment.identity` and one view these are the labels of vanilla
    self-training.

    The views of a row depend on the key and its number alone. Compiled once for a shape and
    the objects `logits_fn` and `augment`, whose arrays are constants then; parameters given by
    `jax.tree_util.Partial(f, params)` stay arguments, so that the next network needs no new
    compilation. Batches are calls of their own, as convolutions in loops are slow on a CPU.

    Args:
      key: of the views; consumed.
      logits_fn: pure function of images `[batch, height, width, channel]` in [0, 1] to logits
        `[batch, class]`: the classifier in evaluation mode, normalisation included.
      augment: function of a key and an image, such as those of `jaxml.augment`.
      images: `[row, height, width, channel]`, bytes or 0 to 1.
      views: K.
      soft: train on the probabilities, and not on their largest alone.
      threshold: least confidence of a row that is kept, 0 to 1.
      per_class: keep so many rows of each label at most, those of the highest confidence.
      batch_size: rows worked on at a time, each with all views.

    Returns:
      `PseudoLabels` of all rows, those that are not kept among them. Where logits are not finite
      and that cannot be seen, as under `jax.jit`, a row has NaN, and is not kept.

    Raises:
      ValueError: there are no rows, the images are no images, the logits are not finite (the
        first row is named), the threshold keeps no row, or a setting is out of range.

    Source: Pal et al. (SafeAI at AAAI 2023); class-balanced choice as in Zou et al.,
    "Unsupervised domain adaptation for semantic segmentation via class-balanced self-training"
    (ECCV 2018).
    """
    checks.images(or_bytes=True, images=images)
    checks.counts(views=views, batch_size=batch_size)
    if per_class is not None:
        checks.counts(per_class=per_class)
    checks.within(0, 1, threshold=threshold)
    probabilities, agreement = _all_views(key, logits_fn, images, augment, views, batch_size)
    finite = jnp.all(jnp.isfinite(probabilities), axis=-1)
    if not known(finite, jnp.all):
        row = f"NaN or infinity for row {int(jnp.argmin(finite))} of images"
        raise checks.refused("logits_fn(images)", probabilities, "finite numbers", holds=row)
    labels = jnp.argmax(probabilities, axis=-1).astype(jnp.int32)
    confidence = jnp.max(probabilities, axis=-1)
    kept = finite & (confidence >= threshold)
    if not known(kept, jnp.any):
        highest = f"the highest confidence of {len(images)} rows, {float(jnp.max(confidence))}"
        raise checks.refused("threshold", threshold, f"up to {highest}")
    classes = probabilities.shape[-1]
    if per_class is not None:
        kept = kept & (_rank_in_class(labels, confidence, classes) < per_class)
    hard = jax.nn.one_hot(labels, classes, dtype=probabilities.dtype)
    targets = nan_unless(finite[:, None], probabilities if soft else hard)
    confidence, agreement = nan_unless(finite, (confidence, agreement))
    return PseudoLabels(targets, probabilities, labels, confidence, agreement, kept)


def _all_views(key, logits_fn, images, augment, views, batch_size):
    """Mean probabilities `[row, class]` and agreement `[row]`, a batch of rows at a time."""
    network = as_partial(logits_fn)

    def of_batch(batch):
        seen = _views(key, *batch, augment=augment, views=views)
        return _mean_of_views(network, seen, views=views)

    numbers = jnp.arange(len(images), dtype=jnp.int32)
    return map_host_batches(of_batch, (images, numbers), batch_size=batch_size)


@functools.partial(jax.jit, static_argnames=("augment", "views"))
def _views(key, images, numbers, *, augment, views):
    """Return augmented views `[row * views, height, width, channel]`, each row by its number."""
    images = unit(images)

    def keys_of_views(number):
        return jax.random.split(jax.random.fold_in(key, number), views)

    keys = jax.vmap(keys_of_views)(numbers)
    return jax.vmap(jax.vmap(augment, (0, None)))(keys, images).reshape(-1, *images.shape[1:])


# Apart from the views: it is compiled once for all augmentations.
@functools.partial(jax.jit, static_argnames="views")
def _mean_of_views(network, seen, *, views):
    """Return mean probabilities `[row, class]` and agreement `[row]`."""
    logits = network(seen)
    if logits.ndim != 2 or len(logits) != len(seen):
        shape = f"[{len(seen)}, class], a row an image"
        raise checks.refused("logits_fn(images)", logits, shape)
    dtype, logits = logits.dtype, logits.astype(at_least_single(logits.dtype))
    logits = logits.reshape(-1, views, logits.shape[-1])
    probabilities = jnp.mean(jax.nn.softmax(logits, axis=-1), axis=1)
    label = jnp.argmax(probabilities, axis=-1, keepdims=True)
    agree = jnp.argmax(logits, axis=-1) == label
    agreement = jnp.mean(agree, axis=1, dtype=logits.dtype)
    finite = jnp.all(jnp.isfinite(logits), axis=(1, 2))
    probabilities = nan_unless(finite[:, None], probabilities)
    return probabilities.astype(dtype), agreement.astype(dtype)


def _rank_in_class(labels: Array, confidence: Array, classes: int) -> Array:
    """Return how many rows of the same label come before each, by confidence and then number."""
    order = jnp.lexsort((-confidence, labels))
    count = jnp.bincount(labels, length=classes)
    start = jnp.cumsum(count) - count
    place = jnp.zeros_like(order).at[order].set(jnp.arange(len(labels), dtype=order.dtype))
    return place - start[labels].astype(place.dtype)
