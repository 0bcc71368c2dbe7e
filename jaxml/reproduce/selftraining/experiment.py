"""Self-training on a poisoned set: which pseudo-labels keep the backdoor, and which lose it."""

import contextlib
import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxml import backdoor
from jaxml.data.images import load_images, load_pool
from jaxml.files.errors import DataError
from jaxml.models.resnet import ResNet18
from jaxml.output.report import Report
from jaxml.output.stages import Arrays, Stages
from jaxml.reproduce.images.classifier import normalised_resnet
from jaxml.reproduce.selftraining import stages as work
from jaxml.reproduce.selftraining.report import report

SCALES = {
    "quick": work.Scale(
        rows=1000,
        pool_rows=400,
        outside_rows=0,
        test_rows=500,
        study_rows=200,
        epochs=10,
        student_epochs=6,
        encoder_epochs=4,
        batch_size=32,
        width=8,
        blocks=1,
        stem="cifar",
        attacks=("badnets",),
        identify=backdoor.IdentifyConfig(rounds=1, steps=120),
    ),
    "standard": work.Scale(
        rows=10_000,
        pool_rows=10_000,
        outside_rows=10_000,
        test_rows=10_000,
        study_rows=400,
        epochs=8,
        student_epochs=8,
        encoder_epochs=6,
        batch_size=64,
        views=16,
        attacks=("badnets", "blend", "trojan"),
        repeats=2,
        identify=backdoor.IdentifyConfig(rounds=1, steps=120),
    ),
    "paper": work.Scale(
        rows=10_000,
        pool_rows=40_000,
        test_rows=10_000,
        study_rows=5000,
        epochs=182,
        student_epochs=100,
        encoder_epochs=200,
        batch_size=128,
        attacks=("badnets", "blend", "trojan", "sig", "label_consistent"),
        outside=("badnets", "blend", "trojan", "sig", "label_consistent"),
        width=64,
        stem="cifar",
        repeats=3,
    ),
}


def experiment(settings, stages: Stages, progress) -> Report:
    """Poison a labelled set, and label a pool with the network trained on it in several ways.

    Args:
      settings: scale, seed and data of the run.
      stages: of the experiment.
      progress: of rich.

    Returns:
      The report.
    """
    scale = SCALES[settings.scale]
    bar = progress.add_task("self-training: loading", total=None)
    images, source, classes = _load(settings.data, scale)
    once = len(scale.attacks) + 2 * len(scale.outside) * (len(images.outside) > 0)
    progress.update(bar, total=scale.repeats * (2 + 5 * len(scale.attacks)) + once)
    model = _model(images.train, len(classes), scale)
    inputs = {
        **images._asdict(),
        "classes": classes,
        "scale": dataclasses.asdict(scale),
        "seed": settings.seed,
    }

    def depends(name, repeat):
        return {**inputs, "stage": [name, repeat]}

    def run(name, repeat, compute) -> Arrays:
        """Return a stage's arrays; `compute` gets the key of the repeat."""
        title = f"self-training: repeat {repeat + 1} of {scale.repeats}, {name.replace('-', ' ')}"
        progress.update(bar, description=title)
        key = jax.random.fold_in(jax.random.key(settings.seed), repeat)
        make = functools.partial(compute, key)
        result = stages.run(f"{name}-{repeat}", depends(name, repeat), make)
        progress.update(bar, advance=1)
        return result

    attacks: dict[str, list[dict[str, Arrays]]] = {attack: [] for attack in scale.attacks}
    encoders, ceilings = [], []
    for repeat in range(scale.repeats):
        unpoisoned = work.Setting("none", images, model, scale, {})
        scratch = stages.scratch(f"encoder-{repeat}", depends("encoder", repeat))
        encoder = run(
            "encoder", repeat, functools.partial(work.encoder, setting=unpoisoned, folder=scratch)
        )
        clean = run(
            "clean", repeat, functools.partial(work.teacher, setting=unpoisoned, encoder={})
        )
        encoders.append(encoder)
        ceilings.append(clean)
        for attack in scale.attacks:
            setting = work.Setting(attack, images, model, scale, clean)
            train = functools.partial(work.teacher, setting=setting)
            teacher = run(f"{attack}-teacher", repeat, functools.partial(train, encoder={}))
            own = run(f"{attack}-ssl-teacher", repeat, functools.partial(train, encoder=encoder))
            plain = {"teacher": teacher, "encoder": {}, "pool": images.pool}
            students = {
                "vanilla": {"name": "vanilla", **plain},
                "proposed": {"name": "proposed", **plain},
                "ssl": {**plain, "name": "proposed", "teacher": own, "encoder": encoder},
            }
            # Comparisons, once.
            if not repeat and attack in scale.outside and len(images.outside):
                for name in ("vanilla", "proposed"):
                    students[f"{name}-outside"] = {**students[name], "pool": images.outside}
            parts = {"teacher": teacher, "ssl-teacher": own}
            for name, start in students.items():
                compute = functools.partial(work.student, setting=setting, **start)
                parts[name] = run(f"{attack}-{name}", repeat, compute)
            if not repeat:
                compute = functools.partial(work.removal, setting=setting, teacher=teacher)
                parts["mspc"] = run(f"{attack}-mspc", repeat, compute)
            attacks[attack].append(parts)
    progress.update(bar, description="self-training: done")
    return report(source, attacks, encoders, ceilings, tuple(work.AUGMENTATIONS), scale)


def _load(folder: Path | None, scale: work.Scale) -> tuple[work.Images, str, tuple[str, ...]]:
    """Return images with a pool of the same set beside them, one line on them, and classes."""
    wanted = scale.rows + scale.pool_rows
    data = load_images(folder, rows=wanted, test_rows=scale.test_rows)
    # A small set is divided in the same proportion.
    cut = min(scale.rows, round(len(data.train_labels) * scale.rows / wanted))
    outside = np.zeros((0, *data.train_images.shape[1:]), np.uint8)
    if scale.outside_rows:
        with contextlib.suppress(DataError):
            outside = load_pool(folder)[: scale.outside_rows]
    if outside.shape[1:] != data.train_images.shape[1:]:
        outside = outside[:0]
    pixels = data.train_images
    images = work.Images(
        train=jnp.asarray(pixels[:cut]),
        labels=jnp.asarray(data.train_labels[:cut]),
        pool=jnp.asarray(pixels[cut:]),
        outside=jnp.asarray(outside),
        test=jnp.asarray(data.test_images),
        test_labels=jnp.asarray(data.test_labels),
    )
    source = (
        f"{data.source}; {cut} labelled, {len(images.pool)} of the rest as a pool without labels"
    )
    if len(outside):
        source += f", and {len(outside)} unlabelled images of another set as a second pool"
    return images, source, data.classes


def _model(pixels: Array, classes: int, scale: work.Scale) -> ResNet18:
    return normalised_resnet(
        np.asarray(pixels), classes, scale.width, stem=scale.stem, blocks=scale.blocks
    )
