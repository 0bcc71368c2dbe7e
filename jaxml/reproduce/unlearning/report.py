"""The report on unlearning a book: the axes of MUSE, the trade-off, what a model writes."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxml.data.questions import Passage
from jaxml.output import plots
from jaxml.output.report import Figure, Report, Table, deviation, mean_and_deviation
from jaxml.output.stages import Arrays
from jaxml.unlearning.metrics import privacy_leakage

_text = functools.partial(mean_and_deviation, digits=1)

AXES = {
    "verbatim_forget": "VerbMem, forget",
    "knowledge_forget": "KnowMem, forget",
    "privacy": "PrivLeak",
    "knowledge_retain": "KnowMem, retain",
    "verbatim_retain": "VerbMem, retain",
}
# How near to the retrained model, and how much of the utility, of the claims.
NEAR, KEPT = 0.1, 0.9


class Results(NamedTuple):
    """What a study of one decoder measured.

    Attributes:
      title: of its part of the report.
      source: one line on the books.
      size: parameters of the decoder.
      scale: of the runs.
      methods: names, in order.
      followed: those with growing sets and successive requests.
      seeds: arrays of each seed by model.
      passage: of the sample of the first seed.
    """

    title: str
    source: str
    size: int
    scale: Any
    methods: Sequence[str]
    followed: Sequence[str]
    seeds: Sequence[Mapping[str, Arrays]]
    passage: Passage


def report(studies: Sequence[Results]) -> Report:
    """Return tables and figures of each study; bare numbers of all by their number of parameters.

    Args:
      studies: of one decoder each.
    """
    parts, results = [], {}
    for study in studies:
        some, results[f"{study.size} parameters"] = _study(study)
        parts += some
    return Report(
        method="unlearning", title="Unlearning a book", parts=tuple(parts), results=results
    )


def _study(study: Results) -> tuple[list[str | Table | Figure], dict[str, Any]]:
    seeds, scale = study.seeds, study.scale
    names = ("target", "retrained", *study.methods)
    values = {name: _axes(seeds, name) for name in names}
    at_once = {name: _grown(seeds, name, scale) for name in study.followed}
    requests = {name: _requested(seeds, name) for name in study.followed}
    chosen = {name: part["choices"] for name, part in seeds[0].items() if "choices" in part}
    spread = f", mean ± deviation of {len(seeds)} seeds" if len(seeds) > 1 else ""
    claimed = [name for name in ("NPO", "RMU") if name in values]
    parts: list[str | Table | Figure] = [
        f"{study.title}, {study.size:,} parameters. Books: {study.source}. It learns the chunks "
        f"of both books and a question on each in {scale.epochs} epochs (target); the retrained "
        "model learns those of the second book alone. A method sees the chunks to forget, and the "
        "chunks and questions to retain. VerbMem: ROUGE-L of what is written after the first "
        f"{scale.prompt} tokens of a chunk; KnowMem: of the answers to the questions; PrivLeak: "
        "of Min-40%, near 0 is good. All but PrivLeak are 0 to 100.",
        _axes_table(values, spread),
        _claims_table(values, claimed, spread),
    ]
    if chosen:
        parts.append(_choices_table(chosen))
    parts.append(
        Figure(f"trade-off-{study.size}", "Forgetting against utility", _trade_off(values))
    )
    if study.followed:
        title = "Larger forget sets at once, and folds on request one after another"
        parts.append(Figure(f"growth-{study.size}", title, _growth(at_once, requests, scale)))
    parts.append(_samples_table(seeds[0], study.passage, names))
    return parts, {
        "source": study.source,
        "seeds": len(seeds),
        "axes": {name: dict(zip(AXES, v.T, strict=True)) for name, v in values.items()},
        "choices": chosen,
        "growth": at_once,
        "requests": requests,
    }


def _axes(seeds, name: str) -> np.ndarray:
    """Return the axes of each seed, `[seed, axis]`."""
    rows = []
    for parts in seeds:
        own, retrained = parts[name], parts["retrained"]
        scores = [own["forget_scores"], own["holdout_scores"]]
        scores += [retrained["forget_scores"], retrained["holdout_scores"]]
        leak = float(privacy_leakage(*map(jnp.asarray, scores)))
        verbatim, knowledge = own["verbatim"], own["knowledge"]
        rows.append((verbatim[0], knowledge[0], leak, knowledge[1], verbatim[1]))
    return np.array(rows)


def _axes_table(values, spread) -> Table:
    rows = [(name, *map(_text, axes.T)) for name, axes in values.items()]
    return Table(f"What each model knows{spread}", ("model", *AXES.values()), tuple(rows))


def _choices_table(chosen) -> Table:
    percent = lambda share: f"{100 * share:.0f}"
    rows = [
        (name, f"{percent(share)} ({percent(low)} to {percent(high)})")
        for name, (share, low, high) in chosen.items()
    ]
    return Table(
        "Multiple-choice questions answered rightly, % with the 95% interval; chance is 25",
        ("model", "MMLU, high school geography"),
        tuple(rows),
    )


def _claims_table(values, followed, spread) -> Table:
    target, retrained = values["target"], values["retrained"]
    rows = []
    for name in followed:
        own = values[name]
        above = own[:, 0] - retrained[:, 0]
        kept = own[:, 3] / np.maximum(target[:, 3], 1e-9)
        near = above.mean() <= NEAR * retrained[:, 0].mean()
        useful = kept.mean() >= KEPT
        rows.append(
            (
                name,
                f"{_text(target[:, 0])} to {_text(own[:, 0])}; retrained {_text(retrained[:, 0])}",
                f"{_text(above)}, {'yes' if near else 'no'}",
                f"{_text(100 * kept, unit='%')}, {'yes' if useful else 'no'}",
            )
        )
    return Table(
        f"Claims{spread}: recitation falls to that of the retrained model, utility stays",
        (
            "method",
            "VerbMem on the forget book",
            f"above the retrained model's, at most {NEAR:.0%} of it",
            f"KnowMem on the retain book kept, at least {KEPT:.0%}",
        ),
        tuple(rows),
    )


def _trade_off(values) -> bytes:
    figure, axes = plots.new_figure(6.5, 4.6)
    for i, (name, own) in enumerate(values.items()):
        # The colours come again after ten.
        marker = "*" if name in ("target", "retrained") else "osD"[i // 10]
        axes.plot(own[:, 0], own[:, 3], marker, label=name)
    axes.set(xlabel="VerbMem on the forget book", ylabel="KnowMem on the retain book")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return plots.png(figure)


def _growth(at_once, requests, scale) -> bytes:
    share = np.arange(1, scale.folds + 1) / scale.folds
    panels = []
    for title, series in (("at once", at_once), ("one after another", requests)):
        lines, bands = {}, {}
        for name, values in series.items():
            for axis, label in ((0, "VerbMem, forget"), (1, "KnowMem, retain")):
                mean, spread = values[..., axis].mean(0), deviation(values[..., axis], 0)
                lines[f"{name}: {label}"] = (share, mean)
                bands[f"_{name}: {label}"] = (share, mean - spread, mean + spread)
        panels.append(
            {
                "title": title,
                "x": "share of the forget set",
                "y": "0 to 100",
                "lines": lines,
                "bands": bands,
            }
        )
    return plots.curves(panels)


def _grown(seeds, name: str, scale) -> np.ndarray:
    """Return recitation of what is forgotten and utility, `[seed, fold, 2]`."""
    series = [*(f"{name} {folds}" for folds in range(1, scale.folds)), name]
    return np.array(
        [
            [(parts[key]["verbatim"][0], parts[key]["knowledge"][1]) for key in series]
            for parts in seeds
        ]
    )


def _requested(seeds, name: str) -> np.ndarray:
    """Return the same after each request, `[seed, request, 2]`."""
    parts = [parts[f"{name} requests"] for parts in seeds]
    return np.array([np.stack([p["verbatim"][:, 0], p["knowledge"][:, 1]], 1) for p in parts])


def _samples_table(parts, passage: Passage, names) -> Table:
    show = lambda text: " ".join(str(text).split())
    rows = [("the book", show(passage.continuation))]
    rows += [(name, show(parts[name]["sample"][0])) for name in names]
    prompt = show(passage.prompt)
    return Table(f"What follows {prompt!r}", ("model", "continuation, greedy"), tuple(rows))
