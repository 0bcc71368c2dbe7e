"""The report on coresets: claims, fractions, scores, keywords, paths and attacks."""

from typing import Any

import numpy as np

from jaxml.output import plots
from jaxml.output.report import Figure, Report, Table, deviation
from jaxml.reproduce.coreset.claims import claims_table
from jaxml.reproduce.coreset.results import (
    ATTACKS,
    KEYWORDS,
    LEAST_DROP,
    Results,
    interval,
    kept,
    kept_shares,
    percent,
    scores,
    text,
)

_SCORES = ("VerbMem, forget", "VerbMem, retain", "KnowMem, forget", "KnowMem, retain")


def report(results: Results) -> Report:
    """Return tables and figures of the whole study.

    Args:
      results: of the study.
    """
    decoder, scale, grid = results.decoder, results.scale, results.grid
    return Report(
        method="coreset",
        title="The coreset effect in unlearning",
        parts=(
            f"Books: {results.source}. A decoder of width {decoder.hidden_size} and "
            f"{decoder.num_layers} layers "
            f"learns both; {scale.steps} steps of {scale.batch_size} chunks unlearn all of the "
            "first book's chunks or some of them. Kept: the drop of recitation (VerbMem) or of "
            "answers (KnowMem) over the whole forget set, as a share of what unlearning all of it "
            f"gives, of the seeds where that is {LEAST_DROP:g} points or more. VerbMem, KnowMem: "
            "ROUGE-L, 0 to 100.",
            claims_table(results),
            Figure("fractions", "Unlearning by parts of the forget set", _fractions(results)),
            *(_scores_table(results, fraction) for fraction in grid.scored),
            _steps_table(results),
            _dependence_table(results),
            _keywords_table(results),
            f"Keywords, by log-odds against the second book: {', '.join(results.words[:30])}.",
            Figure("paths", "From the model of the whole set to that of a part", _paths(results)),
            _attacks_table(results),
        ),
        results={
            "source": results.source,
            "seeds": len(results.seeds),
            "runs": _numbers(results),
        },
    )


def _scores_table(results: Results, fraction: float) -> Table:
    rows = []
    for objective in results.grid.objectives:
        chance = kept(results, objective, f"random {fraction:g}")
        for score in results.grid.scores:
            shares = kept(results, objective, f"{score} {fraction:g}")
            against = "" if score == "random" else interval((shares - chance)[:, 0])[0]
            own = _score_cells(results, f"{objective}, {score} {fraction:g}")
            rows.append((f"{objective}, {score}", *own, percent(shares[:, 0]), against))
        rows.append((objective, *_score_cells(results, objective), "100%", ""))
    rows.append(("no unlearning", *_score_cells(results, "target"), "", ""))
    return Table(
        f"Scores that choose {fraction:.0%}{results.spread}; a row with no score is the whole set",
        ("method, score", *_SCORES, "VerbMem kept", "less that of random"),
        tuple(rows),
    )


def _score_cells(results: Results, run: str) -> tuple[str, ...]:
    return tuple(map(text, scores(results, run).T))


def _steps_table(results: Results) -> Table:
    grid = results.grid
    rows = []
    for objective in (*grid.objectives, *grid.others):
        for kind, title in (("random", "equal steps"), ("epochs", "equal epochs")):
            shares = [
                kept(results, objective, f"{kind} {fraction:g}")[:, 0]
                for fraction in grid.fractions
            ]
            rows.append((f"{objective}, {title}", *map(percent, shares)))
    return Table(
        f"VerbMem kept by random parts{results.spread}",
        ("method", *(f"{fraction:.0%}" for fraction in grid.fractions)),
        tuple(rows),
    )


