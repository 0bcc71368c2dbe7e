"""Backdoors in image sets: which method finds the poisoned rows, and what removing them does."""

import dataclasses

import jax

from jaxml.backdoor import IdentifyConfig
from jaxml.data.images import ImageSet, load_images
from jaxml.models.resnet import ResNet18
from jaxml.output.report import Report
from jaxml.output.stages import Arrays, Stages, tree_of
from jaxml.reproduce.backdoor.report import REMOVERS, Case, report
from jaxml.reproduce.backdoor.stages import REMOVED, Scale, Study, Trial, retrained, scored
from jaxml.reproduce.images.classifier import normalised_resnet
from jaxml.reproduce.images.detection import network

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
    none = Case("none", 0.0)
    cases = [none, *(Case(attack, ratio) for ratio in scale.ratios for attack in scale.attacks)]
    repeats = range(scale.repeats)
    bar = progress.add_task(
        "backdoor: loading", total=scale.repeats * len(cases) * (1 + scale.retrain)
    )
    data = load_images(settings.data, rows=scale.rows, test_rows=scale.test_rows)
    study = Study(data, _model(data, scale), scale)
    content = {name: value for name, value in vars(data).items() if name != "source"}
    inputs = {**content, "scale": dataclasses.asdict(scale), "seed": settings.seed}

    def trial(case: Case, repeat: int, clean_fn=None) -> Trial:
        number = repeat * len(cases) + cases.index(case)
        title = f"backdoor: {case.attack} {case.ratio:.0%}, repeat {repeat + 1} of {scale.repeats}"
        return Trial(
            study=study,
            case=case,
            name=f"{case.attack}-{case.ratio:g}-{repeat}",
            inputs={**inputs, "case": [*case, repeat]},
            key=jax.random.fold_in(jax.random.key(settings.seed), number),
            clean_fn=clean_fn,
            say=lambda text: progress.update(bar, description=f"{title}, {text}"),
        )

    def score(trial: Trial) -> Arrays:
        """Return the arrays of the stage that scores the rows."""
        trial.say("reading")
        result = stages.run(trial.name, trial.inputs, lambda: scored(trial))
        progress.update(bar, advance=1)
        return result

    def retrain(trial: Trial, first: Arrays) -> Arrays:
        """Return the arrays of both stages: rows scored, and networks without those removed."""
        trial.say("reading")
        removed = {name: first[f"removed/{name}"] for name in REMOVERS}
        result = stages.run(
            f"{trial.name}-retrained",
            {**trial.inputs, **removed},
            lambda: retrained(trial, removed),
        )
        progress.update(bar, advance=1)
        return first | result

    def trials(repeat: int) -> dict[Case, tuple[Trial, Arrays]]:
        """Return the trials of a repeat with rows scored; later ones build on the clean network."""
        first = trial(none, repeat)
        clean = score(first)
        clean_fn = network(study.model, tree_of("variables", clean))
        others = [trial(case, repeat, clean_fn) for case in cases[1:]]
        return {none: (first, clean), **{one.case: (one, score(one)) for one in others}}

    ranked = [trials(repeat) for repeat in repeats]
    # Trainings without the rows removed come last: all scores are known and kept by then.
    finish = retrain if scale.retrain else lambda trial, arrays: arrays
    finished = [{case: finish(*pair) for case, pair in pairs.items()} for pairs in ranked]
    progress.update(bar, description="backdoor: done")
    by_case = {case: [of_repeat[case] for of_repeat in finished] for case in cases}
    return report(data.source, by_case, removed=REMOVED)


def _model(data: ImageSet, scale: Scale) -> ResNet18:
    classes = len(data.classes)
    return normalised_resnet(data.train_images, classes, scale.width, blocks=scale.blocks)
