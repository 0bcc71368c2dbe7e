"""The loss of an image classifier, and the statistics of its batch normalisations.

Training normalises by the statistics of each batch and keeps none, so that the loss is a pure
function of the parameters. After it, one pass over the training set gives the statistics of
evaluation.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree, Shaped

from jaxml import checks
from jaxml.precision import at_least_single
from jaxml.tracing import nan_unless


def unit_images(
    images: Shaped[Array, "*batch height width channel"],
) -> Float[Array, "*batch height width channel"]:
    """Return images in [0, 1]: uint8 ones divided by 255 in float32, others as they are.

    Args:
      images: `[..., height, width, channel]`.
    """
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def classification_loss(
    model: nn.Module,
    params: PyTree,
    images: Shaped[Array, "row height width channel"],
    labels: Int[Array, " row"] | Float[Array, "row class"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the mean cross-entropy of a batch in training mode, and its accuracy.

    Args:
      model: returns logits `[row, class]` and features, such as `ResNet18` and `ViT`.
      params: the "params" of its variables.
      images: `[row, height, width, channel]`, uint8 or in [0, 1].
      labels: `[row]`, 0 to class - 1, or probabilities `[row, class]`; the accuracy counts their
        largest.

    Returns:
      Loss and accuracy, both NaN where a logit is, or a label that cannot be seen is no class.

    Raises:
      ValueError: a label is no class.
    """
    output: Any = model.apply(
        {"params": params}, unit_images(images), train=True, mutable=["batch_stats"]
    )
    (logits, _), _ = output
    wide = logits.astype(at_least_single(logits.dtype))
    if labels.ndim == 2:
        loss = optax.softmax_cross_entropy(wide, labels.astype(wide.dtype))
        labels = jnp.argmax(labels, axis=-1)
    else:
        checks.labels(labels=labels, rows=len(logits), classes=logits.shape[-1])
        loss = optax.softmax_cross_entropy_with_integer_labels(wide, labels)
        # JAX counts from the end for negative indices. A product, so that gradients are NaN, too.
        is_class = (labels >= 0) & (labels < logits.shape[-1])
        loss = loss * jnp.where(is_class, 1, jnp.nan)
    accuracy = jnp.mean(jnp.argmax(wide, axis=-1).astype(labels.dtype) == labels, dtype=wide.dtype)
    # NaN is no class, and not the likeliest.
    accuracy = nan_unless(~jnp.any(jnp.isnan(loss)), accuracy)
    return jnp.mean(loss).astype(logits.dtype), {"accuracy": accuracy.astype(logits.dtype)}


def population_statistics(
    model: nn.Module,
    params: PyTree,
    images: Shaped[Array, "row height width channel"],
    *,
    batch_size: int = 128,
) -> dict[str, PyTree]:
    """Return the variables for evaluation: "params", and "batch_stats" over many batches.

    Moments are means over the batches of the moments of training mode, mean E[m] and variance
    E[v + m^2] - E[m]^2 for batch means m and variances v. Wu and Johnson, "Rethinking batch in
    BatchNorm" (2021). Rows that do not fill a batch are left out. A model without batch
    normalisation gets no "batch_stats".

    Call it outside of `jit`, where a batch is one compiled call.

    Args:
      model: as for `classification_loss`.
      params: the "params" of its variables.
      images: `[row, height, width, channel]`, uint8 or in [0, 1].
      batch_size: as in training; at most `row`.

    Raises:
      ValueError: `batch_size` is not in 1 to `row`.
    """
    rows = len(images)
    if not 1 <= batch_size <= rows:
        raise checks.refused("batch_size", batch_size, f"1 to {rows} rows")
    total, kinds, count = None, {}, rows // batch_size
    # No lax loop: XLA's CPU backend runs convolutions in one many times slower (jax issue 12868).
    for i in range(count):
        batch = images[i * batch_size : (i + 1) * batch_size]
        moments, kinds = _moments(params, batch, model=model)
        total = moments if total is None else jax.tree.map(jnp.add, total, moments)
    mean = jax.tree.map(lambda x: x / count, total)
    # A difference of large numbers may fall below 0.
    variance = lambda m, square: jnp.maximum(square - m**2, 0)
    stats = {name: {"mean": m, "var": variance(m, square)} for name, (m, square) in mean.items()}
    stats = jax.tree.map(lambda x, like: x.astype(like.dtype), stats, kinds)
    return {"params": params, "batch_stats": stats} if stats else {"params": params}


@functools.partial(jax.jit, static_argnames="model")
def _moments(params, images, *, model):
    """Mean and mean square of each normalisation's input in a batch, and its statistics."""
    variables = {"params": params}
    state = model.apply(variables, unit_images(images), train=True, mutable=["batch_stats"])[1]
    stats = state.get("batch_stats", {})
    # Of half precision the difference of large numbers would keep no digit.
    wide = jax.tree.map(lambda x: x.astype(at_least_single(x.dtype)), stats)
    moments = {name: (s["mean"], s["var"] + s["mean"] ** 2) for name, s in wide.items()}
    return moments, stats
