"""What the stages of the study of backdoors compute: rows scored, and networks without some."""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from jaxml.backdoor import IdentifyConfig
from jaxml.data.images import ImageSet
from jaxml.models.classifier import unit_images
from jaxml.output.stages import Arrays, flat_arrays
from jaxml.reproduce.backdoor.report import Case
from jaxml.reproduce.images.classifier import train_classifier
from jaxml.reproduce.images.detection import detect, predict
from jaxml.reproduce.images.poisoning import accuracy_and_success, poisoned_set, stored

ATTACKS = ("badnets", "blend", "trojan", "label_consistent", "wanet", "all_to_all")
# The rule of this attack builds on the classes, and is learnt after them.
EPOCHS_FACTOR = {"all_to_all": 2}
# Shares of a training at which its rate falls to a tenth.
DECAY_AT = (0.5, 0.75)
# Epochs whose losses ABL takes.
EARLY = 3
# Share of the rows that the ensemble removes: 1.5 times the higher ratio of poison.
REMOVED = 0.15
# Test images that IBD-PSC may see.
CLEAN = 100


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of a run.

    Attributes:
      rows: training images at most.
      test_rows: test images at most.
      attacks: of `ATTACKS`.
      ratios: shares of the rows that are poisoned; for "label_consistent" `OF_CLASS` times this
        share of one class, half as many with ten classes.
      width: of the network.
      blocks: of each of its stages.
      epochs: of each training, times the `EPOCHS_FACTOR` of the attack.
      batch_size: of the training.
      repeats: networks, poisoned rows and triggers for each attack.
      retrain: whether a network is trained again without the rows removed.
      blends: of STRIP.
      distil: whether cognitive distillation is run.
      identify: settings of MSPC.
    """

    rows: int
    test_rows: int
    epochs: int
    batch_size: int
    attacks: tuple[str, ...] = ATTACKS
    ratios: tuple[float, ...] = (0.1, 0.05)
    width: int = 8
    blocks: int = 2
    repeats: int = 1
    retrain: bool = True
    blends: int = 64
    distil: bool = False
    identify: IdentifyConfig = IdentifyConfig()  # noqa: RUF009


@dataclasses.dataclass(frozen=True)
class Study:
    """What all trials share."""

    data: ImageSet
    model: Any
    scale: Scale


@dataclasses.dataclass(frozen=True)
class Trial:
    """One attack in one repeat.

    Attributes:
      study: data, model and scale.
      case: attack and ratio.
      name: of its stages.
      inputs: what its stages depend on.
      key: of all that it draws.
      clean_fn: network trained without poison, for the label-consistent attack.
      say: shows what is being done.
    """

    study: Study
    case: Case
    name: str
    inputs: dict[str, Any]
    key: Array
    clean_fn: Callable[[Array], Array] | None
    say: Callable[[str], None]


def scored(trial: Trial) -> Arrays:
    """Return truth, scores and accuracies of one attack."""
    data, model, scale = trial.study.data, trial.study.model, trial.study.scale
    trial.say("poisoning")
    attacked = _attacked(trial)
    trial.say("training")
    every_row = np.arange(len(attacked.labels))
    trained = _trained(trial, attacked, every_row, early=min(EARLY, scale.epochs))
    trial.say("scoring")
    clean_images = unit_images(jnp.asarray(data.test_images[:CLEAN]))
    arrays = detect(
        attacked.key,
        model,
        trained.variables,
        unit_images(attacked.pixels),
        attacked.labels,
        losses=jnp.asarray(trained.early_losses),
        clean=(clean_images, jnp.asarray(data.test_labels[:CLEAN], int)),
        classes=model.classes,
        config=scale.identify,
        blends=scale.blends,
        distil=scale.distil,
    )
    arrays |= {
        "is_poisoned": attacked.is_poisoned,
        "before": _measured(trial, attacked, trained.variables),
        "fitted": _fitted(arrays["predicted"], attacked),
        "seconds/early": np.asarray(trained.early_seconds),
        "removed/mspc": arrays["score/mspc"] > 0,
        "removed/ensemble": _highest(arrays["score/ensemble"], REMOVED),
    }
    if trial.case.attack == "none":
        arrays |= flat_arrays("variables", trained.variables)
    return arrays


def retrained(trial: Trial, removed: dict[str, np.ndarray]) -> Arrays:
    """Return accuracy and attack success rate of networks trained without the rows removed."""
    attacked = _attacked(trial)

    def after(name: str, flags: np.ndarray) -> np.ndarray:
        trial.say(f"training without the rows of {name}")
        # Filled up to the old number: all trainings then have as many steps, and one program.
        rows = np.resize(np.flatnonzero(~flags), len(flags))
        return _measured(trial, attacked, _trained(trial, attacked, rows, early=0).variables)

    return {
        f"after/{name}": after(name, flags)
        for name, flags in removed.items()
        if flags.any() and not flags.all()
    }


@dataclasses.dataclass(frozen=True)
class Attacked:
    """A training set after an attack.

    Attributes:
      pixels: `[row, height, width, channel]`, uint8.
      labels: `[row]`.
      is_poisoned: `[row]`.
      trigger: for test time, None without an attack.
      key_train: of the trainings on it.
      key: of the scores.
    """

    pixels: Array
    labels: Array
    is_poisoned: np.ndarray
    trigger: Callable[[Array], Array] | None
    key_train: Array
    key: Array


def _attacked(trial: Trial) -> Attacked:
    data, (attack, ratio) = trial.study.data, trial.case
    key_poison, key_train, key = jax.random.split(trial.key, 3)
    images, labels = unit_images(jnp.asarray(data.train_images)), jnp.asarray(data.train_labels)
    if attack == "none":
        nobody = np.zeros(len(labels), bool)
        return Attacked(stored(images), labels, nobody, None, key_train, key)
    poisoned = poisoned_set(
        key_poison,
        attack,
        images,
        labels,
        ratio=ratio,
        classes=trial.study.model.classes,
        clean_fn=trial.clean_fn,
    )
    return Attacked(
        stored(poisoned.images),
        poisoned.labels,
        np.asarray(poisoned.is_poisoned),
        poisoned.trigger,
        key_train,
        key,
    )


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network trained on an attacked set.

    Attributes:
      variables: for evaluation.
      early_losses: of all rows after each early epoch, `[epoch, row]`.
      early_seconds: that the early epochs took.
    """

    variables: PyTree
    early_losses: np.ndarray
    early_seconds: float


