"""SimCLR: an encoder learns from images without labels that two views of one belong together."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree, Shaped

from jaxml import augment as augmentations
from jaxml import checks
from jaxml.augment import Augment
from jaxml.precision import at_least_single, half_as_single
from jaxml.selftraining._unit import unit
from jaxml.tracing import nan_unless

Embed = Callable[[PyTree, Array], Array]


def simclr_loss(
    embed: Embed, *, augment: Augment = augmentations.simclr_view, temperature: float = 0.5
) -> Callable[[PyTree, Array, Array], tuple[Array, dict[str, Array]]]:
    """Return the loss of SimCLR as `jaxml.training.fit` takes it: of parameters, images, key.

    Two views of every image, embedded together as one batch of 2 row images, and `nt_xent`
    between them. Its one metric, "accuracy", is the share of views whose nearest other view is
    of the same image. Images that are sharded along their rows are contrasted with those of all
    devices. Keep the returned function: it is what a compiled step is known by.

    Args:
      embed: function of parameters and images `[2 row, height, width, channel]` in [0, 1] to
        embeddings `[2 row, feature]`: encoder in training mode and projection head.
      augment: function of a key and an image to a view.
      temperature: of `nt_xent`.

    Returns:
      A function of parameters, images `[row, height, width, channel]` (bytes or 0 to 1) and a
      key to the scalar loss and a dict of its metric.

    Raises:
      ValueError: `temperature` is not above 0.

    Source: Chen et al., "A simple framework for contrastive learning of visual
    representations" (ICML 2020), algorithm 1.
    """
    checks.positive(temperature=temperature)

    def loss(
        params: PyTree, images: Shaped[Array, "row height width channel"], key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        checks.images(or_bytes=True, images=images)
        rows = len(images)
        keys = jax.random.split(key, (2, rows))
        views = jax.vmap(jax.vmap(augment), (0, None))(keys, unit(images))
        embeddings = embed(params, views.reshape(-1, *images.shape[1:]))
        loss = nt_xent(embeddings[:rows], embeddings[rows:], temperature=temperature)
        wide = embeddings.astype(at_least_single(embeddings.dtype))
        similarity = _similarity(wide[:rows], wide[rows:])
        is_own = jnp.argmax(similarity, axis=1) == _partner(rows)
        # NaN is not the nearest.
        accuracy = nan_unless(jnp.isfinite(loss), jnp.mean(is_own, dtype=wide.dtype))
        return loss, {"accuracy": accuracy.astype(embeddings.dtype)}

    return loss


@half_as_single
def nt_xent(
    first: Float[Array, "row feature"],
    second: Float[Array, "row feature"],
    *,
    temperature: float = 0.5,
) -> Float[Array, ""]:
    """Return the normalised, temperature-scaled cross-entropy of pairs of embeddings.

    With cosines s of the 2 N embeddings, the mean over i of
    -s[i, j] / t + log sum_{k != i} exp(s[i, k] / t), j the other view of the image of i.

    Args:
      first: embeddings of one view of each image, `[row, feature]`.
      second: embeddings of the other view, `[row, feature]`.
      temperature: t, above 0.

    Returns:
      A scalar of the dtype of the embeddings.

    Raises:
      ValueError: the shapes differ or have no row, or `temperature` is not above 0.

    Source: Chen et al. (ICML 2020), equation 1.
    """
    checks.axes("row feature", first=first, second=second)
    checks.same_shape(first=first, second=second)
    checks.positive(temperature=temperature)
    scaled = _similarity(first, second) / temperature
    own = scaled[jnp.arange(len(scaled)), _partner(len(first))]
    return jnp.mean(jax.nn.logsumexp(scaled, axis=1) - own)


def init_projection(
    key: Key[Array, ""], features: int, *, width: int = 128
) -> dict[str, Float[Array, "..."]]:
    """Return the parameters of `project`, float32, for an encoder of so many features.

    Args:
      key: consumed.
      features: number of the encoder's features; the hidden layer has as many.
      width: number of features of the embeddings.

    Returns:
      "hidden" `[features, features]`, "bias" `[features]` and "out" `[features, width]`.
    """
    key_hidden, key_out = jax.random.split(key)
    initialise = jax.nn.initializers.he_normal()
    return {
        "hidden": initialise(key_hidden, (features, features), jnp.float32),
        "bias": jnp.zeros(features, jnp.float32),
        "out": initialise(key_out, (features, width), jnp.float32),
    }


def project(
    params: dict[str, Float[Array, "..."]], features: Float[Array, "row feature"]
) -> Float[Array, "row width"]:
    """Return the embeddings of SimCLR's projection head, W2 relu(W1 h + b).

    Args:
      params: of `init_projection`.
      features: h of the encoder, `[row, feature]`.

    Returns:
      Embeddings `[row, width]`.
    """
    return jax.nn.relu(features @ params["hidden"] + params["bias"][None]) @ params["out"]


def _similarity(first: Array, second: Array) -> Array:
    """Return the cosines of all pairs of embeddings, -inf of each with itself."""
    both = jnp.concatenate([first, second])
    square = jnp.sum(both**2, axis=1, keepdims=True)
    # The gradient of the norm of an embedding of zeros would be NaN.
    unit_length = both / jnp.sqrt(jnp.maximum(square, jnp.finfo(both.dtype).tiny))
    cosine = jnp.matmul(unit_length, unit_length.T, precision="highest")
    return jnp.where(jnp.eye(len(both), dtype=bool), -jnp.inf, cosine)


def _partner(rows: int) -> Array:
    """Return the number of the other view of each image, `[2 rows]`."""
    return (jnp.arange(2 * rows) + rows) % (2 * rows)
