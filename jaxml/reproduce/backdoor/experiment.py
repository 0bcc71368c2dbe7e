"""Backdoors in image sets: which method finds the poisoned rows, and what removing them does."""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxml.backdoor import IdentifyConfig
from jaxml.data.images import ImageSet, load_images
from jaxml.models.classifier import unit_images
from jaxml.models.resnet import ResNet18
from jaxml.output.report import Report
from jaxml.output.stages import Arrays, Stages, flat_arrays, tree_of
from jaxml.reproduce.backdoor.report import REMOVERS, report
from jaxml.reproduce.images.classifier import normalised_resnet, train_classifier
from jaxml.reproduce.images.detection import detect, network, predict
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


SCALES = {
    "quick": Scale(
        rows=1000,
        test_rows=500,
        epochs=10,
        batch_size=32,
        blocks=1,
        attacks=("badnets",),
        ratios=(0.1,),
        retrain=False,
        blends=8,
        identify=IdentifyConfig(rounds=1, steps=120),
    ),
    "standard": Scale(
        rows=10_000,
        test_rows=10_000,
        epochs=8,
        batch_size=64,
        blends=16,
        identify=IdentifyConfig(rounds=2, steps=150),
    ),
    "paper": Scale(
        rows=50_000,
        test_rows=10_000,
        epochs=182,
        batch_size=100,
        width=64,
        repeats=3,
        distil=True,
    ),
}


def experiment(settings, stages: Stages, progress) -> Report:
    """Poison a training set in several ways, score its rows by all methods, and train again.

    All attacks share one set of settings, and no method is told which rows are poisoned.
    """
    scale = SCALES[settings.scale]
    cases = [("none", 0.0), *((a, r) for r in scale.ratios for a in scale.attacks)]
    bar = progress.add_task(
        "backdoor: loading", total=scale.repeats * len(cases) * (1 + scale.retrain)
    )
    data = load_images(settings.data, rows=scale.rows, test_rows=scale.test_rows)
    arrays = ("train_images", "train_labels", "test_images", "test_labels")
    inputs = {
        "scale": dataclasses.asdict(scale),
        "seed": settings.seed,
        **{name: getattr(data, name) for name in arrays},
    }
    model = _model(data, scale)
    found: dict[tuple[str, float], list[Arrays]] = {case: [] for case in cases}
    clean_fn: list[Any] = [None] * scale.repeats

    def run(case, repeat, suffix, what, compute) -> Arrays:
        """Return a stage's arrays; `compute` gets a key of the case, and what shows progress."""
        attack, ratio = case
        number = repeat * len(cases) + cases.index(case)
        key = jax.random.fold_in(jax.random.key(settings.seed), number)
        title = f"backdoor: {attack} {ratio:.0%}, repeat {repeat + 1} of {scale.repeats}"
        say = lambda text: progress.update(bar, description=f"{title}, {text}")
        say("reading")
        name = f"{attack}-{ratio:g}-{repeat}{suffix}"
        depends = {**inputs, "case": [attack, ratio, repeat], **what}
        result = stages.run(name, depends, functools.partial(compute, key, say=say))
        progress.update(bar, advance=1)
        return result

    order = [(repeat, case) for repeat in range(scale.repeats) for case in cases]
    for repeat, case in order:
        compute = functools.partial(_case, *case, data, model, scale, clean_fn=clean_fn[repeat])
        found[case].append(run(case, repeat, "", {}, compute))
        if case[0] == "none":
            clean_fn[repeat] = network(model, tree_of("variables", found[case][repeat]))
    # Trainings without the rows removed come last: all scores are known and kept by then.
    for repeat, case in order if scale.retrain else ():
        result = found[case][repeat]
        removed = {name: result[f"removed/{name}"] for name in REMOVERS}
        compute = functools.partial(
            _retrained, *case, removed, data, model, scale, clean_fn=clean_fn[repeat]
        )
        found[case][repeat] = result | run(case, repeat, "-retrained", removed, compute)
    progress.update(bar, description="backdoor: done")
    return report(data.source, found, removed=REMOVED)


def _model(data: ImageSet, scale: Scale) -> ResNet18:
    classes = len(data.classes)
    return normalised_resnet(data.train_images, classes, scale.width, blocks=scale.blocks)


class Attacked(NamedTuple):
    """A training set after an attack, and what measures networks trained on it.

    Attributes:
      pixels: `[row, height, width, channel]`, uint8.
      labels: `[row]`.
      is_poisoned: `[row]`.
      train: pixels, labels and `early` to variables, losses and seconds, see `_train`.
      measure: variables to accuracy and attack success rate.
      key: for what follows.
    """

    pixels: Array
    labels: Array
    is_poisoned: np.ndarray
    train: Callable[..., Any]
    measure: Callable[[Any], np.ndarray]
    key: Array


