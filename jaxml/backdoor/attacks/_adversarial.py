"""Adversarial noise within a box around each image, by projected gradient ascent."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jaxml import checks
from jaxml.precision import at_least_single
from jaxml.tracing import as_partial, nan_unless


def perturb(
    key: Key[Array, ""],
    logits_fn: Callable[[Array], Array],
    images: Float[Array, "row height width channel"],
    labels: Int[Array, " row"],
    *,
    epsilon: float = 8 / 255,
    step: float = 2 / 255,
    iterations: int = 10,
) -> Float[Array, "row height width channel"]:
    """Return images that a network takes for another class, each near its own.

    From a uniform random start within `epsilon`, `iterations` times
    x <- clip(x + step sign(d CE / dx)), clipped to `epsilon` around the image and to [0, 1].

    An iteration is one compiled call, kept for the same `logits_fn` object and shape; under
    `jit` all of them are unrolled. All rows go through the network at once.

    Args:
      key: consumed.
      logits_fn: images `[row, height, width, channel]` to logits `[row, class]`.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: class of each image, `[row]`.
      epsilon: largest change of a value.
      step: change of a value in an iteration.
      iterations: number of them.

    Returns:
      Images `[row, height, width, channel]`, in [0, 1].

    Raises:
      ValueError: the images are not `[row, ...]` of floating-point numbers, a label is no class,
        `epsilon` or `step` is not positive, or `iterations` is below 1.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR
    2018).
    """
    checks.positive(epsilon=epsilon, step=step)
    checks.counts(iterations=iterations)
    checks.images(images=images)
    rows = images[:2]
    classes = jax.eval_shape(logits_fn, rows).shape[-1]
    checks.labels(labels=labels, rows=len(images), classes=classes)
    # The box around 0 to 1 would hide infinity.
    images = nan_unless(jnp.isfinite(images), images)
    # Half precision has other random numbers.
    wide = at_least_single(images.dtype)
    start = jax.random.uniform(key, images.shape, wide, -epsilon, epsilon).astype(images.dtype)
    x = jnp.clip(images + start, 0, 1)
    # No lax loop: XLA's CPU backend runs convolutions in one many times slower (jax issue 12868).
    for _ in range(iterations):
        x = _ascend(x, images, labels, epsilon, step, as_partial(logits_fn))
    return x


@jax.jit
def _ascend(x, images, labels, epsilon, step, logits_fn):
    epsilon, step = (jnp.asarray(value, x.dtype) for value in (epsilon, step))

    def cross_entropy(x):
        logits = logits_fn(x)
        wide = logits.astype(at_least_single(logits.dtype))
        each = optax.softmax_cross_entropy_with_integer_labels(wide, labels)
        # JAX counts from the end for negative indices. A product, so that gradients are NaN, too.
        is_class = (labels >= 0) & (labels < logits.shape[-1])
        return jnp.sum(each * jnp.where(is_class, 1, jnp.nan))

    moved = x + step * jnp.sign(jax.grad(cross_entropy)(x))
    return jnp.clip(jnp.clip(moved, images - epsilon, images + epsilon), 0, 1)
