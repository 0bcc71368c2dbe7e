"""SimCLR: an encoder learns from images without labels that two views of one belong together."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree, Shaped

from jaxml import augment as augmentations
from jaxml.augment import Augment
from jaxml.selftraining._checks import check_images, unit

Embed = Callable[[PyTree, Array], Array]


def simclr(
    embed: Embed, *, augment: Augment = augmentations.simclr, temperature: float = 0.5
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

    Raises:
      ValueError: `temperature` is not above 0.

    Source: Chen et al., "A simple framework for contrastive learning of visual
    representations" (ICML 2020), algorithm 1.
    """
    _check_temperature(temperature)

    def loss(
        params: PyTree, images: Shaped[Array, "row height width channel"], key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        check_images("images", images)
        rows = len(images)
        keys = jax.random.split(key, (2, rows))
        views = jax.vmap(jax.vmap(augment), (0, None))(keys, unit(images))
        found = embed(params, views.reshape(-1, *images.shape[1:]))
        first, second = found[:rows], found[rows:]
        similarity = _similarity(first, second)
        accuracy = jnp.mean(jnp.argmax(similarity, axis=1) == _partner(rows), dtype=found.dtype)
        return nt_xent(first, second, temperature=temperature), {"accuracy": accuracy}

    return loss


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
      second: of the other, `[row, feature]`.
      temperature: t, above 0.

    Raises:
      ValueError: the shapes differ or have no row, or `temperature` is not above 0.

    Source: Chen et al. (ICML 2020), equation 1.
    """
    if first.ndim != 2 or first.shape != second.shape or 0 in first.shape:
        raise ValueError(
            f"first, second: shapes {first.shape} and {second.shape}; accepted are two of "
            "[row, feature], none 0"
        )
    _check_temperature(temperature)
    scaled = _similarity(first, second) / temperature
    own = scaled[jnp.arange(len(scaled)), _partner(len(first))]
    return jnp.mean(jax.nn.logsumexp(scaled, axis=1) - own)


def init_projection(
    key: Key[Array, ""], features: int, *, width: int = 128
) -> dict[str, Float[Array, "..."]]:
    """Return the parameters of `project`, float32, for an encoder of so many features.

    Args:
      key: consumed.
      features: of the encoder; the hidden layer has as many.
      width: of the embeddings.

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
    return jax.nn.relu(features @ params["hidden"] + params["bias"]) @ params["out"]


def _similarity(first: Array, second: Array) -> Array:
    """Return the cosines of all pairs of embeddings, -inf of each with itself."""
    both = jnp.concatenate([first, second])
    square = jnp.sum(both**2, axis=1, keepdims=True)
    # The gradient of the norm of an embedding of zeros would be NaN.
    unit_length = both / jnp.sqrt(jnp.maximum(square, jnp.finfo(both.dtype).tiny))
    cosine = jnp.matmul(unit_length, unit_length.T, precision="highest")
    return jnp.where(jnp.eye(len(both), dtype=bool), -jnp.inf, cosine)


def _partner(rows: int) -> Array:
    return (jnp.arange(2 * rows) + rows) % (2 * rows)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: accepted are numbers above 0")
