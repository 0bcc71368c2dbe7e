"""The report on backdoors: areas under ROC curves, removal, seconds, and pictures."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxml.backdoor import auroc, detection_rates
from jaxml.output import plots
from jaxml.output.report import Figure, Report, Table, mean_and_deviation
from jaxml.output.stages import Arrays
from jaxml.reproduce.images.detection import METHODS

_text = functools.partial(mean_and_deviation, digits=3)


class Case(NamedTuple):
    """An attack, "none" without one, and the share of the rows that it poisons."""

    attack: str
    ratio: float


Results = Mapping[Case, Sequence[Arrays]]
# Inches of a panel.
PANEL = (3.6, 3.2)
REMOVERS = {"mspc": "MSPC", "ensemble": "ensemble"}


def report(source: str, results: Results, *, removed: float) -> Report:
    """Return tables and figures of all cases.

    Args:
      source: one line on the data.
      results: arrays of each repeat by attack and ratio; the attack "none" is there.
      removed: share of the rows that the ensemble removes.
    """
    poisoned = [case for case in results if case.attack != "none"]
    first = next(iter(results.values()))[0]
    methods = [name for name in METHODS if f"score/{name}" in first]
    areas = {case: {m: _areas(results[case], m) for m in methods} for case in poisoned}
    removal = {case: _removal(repeats) for case, repeats in results.items()}
    seconds = {m: _seconds(results, m) for m in methods}
    repeats = len(next(iter(results.values())))
    spread = f", mean ± deviation of {repeats} repeats" if repeats > 1 else ""
    return Report(
        method="backdoor",
        title="Identification of backdoor rows",
        parts=(
            f"Images: {source}. Every method has one set of settings for all attacks, and none "
            "is told which rows are poisoned. Attacks are strong enough for networks of this size "
            "to learn them: WaNet warps by 2 with as many control points as pixels, and the "
            "label-consistent attack poisons 5 times the ratio of one class, with noise of 32/255 "
            "and a checkerboard in each corner. The all-to-all attack is learnt after the classes, "
            "in twice the epochs, and cannot succeed more often than the network is right: its ASR "
            "compares with ACC. IBD-PSC chooses its depth by a few test images. ABL takes the "
            "losses of the first epochs of ordinary training, without its ascent. Pictures are of "
            "the first repeat.",
            _area_table(areas, methods, spread),
            _removal_table(removal, removed, spread),
            _seconds_table(seconds),
            *(
                _roc_figure(results, ratio, methods)
                for ratio in dict.fromkeys(case.ratio for case in poisoned)
            ),
            _histogram_figure(results, poisoned),
            _mask_figure(results),
        ),
        results={
            "source": source,
            "repeats": repeats,
            "auroc": {_title(case): values for case, values in areas.items()},
            "mean auroc": {m: np.mean([areas[c][m] for c in poisoned]) for m in methods},
            "removal": {_title(case): values for case, values in removal.items()},
            "timing": seconds,
        },
    )


def _areas(repeats: Sequence[Arrays], method: str) -> np.ndarray:
    area = lambda a: float(auroc(jnp.asarray(a[f"score/{method}"]), jnp.asarray(a["is_poisoned"])))
    return np.array([area(arrays) for arrays in repeats])


def _removal(repeats: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Return rates of the rows removed, and ACC and ASR before and after, `[repeat]` each."""
    rows = [_removal_of(arrays) for arrays in repeats]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _removal_of(arrays: Arrays) -> dict[str, float]:
    accuracy, success = arrays["before"]
    fit_clean, fit_poisoned = arrays["fitted"]
    values = {
        "ACC": accuracy,
        "ASR": success,
        "fit clean": fit_clean,
        "fit poisoned": fit_poisoned,
    }
    for name in REMOVERS:
        flags = jnp.asarray(arrays[f"removed/{name}"])
        rates = detection_rates(flags, jnp.asarray(arrays["is_poisoned"]))
        # Where nothing is removed, training again would give the same network.
        unknown = np.full(2, np.nan) if flags.any() else arrays["before"]
        accuracy, success = arrays.get(f"after/{name}", unknown)
        values |= {
            f"{name} TPR": float(rates.true_positive),
            f"{name} FPR": float(rates.false_positive),
            f"{name} ACC": accuracy,
            f"{name} ASR": success,
        }
    return values


