"""The stages of the experiment on self-training: encoder, teacher, student, removal."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, PyTree

from jaxml import augment, backdoor, selftraining
from jaxml.models.classifier import population_statistics, unit_images
from jaxml.output.stages import Arrays, flat_arrays, tree_of
from jaxml.reproduce.images.classifier import random_params, train_classifier
from jaxml.reproduce.images.detection import network, predict, row_features
from jaxml.reproduce.images.poisoning import TARGET, accuracy_and_success, poisoned_set, stored
from jaxml.training import fit

# From none to too strong; the study is not told which is which.
AUGMENTATIONS: Mapping[str, augment.Augment] = {
    "flip and crop": augment.flip_crop,
    "resized crop": augment.compose(
        functools.partial(augment.resized_crop, area=(0.2, 1.0)), augment.horizontal_flip
    ),
    "color jitter, gray": augment.compose(
        functools.partial(augment.color_jitter, probability=0.8), augment.grayscale
    ),
    "blur": augment.gaussian_blur,
    "rotation": augment.rotate,
    "affine": augment.affine,
    "cutout": augment.cutout,
    "RandAugment": augment.rand_augment,
    "SimCLR's": augment.simclr_view,
    "crop, rotation, blur": augment.compose(
        augment.flip_crop, augment.rotate, augment.gaussian_blur
    ),
}
# What a network may lose on a class in the middle; a student wins it back from more images.
TOLERANCE = 0.1
# Share of the labelled rows that the teacher is not trained on, for the choice of augmentation.
HELD_OUT = 0.1


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of a run.

    Attributes:
      rows: labelled images at most.
      pool_rows: unlabelled images of the same set at most.
      outside_rows: unlabelled images from elsewhere at most.
      test_rows: test images at most.
      study_rows: test images of the study of augmentations.
      attacks: names of `jaxml.backdoor.attacks`.
      outside: attacks whose students see the pool from elsewhere too; that is done once, in the
        first repeat, as MSPC is.
      ratio: share of the labelled rows that are poisoned.
      width: of the ResNet.
      blocks: number in each stage of the ResNet.
      stem: of the ResNet; images below 32 pixels a side get "cifar".
      epochs: of the teacher.
      student_epochs: of a student.
      encoder_epochs: of SimCLR on the pool.
      batch_size: of all trainings.
      views: of each image for its pseudo-label.
      repeats: of the whole study.
      identify: settings of MSPC.
    """

    rows: int
    pool_rows: int
    test_rows: int
    epochs: int
    student_epochs: int
    encoder_epochs: int
    batch_size: int
    outside_rows: int = 10_000
    study_rows: int = 500
    attacks: tuple[str, ...] = ("badnets", "blend", "trojan", "label_consistent")
    outside: tuple[str, ...] = ("badnets",)
    ratio: float = 0.1
    width: int = 16
    blocks: int = 2
    stem: str = "imagenet"
    views: int = 8
    repeats: int = 1
    identify: backdoor.IdentifyConfig = backdoor.IdentifyConfig()  # noqa: RUF009


class Images(NamedTuple):
    """What all attacks start from: bytes, and labels where there are any.

    Attributes:
      train: images of the labelled set, `[row, height, width, channel]`.
      labels: of `train`, `[row]`.
      pool: unlabelled images of the same set.
      outside: unlabelled images from elsewhere, perhaps none.
      test: images for the rates, `[row, height, width, channel]`.
      test_labels: of `test`, `[row]`.
    """

    train: Array
    labels: Array
    pool: Array
    outside: Array
    test: Array
    test_labels: Array


class Setting(NamedTuple):
    """One attack, and what its stages share.

    Attributes:
      attack: name in `jaxml.backdoor.attacks`, or "none".
      images: of all attacks.
      model: network of teacher, student and encoder.
      scale: of the run.
      clean: arrays of the network trained without poison, which the label-consistent attack
        starts from; empty where that network itself is trained.
    """

    attack: str
    images: Images
    model: nn.Module
    scale: Scale
    clean: Arrays