def _attacked(key, attack, ratio, data: ImageSet, model, scale: Scale, clean_fn) -> Attacked:
    key_poison, key_train, key = jax.random.split(key, 3)
    images, labels = unit_images(jnp.asarray(data.train_images)), jnp.asarray(data.train_labels)
    is_poisoned, trigger = np.zeros(len(labels), bool), None
    if attack != "none":
        poisoned = poisoned_set(key_poison, attack, images, labels, ratio, model.classes, clean_fn)
        images, labels, trigger = poisoned.images, poisoned.labels, poisoned.trigger
        is_poisoned = np.asarray(poisoned.is_poisoned)
    epochs = scale.epochs * EPOCHS_FACTOR.get(attack, 1)
    settings = dataclasses.replace(scale, epochs=epochs)
    train = functools.partial(_train, key_train, model, scale=settings)
    measure = functools.partial(_measure, model, data, trigger, attack)
    return Attacked(stored(images), labels, is_poisoned, train, measure, key)


def _case(attack, ratio, data: ImageSet, model, scale: Scale, key, *, clean_fn, say) -> Arrays:
    """Return truth, scores and accuracies of one attack."""
    say("poisoning")
    attacked = _attacked(key, attack, ratio, data, model, scale, clean_fn)
    say("training")
    variables, losses, seconds = attacked.train(
        attacked.pixels, attacked.labels, early=min(EARLY, scale.epochs)
    )
    say("scoring")
    clean = unit_images(jnp.asarray(data.test_images[:CLEAN]))
    found = detect(
        attacked.key,
        model,
        variables,
        unit_images(attacked.pixels),
        attacked.labels,
        losses=jnp.asarray(losses),
        clean=(clean, jnp.asarray(data.test_labels[:CLEAN], int)),
        classes=model.classes,
        config=scale.identify,
        blends=scale.blends,
        distil=scale.distil,
    )
    found |= {
        "is_poisoned": attacked.is_poisoned,
        "before": attacked.measure(variables),
        "fitted": _fitted(found["predicted"], attacked),
        "seconds/early": np.asarray(seconds),
        "removed/mspc": found["score/mspc"] > 0,
        "removed/ensemble": _highest(found["score/ensemble"], REMOVED),
    }
    if attack == "none":
        found |= flat_arrays("variables", variables)
    return found


def _retrained(
    attack, ratio, removed, data: ImageSet, model, scale: Scale, key, *, clean_fn, say
) -> Arrays:
    """Return accuracy and attack success rate of networks trained without the rows removed."""
    attacked = _attacked(key, attack, ratio, data, model, scale, clean_fn)
    found = {}
    for name, flags in removed.items():
        if not flags.any() or flags.all():
            continue
        say(f"training without the rows of {name}")
        # Filled up to the old number: all trainings then have as many steps, and one program.
        rows = np.resize(np.flatnonzero(~flags), len(flags))
        trained = attacked.train(attacked.pixels[rows], attacked.labels[rows], early=0)
        found[f"after/{name}"] = attacked.measure(trained[0])
    return found


def _train(key, model, pixels, labels, *, scale: Scale, early: int):
    """Return variables, the losses of all rows after each early epoch, and the seconds of these."""
    batch_size = min(scale.batch_size, len(labels))
    steps = scale.epochs * len(labels) // batch_size
    losses, start, seconds = [], time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:

        def until(step):
            # In half steps, as shares are rounded down: the same decays for any number of steps.
            decay_at = [(int(steps * share) + 0.5) / step for share in DECAY_AT]
            return train_classifier(
                key,
                model,
                pixels,
                labels,
                steps=step,
                batch_size=batch_size,
                decay_at=decay_at,
                folder=Path(folder) if early else None,
            )

        # Training goes on from the checkpoint of the epoch before.
        for epoch in range(1, early + 1):
            variables = until(epoch * len(labels) // batch_size)
            logits = predict(variables, unit_images(pixels), model=model)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            losses.append(np.asarray(loss))
            seconds = time.perf_counter() - start
        return until(steps), np.array(losses), seconds


def _measure(model, data: ImageSet, trigger, attack, variables) -> np.ndarray:
    """Return accuracy and attack success rate on the test images, the latter NaN without one."""
    images, labels = unit_images(jnp.asarray(data.test_images)), jnp.asarray(data.test_labels)
    logits_fn = functools.partial(predict, variables, model=model)
    return accuracy_and_success(logits_fn, trigger, images, labels, attack)


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
