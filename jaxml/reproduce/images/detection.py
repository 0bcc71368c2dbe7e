"""All scores of the rows of one training set under the network trained on it."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxml import backdoor
from jaxml.backdoor import baselines
from jaxml.output.stages import Arrays
from jaxml.sharding import map_batches

# Name -> title, and what its seconds hold besides its own.
METHODS = {
    "spc": ("SPC", ()),
    "mspc": ("MSPC", ()),
    "strip": ("STRIP", ()),
    "sd_fct": ("SD-FCT", ()),
    "activation_clustering": ("AC", ("features",)),
    "spectral_signature": ("SS", ("features",)),
    "ibd_psc": ("IBD-PSC", ()),
    "flare": ("FLARE", ("features",)),
    "abl": ("ABL", ("early",)),
    "loss": ("loss", ("features",)),
    "class_split": ("class split", ("features",)),
    "class_split_flare": ("class split, FLARE", ("features",)),
    "ensemble": (
        "ensemble",
        ("features", "loss", "flare", "class_split", "class_split_flare"),
    ),
    "cognitive_distillation": ("CD", ()),
}
# Of the ensemble: all of them need one pass of the trained network.
MEMBERS = ("loss", "flare", "class_split", "class_split_flare")
# IBD-PSC: the factor of gain and offset, and how many depths in a row.
_AMPLIFIED = 1.5
_LEVELS = 5
_NORM_EPSILON = 1e-5


class RowFeatures(NamedTuple):
    """What one pass of the network gives of each row.

    Attributes:
      logits: `[row, class]`.
      pooled: activations before the last layer, `[row, feature]`.
      likelihoods: `baselines.activation_likelihood` of each batch normalisation,
        `[row, layer]`.
    """

    logits: Float[Array, "row class"]
    pooled: Float[Array, "row feature"]
    likelihoods: Float[Array, "row layer"]


def detect(
    key: Key[Array, ""],
    model: nn.Module,
    variables: PyTree,
    images: Float[Array, "row height width channel"],
    labels: Int[Array, " row"],
    *,
    losses: Float[Array, "epoch row"],
    clean: tuple[Array, Array],
    classes: int,
    config: backdoor.IdentifyConfig,
    blends: int,
    distil: bool,
) -> Arrays:
    """Return "score/NAME" `[row]` and "seconds/NAME" of every method, and the "mask" of MSPC.

    Also the classes that the network gives the rows, "predicted" `[row]`. One program serves all
    variables of a model.

    Args:
      key: of the methods that draw.
      model: `ResNet18`, whose inputs of the normalisations can be seen.
      variables: as trained on these rows.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: as trained on, `[row]`.
      losses: of the rows in early epochs, `[epoch, row]`.
      clean: a few images and labels that were not trained on, for IBD-PSC's depth.
      classes: how many.
      config: of MSPC.
      blends: of STRIP.
      distil: whether to run cognitive distillation, which is slow.
    """
    scores, seconds = {}, {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = jax.block_until_ready(call())
        seconds[name] = time.perf_counter() - start
        return result

    def score(name: str, call: Callable[[], Any]) -> None:
        scores[name] = timed(name, call)

    key_strip, key_sd_fct, key_distil = jax.random.split(key, 3)
    logits_fn, features_fn = network(model, variables), Partial(_pooled(model), variables)
    score("spc", lambda: backdoor.spc(logits_fn, images))
    identified = timed("mspc", lambda: backdoor.identify(logits_fn, images, config=config))
    scores["mspc"] = identified.score
    score("strip", lambda: baselines.strip(key_strip, logits_fn, images, blends=blends))
    score("sd_fct", lambda: baselines.sd_fct(key_sd_fct, features_fn, images))
    score("ibd_psc", lambda: _ibd_psc(model, variables, images, *clean))
    features = timed("features", lambda: row_features(variables, images, model=model))
    pooled, likelihoods = features.pooled, features.likelihoods
    for name in ("activation_clustering", "spectral_signature"):
        call = functools.partial(getattr(baselines, name), pooled, labels, classes=classes)
        score(name, call)
    score("flare", lambda: baselines.flare(likelihoods))
    score("abl", lambda: baselines.abl(losses))
    loss = optax.softmax_cross_entropy_with_integer_labels
    # A row whose trigger was learnt fits better than most others where training ended early.
    score("loss", lambda: -loss(features.logits, labels))
    split = functools.partial(backdoor.class_split, classes=classes)
    score("class_split", lambda: split(pooled, labels, scores["loss"], tied=False))
    score("class_split_flare", lambda: split(likelihoods, labels, scores["loss"]))
    score("ensemble", lambda: backdoor.combine_scores({name: scores[name] for name in MEMBERS}))
    if distil:
        distillation = baselines.cognitive_distillation
        score("cognitive_distillation", lambda: distillation(key_distil, logits_fn, images))
    return {
        "mask": np.asarray(identified.mask),
        "predicted": np.asarray(jnp.argmax(features.logits, axis=-1)),
        **{f"score/{name}": np.asarray(value) for name, value in scores.items()},
        **{f"seconds/{name}": np.asarray(value) for name, value in seconds.items()},
    }


def network(model: nn.Module, variables: PyTree) -> Partial:
    """Return images to logits, as the methods take it: one program serves all variables."""
    return Partial(_logits(model), variables)


@functools.partial(jax.jit, static_argnames=("model", "batch_size"))
def predict(
    variables: PyTree,
    images: Float[Array, "row height width channel"],
    *,
    model: nn.Module,
    batch_size: int = 500,
) -> Float[Array, "row class"]:
    """Return logits of all rows, `batch_size` of them at a time.

    Args:
      variables: of `model`.
      images: `[row, height, width, channel]`, in [0, 1].
      model: such as `ResNet18`.
      batch_size: rows at a time.

    Returns:
      Logits `[row, class]`.
    """
    return map_batches(network(model, variables), images, batch_size=batch_size)


@functools.partial(jax.jit, static_argnames=("model", "batch_size"))
def row_features(
    variables: PyTree,
    images: Float[Array, "row height width channel"],
    *,
    model: nn.Module,
    batch_size: int = 500,
) -> RowFeatures:
    """Return logits, pooled activations and likelihoods of all rows by one pass.

    Args:
      variables: of `model`.
      images: `[row, height, width, channel]`, in [0, 1].
      model: `ResNet18`, which names layer k's statistics `norm_k` and its input `input_k`.
      batch_size: rows at a time.
    """
    stats = variables["batch_stats"]

    def of_batch(images):
        output: Any = model.apply(variables, images, mutable=["intermediates"])
        (logits, pooled), state = output
        inputs: Mapping[str, Any] = state["intermediates"]
        likelihoods = [
            baselines.activation_likelihood(
                inputs[name.replace("norm", "input")][0],
                stats[name]["mean"],
                stats[name]["var"] + _NORM_EPSILON,
            )
            for name in sorted(stats)
        ]
        return RowFeatures(logits, pooled, jnp.stack(likelihoods, axis=1))

    return map_batches(of_batch, images, batch_size=batch_size)


def _ibd_psc(model, variables, images, clean_images, clean_labels):
    depth = len(variables["batch_stats"])
    amplified_fn = Partial(_amplified_logits(model), variables)
    levels = jnp.arange(1, depth + 1)
    first = baselines.ibd_psc_level(amplified_fn, clean_images, clean_labels, levels)
    used = jnp.minimum(first + jnp.arange(_LEVELS), depth)
    return baselines.ibd_psc(network(model, variables), amplified_fn, images, used)


# Functions of the variables, kept as compiled programs are known by these objects.
@functools.lru_cache(maxsize=32)
def _logits(model: nn.Module) -> Callable[[PyTree, Array], Array]:
    apply: Any = model.apply
    return lambda variables, images: apply(variables, images)[0]


@functools.lru_cache(maxsize=32)
def _pooled(model: nn.Module) -> Callable[[PyTree, Array], Array]:
    apply: Any = model.apply
    return lambda variables, images: apply(variables, images)[1]


@functools.lru_cache(maxsize=32)
def _amplified_logits(model: nn.Module) -> Callable[[PyTree, Array, Array], Array]:
    apply: Any = model.apply
    return lambda variables, level, images: apply(_amplified(variables, level), images)[0]


def _amplified(variables, level):
    """Return variables with gain and offset of the last `level` normalisations amplified."""
    params = dict(variables["params"])
    norms = sorted(variables["batch_stats"])
    for i, name in enumerate(norms):
        factor = lambda x, i=i: jnp.where(i >= len(norms) - level, _AMPLIFIED, 1).astype(x.dtype)
        params[name] = jax.tree.map(lambda x, factor=factor: x * factor(x), params[name])
    return {**variables, "params": params}