def encoder(key: Array, setting: Setting, folder: Path) -> Arrays:
    """Train an encoder by SimCLR on the pool.

    Args:
      key: of the repeat.
      setting: that of no attack.
      folder: of the checkpoints.

    Returns:
      Parameters; "probe", the accuracies of linear probes before and after; "loss" and
      "accuracy" of each step.
    """
    images, model, scale = setting.images, setting.model, setting.scale
    key_init, key_head, key_fit = jax.random.split(key, 3)
    start = random_params(key_init, images.pool[:1], model=model)
    steps = max(1, scale.encoder_epochs * len(images.pool) // scale.batch_size)
    params = {
        "encoder": start,
        "head": selftraining.init_projection(key_head, start["head"]["kernel"].shape[0]),
    }
    trained = fit(
        key_fit,
        _encoder_loss(model),
        params,
        images.pool,
        optimizer=optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=1e-4),
        steps=steps,
        batch_size=min(scale.batch_size, len(images.pool)),
        folder=folder,
    )
    probe = functools.partial(_probe, setting)
    return {
        **flat_arrays("params", trained.params["encoder"]),
        "probe": np.array([probe(start), probe(trained.params["encoder"])]),
        "loss": trained.history["loss"],
        "accuracy": trained.history["accuracy"],
    }


def teacher(key: Array, setting: Setting, encoder: Arrays) -> Arrays:
    """Train a network on the poisoned rows, and study augmentations with it.

    Args:
      key: of the repeat.
      setting: of the attack.
      encoder: arrays of the encoder to start from, none for a random start.

    Returns:
      Variables and "rates"; of an attack also "choice/...", the fields of
      `AugmentationChoice`, and without an encoder "study", `[1 + augmentation, 2]`.
    """
    images, scale = setting.images, setting.scale
    poisoned, kept = _poisoned(key, setting)
    key_train, key_study = jax.random.split(jax.random.fold_in(key, 1))
    pixels, labels = stored(poisoned.images)[:kept], poisoned.labels[:kept]
    variables = _trained(key_train, setting, pixels, labels, scale.epochs, encoder)
    classifier = network(setting.model, variables)
    arrays = {
        **flat_arrays("variables", variables),
        "rates": _rates(setting, classifier, poisoned.trigger),
    }
    if setting.attack == "none":
        return arrays
    choice = selftraining.choose_augmentation(
        key_study,
        classifier,
        tuple(AUGMENTATIONS.values()),
        stored(poisoned.images)[kept:],
        poisoned.labels[kept:],
        classes=setting.model.classes,
        views=scale.views,
        tolerance=TOLERANCE,
    )
    names = "cost", "excess", "suspect", "is_proper", "is_visible", "chosen"
    arrays |= {f"choice/{name}": np.asarray(getattr(choice, name)) for name in names}
    if encoder:
        return arrays
    test = images.test[: scale.study_rows]
    truth = images.test_labels[: scale.study_rows]
    triggered = stored(poisoned.trigger(unit_images(test)))
    axes = []
    for number, view in enumerate((augment.identity, *AUGMENTATIONS.values())):
        views = scale.views if number else 1
        label = functools.partial(
            selftraining.pseudo_label, key_study, classifier, view, views=views
        )
        hit, hijacked = label(test).labels == truth, label(triggered).labels == TARGET
        axes.append((jnp.mean(hit), jnp.mean(hijacked, where=truth != TARGET)))
    return arrays | {"study": np.array(axes)}


def student(
    key: Array, setting: Setting, name: str, teacher: Arrays, encoder: Arrays, pool: Array
) -> Arrays:
    """Train a student on the labels of a teacher.

    Args:
      key: of the repeat.
      setting: of the attack.
      name: "vanilla" or "proposed".
      teacher: arrays of the stage.
      encoder: arrays of the encoder to start from, none for a random start.
      pool: unlabelled images.

    Returns:
      "rates" of the student, and "labels": how many labels of the labelled rows were true as it
      saw them, and how many the attack's.
    """
    images, model, scale = setting.images, setting.model, setting.scale
    poisoned, _ = _poisoned(key, setting)
    pixels = stored(poisoned.images)
    vanilla = name == "vanilla"
    chosen = int(teacher["choice/chosen"])
    view = augment.identity if vanilla or chosen < 0 else list(AUGMENTATIONS.values())[chosen]
    relabel = functools.partial(
        selftraining.pseudo_label,
        augment=view,
        views=1 if vanilla else scale.views,
        soft=not vanilla,
    )

    def train(key, seen, targets, weight):
        keep = np.flatnonzero(np.asarray(weight))
        variables = _trained(key, setting, seen[keep], targets[keep], scale.student_epochs, encoder)
        return network(model, variables)

    result = selftraining.self_train(
        jax.random.fold_in(key, 2),
        train,
        relabel,
        pixels,
        poisoned.labels,
        pool,
        classes=model.classes,
        labelled="kept" if vanilla else "refined",
        teacher=network(model, tree_of("variables", teacher)),
    )
    seen_labels = poisoned.labels if vanilla else result.labels[0].labels[: len(pixels)]
    bad = poisoned.is_poisoned
    labels = [
        jnp.mean(seen_labels == images.labels, where=~bad),
        jnp.mean(seen_labels == TARGET, where=bad & (images.labels != TARGET)),
    ]
    return {
        "rates": _rates(setting, result.student, poisoned.trigger),
        "labels": np.array(labels, float),
    }