def _dependence_table(results: Results) -> Table:
    rows = []
    for objective in results.grid.objectives:
        chance = f"{objective}, {results.random_part}"
        # The model before, that of the whole set, and that of the part.
        compared = {"as it is": ("target", objective, chance)}
        for factor in results.grid.factors:
            of_steps = f"{objective}, steps {factor:g}"
            compared[f"{factor:g} times the steps"] = "target", objective, of_steps
        for name in results.variants:
            compared[name] = f"{name}: target", f"{name}: {objective}", f"{name}: {chance}"
        for title, (before, full, part) in compared.items():
            shares = kept_shares(results, before, full, part)
            recited = [text(scores(results, run)[:, i]) for run in (full, part) for i in (0, 1)]
            rows.append((f"{objective}, {title}", *map(percent, shares.T), *recited))
    return Table(
        f"How a random {results.part} depends on steps, decoder and number of chunks"
        f"{results.spread}",
        (
            "method, study",
            "VerbMem kept",
            "KnowMem kept",
            "VerbMem, forget: all",
            "VerbMem, retain: all",
            f"VerbMem, forget: {results.part}",
            f"VerbMem, retain: {results.part}",
        ),
        tuple(rows),
    )


def _keywords_table(results: Results) -> Table:
    rows = []
    for objective in results.grid.objectives:
        for kind in KEYWORDS:
            shares = kept(results, objective, kind)
            _, recited, _, answered = _score_cells(results, f"{objective}, {kind}")
            rows.append((f"{objective}, {kind}", *map(percent, shares.T), recited, answered))
    return Table(
        f"Unlearning of {results.grid.words} keywords, of all but these, and of as many tokens"
        f"{results.spread}",
        (
            "method, what the loss is on",
            "VerbMem kept",
            "KnowMem kept",
            "VerbMem, retain",
            "KnowMem, retain",
        ),
        tuple(rows),
    )


def _attacks_table(results: Results) -> Table:
    models = {"no unlearning": "attacks on target"}
    for objective in results.grid.objectives:
        models[f"{objective}, all"] = f"{objective}, attacks on all"
        models[f"{objective}, {results.part}"] = f"{objective}, attacks on some"
    rows = []
    for title, run in models.items():
        cells = [text(results.of(run, attack)) for attack in ATTACKS]
        loss = results.of(run, "found tokens in front")
        rows.append((title, *cells, f"{text(loss[:, 0])} to {text(loss[:, 1])}"))
    return Table(
        f"What attacks bring out: VerbMem on chunks the attacker lacks{results.spread}",
        ("model", *ATTACKS, "found tokens in front: loss of what follows, nats a token"),
        tuple(rows),
    )


def _fractions(results: Results) -> bytes:
    grid = results.grid
    shares = 100 * np.array([*grid.fractions, 1.0])
    panels = []
    for objective in (*grid.objectives, *grid.others):
        lines, bands = {}, {}
        for kind, title in (("random", "equal steps"), ("epochs", "equal epochs")):
            names = [f"{objective}, {kind} {part:g}" for part in grid.fractions] + [objective]
            values = np.array([scores(results, name) for name in names])
            for column in (0, 3):
                label = f"{_SCORES[column]}, {title}"
                mean, spread = values[..., column].mean(1), deviation(values[..., column], 1)
                lines[label] = (shares, mean)
                bands[f"_{label}"] = (shares, mean - spread, mean + spread)
        panels.append(
            {
                "title": objective,
                "x": "% of the forget set",
                "y": "0 to 100",
                "lines": lines,
                "bands": bands,
            }
        )
    return plots.curves(panels)


def _paths(results: Results) -> bytes:
    panels = []
    for objective in results.grid.objectives:
        run = f"{objective}, path"
        values, points = results.of(run, "nll"), results.seeds[0][run]["points"]
        mean, spread = values.mean(0), deviation(values, 0)
        lines = {name: (points, mean[:, i]) for i, name in enumerate(("forget", "retain"))}
        low, high = mean - spread, mean + spread
        bands = {f"_{name}": (points, low[:, i], high[:, i]) for i, name in enumerate(lines)}
        panels.append(
            {
                "title": objective,
                "x": f"from the whole set to {results.part} of it",
                "y": "loss, nats a token",
                "lines": lines,
                "bands": bands,
            }
        )
    return plots.curves(panels)


def _numbers(results: Results) -> dict[str, Any]:
    """Return every number but parameters, by run."""
    seeds = results.seeds
    return {
        run: {
            key: [parts[run][key] for parts in seeds]
            for key in arrays
            if not key.startswith("params/")
        }
        for run, arrays in seeds[0].items()
        if run != "scores"
    }