def _seconds(results: Results, method: str) -> float:
    """Return the median over cases of a method's seconds with what it needs."""
    parts = (method, *METHODS[method][1])
    runs = [arrays for repeats in results.values() for arrays in repeats]
    return float(np.median([sum(float(a[f"seconds/{p}"]) for p in parts) for a in runs]))


def _area_table(areas, methods, spread) -> Table:
    rows = {_title(case): values for case, values in areas.items()}
    if len(areas) > 1:
        rows["mean"] = {m: np.mean([v[m] for v in areas.values()], axis=0) for m in methods}
    return Table(
        f"AUROC of the poisoned rows{spread}",
        ("attack", *(METHODS[m][0] for m in methods)),
        tuple((name, *(_text(v[m]) for m in methods)) for name, v in rows.items()),
    )


def _removal_table(removal, removed, spread) -> Table:
    columns = {
        "ACC": "ACC",
        "ASR": "ASR",
        "fit clean": "fit: clean",
        "fit poisoned": "fit: poisoned",
        **{
            f"{name} {what}": f"{title}: {what}"
            for name, title in REMOVERS.items()
            for what in ("TPR", "FPR", "ACC", "ASR")
        },
    }
    # Not all scales train again.
    some = lambda name: any(np.isfinite(values[name]).any() for values in removal.values())
    columns = {name: title for name, title in columns.items() if some(name)}
    return Table(
        "Rows removed, and accuracy (ACC) and attack success rate (ASR) before and after "
        "training without them; fit: clean and poisoned training rows that the network gives "
        "their labels. MSPC removes the rows above its own threshold, the ensemble the "
        f"{removed:.0%} of the rows that score highest{spread}",
        ("attack", *columns.values()),
        tuple(
            (_title(case), *(_text(values[name]) for name in columns))
            for case, values in removal.items()
        ),
    )


def _seconds_table(seconds) -> Table:
    return Table(
        "Seconds a training set, median over the attacks: with passes of the network that a "
        "method needs, and the early epochs for ABL and what builds on it",
        ("method", "seconds"),
        tuple((METHODS[m][0], f"{value:.1f}") for m, value in seconds.items()),
    )


def _roc_figure(results: Results, ratio: float, methods) -> Figure:
    cases = [case for case in results if case.attack != "none" and case.ratio == ratio]

    def draw(axes, case):
        arrays = results[case][0]
        for i, method in enumerate(methods):
            false, true = _roc(arrays[f"score/{method}"], arrays["is_poisoned"])
            axes.plot(false, true, ("-", "--")[i // 10], label=METHODS[method][0])
        axes.plot([0, 1], [0, 1], ":", color="black", linewidth=0.8)
        axes.set(title=_title(case), xlabel="false positive rate", ylabel="true positive rate")

    picture = plots.grid(cases, draw, size=PANEL, legend=True)
    return Figure(f"roc-{ratio:g}", f"ROC curves, {ratio:.0%} poisoned", picture)


def _roc(score, is_poisoned):
    """Return false and true positive rates at all thresholds, rows of one score together."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    rates = [np.cumsum(kind[order])[last] / kind.sum() for kind in (~is_poisoned, is_poisoned)]
    return (np.insert(rate, 0, 0) for rate in rates)


def _histogram_figure(results: Results, cases) -> Figure:
    def draw(axes, case):
        arrays = results[case][0]
        for name, kind in (("clean", ~arrays["is_poisoned"]), ("poisoned", arrays["is_poisoned"])):
            score = arrays["score/mspc"][kind]
            share = np.full(len(score), 1 / max(1, len(score)))
            axes.hist(score, np.linspace(-1, 1, 24), weights=share, alpha=0.6, label=name)
        axes.axvline(0, color="black", linestyle=":", label="threshold")
        axes.set(title=_title(case), xlabel="MSPC", ylabel="share of the rows")

    picture = plots.grid(cases, draw, size=PANEL, legend=True)
    return Figure("mspc", "Scores of MSPC, poisoned and clean rows", picture)


def _mask_figure(results: Results) -> Figure:
    def draw(axes, case):
        axes.imshow(results[case][0]["mask"], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set(title=_title(case), xticks=[], yticks=[])

    picture = plots.grid(list(results), draw, size=PANEL)
    return Figure("masks", "Masks that MSPC learned, white is kept", picture)


def _title(case: Case) -> str:
    return case.attack if case.attack == "none" else f"{case.attack} {case.ratio:.0%}"