def removal(key: Array, setting: Setting, teacher: Arrays) -> Arrays:
    """Train a network without the rows that MSPC flags.

    Args:
      key: of the repeat.
      setting: of the attack.
      teacher: arrays of the stage.

    Returns:
      "rates" of the network, and "flagged", the shares of poisoned and of clean rows.
    """
    model, scale = setting.model, setting.scale
    poisoned, _ = _poisoned(key, setting)
    pixels = stored(poisoned.images)
    logits_fn = network(model, tree_of("variables", teacher))
    identified = backdoor.identify(logits_fn, unit_images(pixels), config=scale.identify)
    flags, bad = np.asarray(identified.is_backdoor), np.asarray(poisoned.is_poisoned)
    rows = np.flatnonzero(~flags)
    if not len(rows):
        rows = np.arange(len(flags))
    rows = np.resize(rows, len(flags))
    key_train = jax.random.fold_in(key, 3)
    variables = _trained(key_train, setting, pixels[rows], poisoned.labels[rows], scale.epochs, {})
    return {
        "rates": _rates(setting, network(model, variables), poisoned.trigger),
        "flagged": np.array([flags[bad].mean(), flags[~bad].mean()]),
    }


def _poisoned(key: Array, setting: Setting) -> tuple[backdoor.attacks.Poisoned, int]:
    """Return the labelled set after the attack, and how many of its rows a teacher sees."""
    images = setting.images
    unit, labels = unit_images(images.train), images.labels
    kept = round((1 - HELD_OUT) * len(labels))
    if setting.attack == "none":
        nobody = jnp.zeros(len(labels), bool)
        nothing = backdoor.attacks.checkerboard_trigger(unit.shape[1:])
        return backdoor.attacks.Poisoned(unit, labels, nobody, nothing), kept
    clean = setting.clean
    clean_fn = network(setting.model, tree_of("variables", clean)) if clean else None
    key = jax.random.fold_in(key, 0)
    poisoned = poisoned_set(
        key,
        setting.attack,
        unit,
        labels,
        ratio=setting.scale.ratio,
        classes=setting.model.classes,
        clean_fn=clean_fn,
    )
    return poisoned, kept


def _rates(setting: Setting, classifier, trigger) -> np.ndarray:
    """Return accuracy and attack success rate on the test images, the latter NaN without one."""
    images, labels = unit_images(setting.images.test), setting.images.test_labels
    logits_fn = functools.partial(predict, classifier.args[0], model=setting.model)
    trigger = None if setting.attack == "none" else trigger
    return accuracy_and_success(logits_fn, trigger, images, labels, setting.attack)


def _probe(setting: Setting, params: PyTree) -> float:
    """Return the test accuracy of logistic regression on the features of an encoder."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, model, scale = setting.images, setting.model, setting.scale
    batch_size = min(scale.batch_size, len(images.pool))
    variables = population_statistics(model, params, images.pool, batch_size=batch_size)

    def features(rows):
        return np.asarray(row_features(variables, unit_images(rows), model=model).pooled)

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    classifier.fit(features(images.train), np.asarray(images.labels))
    return float(classifier.score(features(images.test), np.asarray(images.test_labels)))


def _trained(
    key: Array, setting: Setting, pixels, targets, epochs: float, encoder: Arrays
) -> PyTree:
    """Return the variables of a classifier trained on labels `[row]` or their probabilities."""
    rows, model = len(pixels), setting.model
    batch_size = min(setting.scale.batch_size, rows)
    # All as probabilities, so that one compiled step serves all trainings.
    if targets.ndim == 1:
        targets = jax.nn.one_hot(targets, model.classes, dtype=jnp.float32)
    # At a high rate what is pre-trained would be lost.
    start: dict[str, Any] = (
        {"params": tree_of("params", encoder), "learning_rate": 0.05} if encoder else {}
    )
    return train_classifier(
        key,
        model,
        pixels,
        targets,
        steps=max(1, round(epochs * rows / batch_size)),
        batch_size=batch_size,
        **start,
    )


# Kept, as compiled programs are known by these objects.
@functools.lru_cache(maxsize=8)
def _encoder_loss(model: nn.Module):
    """Return the loss of SimCLR of an encoder and a head."""

    def embed(params, views):
        apply: Any = model.apply
        variables = {"params": params["encoder"]}
        (_, pooled), _ = apply(variables, views, train=True, mutable=["batch_stats"])
        return selftraining.project(params["head"], pooled)

    return selftraining.simclr_loss(embed)
