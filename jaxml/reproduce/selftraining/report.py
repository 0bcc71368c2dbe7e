"""The report on self-training: rates of all networks, the three claims, and the two axes."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxml.output import plots
from jaxml.output.report import Figure, Report, Table, deviation, mean_and_deviation
from jaxml.output.stages import Arrays

_text = functools.partial(mean_and_deviation, digits=3)

# Repeats of each attack: arrays of each stage by its name.
Attacks = Mapping[str, Sequence[Mapping[str, Arrays]]]

NETWORKS = {
    "teacher": "teacher",
    "vanilla": "vanilla student",
    "proposed": "proposed student",
    "ssl-teacher": "SimCLR, teacher",
    "ssl": "SimCLR, proposed student",
    "vanilla-outside": "vanilla student, pool from elsewhere",
    "proposed-outside": "proposed student, pool from elsewhere",
    "mspc": "trained without MSPC's rows",
}
# Students of labels under the chosen augmentation.
PROPOSED = ("proposed", "ssl", "proposed-outside")


def report(
    source: str,
    attacks: Attacks,
    encoders: Sequence[Arrays],
    ceilings: Sequence[Arrays],
    augmentations: Sequence[str],
    scale: Any,
) -> Report:
    """Return tables and figures of all attacks.

    Args:
      source: one line on the data.
      attacks: arrays of each repeat by attack.
      encoders: of each repeat, with "probe" and "loss".
      ceilings: networks of each repeat trained without any poison.
      augmentations: names, in the order of the study.
      scale: of the run.

    Returns:
      The report, with rates, choices and the study in its results.
    """
    rates = {
        attack: {
            name: np.array([parts[name]["rates"] for parts in repeats if name in parts])
            for name in NETWORKS
            if name in repeats[0]
        }
        for attack, repeats in attacks.items()
    }
    probe = np.array([encoder["probe"] for encoder in encoders])
    ceiling = np.array([clean["rates"][0] for clean in ceilings])
    repeats = len(ceilings)
    spread = f", mean ± deviation of {repeats} repeats" if repeats > 1 else ""
    margin = probe[:, 1] - probe[:, 0]
    return Report(
        method="self-training",
        title="Self-training against backdoors",
        parts=(
            f"Images: {source}. {scale.ratio:.0%} of the labelled images are poisoned (of the "
            f"label-consistent attack {5 * scale.ratio:.0%} of one class). The teacher learns "
            "from nine tenths of them, without augmentation; the rest, as poisoned, serves the "
            "choice of an augmentation, which is not told the attack. Every student learns from "
            "the labelled images and the pool, without augmentation, which would hide a patch from "
            "it whatever the labels. The vanilla one sees the labelled images with their labels "
            "and the pool with the teacher's. The proposed one sees all of them with the teacher's "
            f"mean probabilities for {scale.views} views under the chosen augmentation, a given "
            "label mixed in where these agree on it. ACC is the "
            "accuracy on test images, ASR the share of triggered test images of other classes that "
            "get the attack's label. Without any "
            f"poison the teacher has an ACC of {_text(ceiling)}.",
            _rates_table(rates, attacks, augmentations, spread),
            _claims_table(rates, spread),
            f"A linear probe on the features of SimCLR, {scale.encoder_epochs} epochs on the pool "
            f"without labels, has an accuracy of {_text(probe[:, 1])}; on those of the encoder it "
            f"started from {_text(probe[:, 0])}; the margin is {_text(margin)}.",
            _study_table(attacks, augmentations, spread),
            _study_figure(attacks, augmentations),
            _choice_table(attacks, augmentations),
        ),
        results={
            "source": source,
            "repeats": repeats,
            "rates": {
                attack: {n: {"ACC": r[:, 0], "ASR": r[:, 1]} for n, r in networks.items()}
                for attack, networks in rates.items()
            },
            "chosen": {
                attack: [_chosen(parts["teacher"], augmentations) for parts in repeats]
                for attack, repeats in attacks.items()
            },
            "study": {attack: _study(repeats) for attack, repeats in attacks.items()},
            "probe": {"random": probe[:, 0], "SimCLR": probe[:, 1]},
            "clean ACC": ceiling,
        },
    )


def _rates_table(rates, attacks: Attacks, augmentations, spread) -> Table:
    rows = []
    for attack, networks in rates.items():
        for name, values in networks.items():
            parts = [repeat[name] for repeat in attacks[attack] if name in repeat]
            labels = np.array([p.get("labels", np.full(2, np.nan)) for p in parts])
            source = "ssl-teacher" if name == "ssl" else "teacher"
            chosen = [_chosen(repeat[source], augmentations) for repeat in attacks[attack]]
            by = ", ".join(dict.fromkeys(chosen)) if name in PROPOSED else ""
            if "flagged" in parts[0]:
                poisoned, clean = np.mean([p["flagged"] for p in parts], axis=0)
                by = f"removes {poisoned:.0%} of the poisoned, {clean:.0%} of the clean rows"
            columns = (values[:, 0], values[:, 1], labels[:, 0], labels[:, 1])
            rows.append((attack, NETWORKS[name], *map(_text, columns), by))
    return Table(
        f"Networks{spread}; labels: of the labelled rows as the student saw them, true on clean "
        "rows, and the attack's on poisoned rows of other classes",
        ("attack", "network", "ACC", "ASR", "labels: true", "labels: attack's", "by"),
        tuple(rows),
    )


def _claims_table(rates, spread) -> Table:
    rows = []
    for attack, networks in rates.items():
        teacher, proposed = networks["teacher"], networks["proposed"]
        kept = networks["vanilla"][:, 1] / np.maximum(teacher[:, 1], 1e-9)
        lost = teacher[:, 0] - proposed[:, 0]
        better = networks["ssl"] - proposed
        rows.append(
            (
                attack,
                _text(kept),
                f"{_text(teacher[:, 1])} to {_text(proposed[:, 1])}",
                _text(lost),
                f"{_text(better[:, 0])}; {_text(better[:, 1])}",
            )
        )
    return Table(
        f"The three claims{spread}: vanilla self-training keeps the backdoor; labels of augmented "
        "views remove it at little cost; SimCLR improves on that",
        (
            "attack",
            "ASR of vanilla student / teacher",
            "ASR of teacher to proposed student",
            "ACC that the proposed student loses to the teacher",
            "SimCLR beside it: ACC; ASR",
        ),
        tuple(rows),
    )


def _study(repeats) -> np.ndarray:
    """Return accuracy and attack success of pseudo-labels, `[repeat, 1 + augmentation, 2]`."""
    return np.array([parts["teacher"]["study"] for parts in repeats])


def _study_table(attacks: Attacks, augmentations, spread) -> Table:
    studies = {attack: _study(repeats) for attack, repeats in attacks.items()}
    rows = []
    for i, name in enumerate(("none", *augmentations)):
        cells = [(_text(s[:, i, 0]), _text(s[:, i, 1])) for s in studies.values()]
        rows.append((name, *(cell for pair in cells for cell in pair)))
    columns = [f"{a}: {what}" for a in studies for what in ("true", "attack's")]
    return Table(
        f"Pseudo-labels of the teacher under each augmentation{spread}: true on clean test "
        "images, and the attack's on triggered ones",
        ("augmentation", *columns),
        tuple(rows),
    )


def _study_figure(attacks: Attacks, augmentations) -> Figure:
    def draw(axes, attack):
        study = _study(attacks[attack])
        middle, error = study.mean(0), deviation(study, 0)
        for i, name in enumerate(("none", *augmentations)):
            axes.errorbar(*middle[i], xerr=error[i, 0], yerr=error[i, 1], fmt="osD^v<>pPX*"[i % 11],
                          markersize=7, label=name)  # fmt: skip
        axes.set(title=attack, xlabel="clean images: true label",
                 ylabel="triggered images: attack's label", ylim=(-0.03, 1.03))  # fmt: skip

    return Figure(
        "two-axes",
        "What an augmentation keeps of the class and of the trigger: strong but proper is low and "
        "to the right",
        plots.grid(list(attacks), draw, size=(4.6, 3.8), legend=True),
    )


def _choice_table(attacks: Attacks, augmentations) -> Table:
    header, rows = ["augmentation"], [[name] for name in augmentations]
    for attack, repeats in attacks.items():
        header += [f"{attack}: cost", "excess", "chosen"]
        cost, excess, chosen = (
            np.array([parts["teacher"][f"choice/{name}"] for parts in repeats])
            for name in ("cost", "excess", "chosen")
        )
        for i, row in enumerate(rows):
            count = int((chosen == i).sum())
            row += [_text(cost[:, i]), _text(excess[:, i]), str(count) if count else ""]
    return Table(
        "The choice without the trigger: what an augmentation takes from the agreement with the "
        "given labels, of the class in the middle (cost) and of the worst class beyond that "
        "(excess); times chosen",
        tuple(header),
        tuple(map(tuple, rows)),
    )


def _chosen(teacher: Arrays, augmentations) -> str:
    number = int(teacher["choice/chosen"])
    return augmentations[number] if number >= 0 else "none is proper"