def _trained(trial: Trial, attacked: Attacked, rows: np.ndarray, *, early: int) -> Trained:
    """Train a network on some rows, and keep the losses of the early epochs."""
    scale, model = trial.study.scale, trial.study.model
    pixels, labels = attacked.pixels[rows], attacked.labels[rows]
    epochs = scale.epochs * EPOCHS_FACTOR.get(trial.case.attack, 1)
    batch_size = min(scale.batch_size, len(labels))
    steps = epochs * len(labels) // batch_size
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:

        def until(step: int) -> PyTree:
            # In half steps, as shares are rounded down: the same decays for any number of steps.
            decay_at = [(int(steps * share) + 0.5) / step for share in DECAY_AT]
            return train_classifier(
                attacked.key_train,
                model,
                pixels,
                labels,
                steps=step,
                batch_size=batch_size,
                decay_at=decay_at,
                folder=Path(folder) if early else None,
            )

        def losses_after(epoch: int) -> np.ndarray:
            variables = until(epoch * len(labels) // batch_size)
            logits = predict(variables, unit_images(pixels), model=model)
            return np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

        # Training goes on from the checkpoint of the epoch before.
        losses = np.array([losses_after(epoch) for epoch in range(1, early + 1)])
        seconds = time.perf_counter() - start if early else 0.0
        return Trained(until(steps), losses, seconds)


def _measured(trial: Trial, attacked: Attacked, variables: PyTree) -> np.ndarray:
    """Return accuracy and attack success rate on the test images, the latter NaN without one."""
    data = trial.study.data
    return accuracy_and_success(
        functools.partial(predict, variables, model=trial.study.model),
        attacked.trigger,
        unit_images(jnp.asarray(data.test_images)),
        jnp.asarray(data.test_labels),
        trial.case.attack,
    )


def _fitted(predicted: np.ndarray, attacked: Attacked) -> np.ndarray:
    """Return the shares of clean and of poisoned training rows that get their given label."""
    hit = predicted == np.asarray(attacked.labels)
    poisoned = attacked.is_poisoned
    return np.array([hit[kind].mean() if kind.any() else np.nan for kind in (~poisoned, poisoned)])


def _highest(score, share: float) -> np.ndarray:
    """Return flags of the share of rows that score highest."""
    flags = np.zeros(len(score), bool)
    flags[np.argsort(-score, kind="stable")[: round(share * len(score))]] = True
    return flags
