"""Training of image classifiers, one or several of a shape in one program."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped, UInt8

from jaxml import checks
from jaxml.augment import Augment
from jaxml.models.classifier import classification_loss, population_statistics, unit_images
from jaxml.models.resnet import ResNet18
from jaxml.training import Progress, fit


def train_classifier(
    key: Key[Array, ""],
    model: nn.Module,
    images: UInt8[Array, "*models row height width channel"],
    labels: Int[Array, "*models row"] | Float[Array, "row class"],
    *,
    steps: int,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    decay_at: Sequence[float] = (0.5, 0.75),
    params: PyTree | None = None,
    augment: Augment | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, PyTree]:
    """Return the variables of a classifier trained by SGD, for evaluation.

    Momentum 0.9, weight decay 5e-4, and a learning rate that falls to a tenth at each of
    `decay_at`. With a leading axis `models`, so many networks, each on its own copy of the
    data, are trained side by side in one program: they differ in their parameters at the start
    and share the order of rows. What is compiled is kept for the same model, augmentation and
    shapes of a batch.

    Args:
      key: of the parameters and the order of rows; consumed.
      model: such as `ResNet18` or `ViT`.
      images: `[row, height, width, channel]` or `[models, row, height, width, channel]`.
      labels: `[row]` or `[models, row]`; for one network also probabilities `[row, class]`.
      steps: number of batches.
      batch_size: rows in a batch.
      learning_rate: at the start.
      decay_at: shares of the steps.
      params: to start from, of one network; random ones by default.
      augment: applied to each image of a batch, see `jaxml.augment`; keep the function, as a
        compiled step is known by it.
      folder: of checkpoints; a run that was ended goes on from there.
      progress: see `jaxml.training.fit`.

    Returns:
      Variables of `model`, with the axis `models` in front where the data has it.

    Raises:
      ValueError: `params` for several networks; see `jaxml.training.fit` for the rest.
    """
    key_init, key_fit = jax.random.split(key)
    several = images.ndim == 5
    if params is not None and several:
        accepted = "[row, height, width, channel], of one network, where params are given"
        raise checks.refused("images", images, accepted)
    if several:
        params = jax.vmap(functools.partial(random_params, model=model))(
            jax.random.split(key_init, len(images)), images[:, :1]
        )
        # Batches are drawn along the leading axis.
        data = {"images": jnp.swapaxes(images, 0, 1), "labels": jnp.swapaxes(labels, 0, 1)}
    else:
        if params is None:
            params = random_params(key_init, images[:1], model=model)
        data = {"images": images, "labels": labels}
    trained = fit(
        key_fit,
        _loss(model, several, augment),
        params,
        data,
        optimizer=_sgd(learning_rate, tuple(int(steps * share) for share in decay_at)),
        steps=steps,
        batch_size=batch_size,
        folder=folder,
        progress=progress,
    ).params
    if not several:
        return population_statistics(model, trained, images, batch_size=batch_size)
    one = lambda i: population_statistics(
        model, jax.tree.map(lambda leaf: leaf[i], trained), images[i], batch_size=batch_size
    )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(one, range(len(images))))


@functools.partial(jax.jit, static_argnames="model")
def random_params(
    key: Key[Array, ""], images: Shaped[Array, "row height width channel"], *, model: nn.Module
) -> PyTree:
    """Return parameters of a model to start from.

    Args:
      key: of the parameters; consumed.
      images: of the shape to train on; their values do not matter.
      model: such as `ResNet18` or `ViT`.
    """
    return model.init(key, unit_images(images))["params"]


def normalised_resnet(
    pixels: np.ndarray, classes: int, width: int, *, stem: Any = "cifar", blocks: int = 2
) -> ResNet18:
    """Return a ResNet that normalises by mean and deviation of these images.

    Args:
      pixels: `[row, height, width, channel]`, bytes.
      classes: number of logits.
      width: of the network.
      stem: of the network; images below 32 pixels a side get "cifar".
      blocks: of each of its stages, two in ResNet-18.
    """
    if min(pixels.shape[1:3]) < 32:
        stem = "cifar"
    # float64: a float32 sum of this many pixels stands still.
    unit = pixels.reshape(-1, pixels.shape[-1]) / 255
    mean, std = (tuple(np.round(moment, 4).tolist()) for moment in (unit.mean(0), unit.std(0)))
    return ResNet18(classes=classes, width=width, blocks=blocks, stem=stem, mean=mean, std=std)


# Kept, as `fit` knows a compiled step by the objects of the loss and the optimizer's update.
@functools.lru_cache(maxsize=32)
def _loss(model: nn.Module, several: bool, augment: Augment | None) -> Callable[..., Any]:
    def one(params, batch, key):
        images = unit_images(batch["images"])
        if augment is not None:
            images = jax.vmap(augment)(jax.random.split(key, len(images)), images)
        return classification_loss(model, params, images, batch["labels"])

    def loss(params, batch, key):
        if not several:
            return one(params, batch, key)
        losses, metrics = jax.vmap(one, in_axes=(0, 1, None))(params, batch, key)
        # The gradient of a sum: each network gets that of its own loss.
        return jnp.sum(losses), jax.tree.map(jnp.mean, metrics)

    return loss


class _Rate(NamedTuple):
    """Learning rate at the start, and the numbers of the steps at which it falls to a tenth."""

    first: Float[Array, ""]
    decays: Int[Array, " decay"]
    step: Int[Array, ""]


_DIRECTION = optax.chain(optax.add_decayed_weights(5e-4), optax.trace(decay=0.9))


# The rate is part of the state, so that one compiled step serves trainings of any length.
def _sgd(learning_rate: float, decays: tuple[int, ...]) -> optax.GradientTransformation:
    def init(params):
        # One that is never reached, as orbax keeps no empty array.
        steps = jnp.int32((*decays, 2**31 - 1))
        rate = _Rate(jnp.float32(learning_rate), steps, jnp.int32(0))
        return _DIRECTION.init(params), rate

    return optax.GradientTransformation(init, _sgd_update)


def _sgd_update(updates, state, params=None):
    direction, rate = state
    updates, direction = _DIRECTION.update(updates, direction, params)
    fallen = jnp.sum(rate.step >= rate.decays)
    scale = -rate.first * 0.1**fallen
    updates = jax.tree.map(lambda leaf: scale.astype(leaf.dtype) * leaf, updates)
    return updates, (direction, rate._replace(step=rate.step + 1))
