"""The report on coresets: claims, fractions, scores, keywords, paths and attacks."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxml.output import plots
from jaxml.output.report import Figure, Report, Table, deviation, mean_and_deviation
from jaxml.output.stages import Arrays
from jaxml.reproduce.coreset.stages import Grid
from jaxml.unlearning import connectivity

_text = functools.partial(mean_and_deviation, digits=1)

# Of the claims: share of the whole set's forgetting, points of utility, share of the rise of the
# loss that a path may lose, and points of recitation after an attack.
KEPT, UTILITY, BARRIER, ATTACK = 0.9, 3.0, 0.1, 10.0
# A share of a drop of fewer points is a ratio of noise.
LEAST_DROP = 5.0
KEYWORDS = ("keywords in their text", "keywords alone as texts", "as many random tokens",
            "all but keywords")  # fmt: skip
ATTACKS = ("nothing", "solved example in front", "4-bit weights", "relearning")


def report(
    source: str,
    decoder: Any,
    scale: Any,
    grid: Grid,
    found: Sequence[Mapping[str, Arrays]],
    words: Sequence[str],
    variants: Sequence[str] = (),
) -> Report:
    """Return tables and figures of the whole study.

    Args:
      source: one line on the books.
      decoder: shape of the model.
      scale: of the texts and training.
      grid: what was compared.
      found: arrays of each seed by run.
      words: keywords of the first seed, best first.
      variants: names of what the effect is compared with.
    """
    seeds = len(found)
    spread = f", mean ± deviation of {seeds} seeds" if seeds > 1 else ", one seed"
    figures = [
        Figure("fractions", "Unlearning by parts of the forget set", _fractions(found, grid)),
        Figure("paths", "From the model of the whole set to that of a part", _paths(found, grid)),
    ]
    return Report(
        method="coreset",
        title="The coreset effect in unlearning",
        parts=(
            f"Books: {source}. A decoder of width {decoder.hidden_size} and {decoder.num_layers} "
            f"layers learns both; {scale.steps} steps of {scale.batch_size} chunks unlearn all of the "
            "first book's chunks or some of them. Kept: the drop of recitation (VerbMem) or of "
            "answers (KnowMem) over the whole forget set, as a share of what unlearning all of it "
            f"gives, of the seeds where that is {LEAST_DROP:g} points or more. VerbMem, KnowMem: "
            "ROUGE-L, 0 to 100.",
            _claims_table(found, grid, spread),
            figures[0],
            *(_scores_table(found, grid, fraction, spread) for fraction in grid.scored),
            _steps_table(found, grid, spread),
            _dependence_table(found, grid, variants, spread),
            _keywords_table(found, grid, spread),
            f"Keywords, by log-odds against the second book: {', '.join(words[:30])}.",
            figures[1],
            _attacks_table(found, grid, spread),
        ),
        results={"source": source, "seeds": seeds, "runs": _numbers(found)},
    )


def kept_share(
    target: Mapping[str, np.ndarray], full: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return how much of the whole set's forgetting is reached: of VerbMem and of KnowMem.

    NaN where the whole set takes fewer than `LEAST_DROP` points.
    """
    share = []
    for measure in ("verbatim", "knowledge"):
        drop = target[measure][0] - full[measure][0]
        share.append(
            (target[measure][0] - own[measure][0]) / drop if drop >= LEAST_DROP else np.nan
        )
    return np.array(share)


def _kept(found, objective: str, name: str) -> np.ndarray:
    """Return the shares kept of VerbMem and KnowMem, `[seed, 2]`."""
    return np.array(
        [kept_share(of["target"], of[objective], of[f"{objective}, {name}"]) for of in found]
    )


def _measure(found, name: str) -> np.ndarray:
    """Return VerbMem and KnowMem on the forget and on the retain book, `[seed, 4]`."""
    return np.array([np.concatenate([of[name]["verbatim"], of[name]["knowledge"]]) for of in found])


def _claims_table(found, grid: Grid, spread: str) -> Table:
    rows, part = [], f"{grid.compared:.0%}"
    for objective in grid.objectives:
        name = f"random {grid.compared:g}"
        kept = _kept(found, objective, name)
        lost = (_measure(found, objective) - _measure(found, f"{objective}, {name}"))[:, [1, 3]]
        shares = [of.mean() for of in map(_known, kept.T) if of.size]
        holds = min(shares, default=0) >= KEPT and lost.mean(0).max() <= UTILITY
        rows.append(
            (
                f"{objective}: a random {part} forgets as all, {KEPT:.0%} at least",
                f"VerbMem {_percent(kept[:, 0])}, KnowMem {_percent(kept[:, 1])}; retain book, "
                f"points lost: VerbMem {_text(lost[:, 0])}, KnowMem {_text(lost[:, 1])}",
                _said(holds),
            )
        )
        others = [
            (_kept(found, objective, f"{score} {grid.compared:g}") - kept)[:, 0]
            for score in grid.scores
            if score != "random"
        ]
        gains, half = _interval(np.mean(others, axis=0))
        rows.append(
            (
                f"{objective}: scores gain less than {1 - KEPT:.0%} over chance",
                f"their mean less random's, VerbMem kept: {gains}",
                _said_of(float(abs(np.mean(others))), half, 1 - KEPT),
            )
        )
        alone, without = (
            _kept(found, objective, kind)[:, 0] for kind in (KEYWORDS[0], KEYWORDS[3])
        )
        rows.append(
            (
                f"{objective}: keywords carry most of it, the rest does not",
                f"keywords {_percent(alone)}, all but keywords {_percent(without)}",
                _said(alone.mean() >= 0.5 > without.mean()),
            )
        )
        barriers = _barriers(found, objective)
        rows.append(
            (
                f"{objective}: a straight path joins both models, barrier at most "
                f"{BARRIER:.0%} of the rise of the loss",
                f"forget {_percent(barriers[:, 0])}, retain {_percent(barriers[:, 1])}",
                _said(barriers.mean(0).max() <= BARRIER),
            )
        )
        gap = _recovered(found, objective, "some") - _recovered(found, objective, "all")
        rows.append(
            (
                f"{objective}: attacks bring out as much of either, within {ATTACK:g} points",
                "; ".join(f"{name} {_text(gap[:, i])}" for i, name in enumerate(ATTACKS)),
                _said(np.abs(gap.mean(0)).max() <= ATTACK),
            )
        )
    return Table(f"Claims of the paper{spread}", ("claim", "measured", "holds"), tuple(rows))


def _scores_table(found, grid: Grid, fraction: float, spread: str) -> Table:
    rows = []
    for objective in grid.objectives:
        chance = _kept(found, objective, f"random {fraction:g}")
        for score in grid.scores:
            kept = _kept(found, objective, f"{score} {fraction:g}")
            own = _measure(found, f"{objective}, {score} {fraction:g}")
            against = "" if score == "random" else _interval((kept - chance)[:, 0])[0]
            cells = (*(_text(own[:, i]) for i in range(4)), _percent(kept[:, 0]), against)
            rows.append((f"{objective}, {score}", *cells))
        rows.append((objective, *(_text(x) for x in _measure(found, objective).T), "100%", ""))
    rows.append(("no unlearning", *(_text(x) for x in _measure(found, "target").T), "", ""))
    return Table(
        f"Scores that choose {fraction:.0%}{spread}; a row with no score is the whole set",
        (
            "method, score",
            "VerbMem, forget",
            "VerbMem, retain",
            "KnowMem, forget",
            "KnowMem, retain",
            "VerbMem kept",
            "less that of random",
        ),
        tuple(rows),
    )


def _steps_table(found, grid: Grid, spread: str) -> Table:
    rows = []
    for objective in (*grid.objectives, *grid.others):
        for kind, title in (("random", "equal steps"), ("epochs", "equal epochs")):
            kept = [_kept(found, objective, f"{kind} {part:g}")[:, 0] for part in grid.fractions]
            rows.append((f"{objective}, {title}", *map(_percent, kept)))
    return Table(
        f"VerbMem kept by random parts{spread}",
        ("method", *(f"{part:.0%}" for part in grid.fractions)),
        tuple(rows),
    )


def _dependence_table(found, grid: Grid, variants: Sequence[str], spread: str) -> Table:
    rows = []
    for objective in grid.objectives:
        chance = f"{objective}, random {grid.compared:g}"
        # The model before, that of the whole set, and that of the part.
        compared = {
            f"{factor:g} times the steps": ("target", objective, f"{objective}, steps {factor:g}")
            for factor in grid.factors
        }
        compared = {"as it is": ("target", objective, chance)} | compared
        for name in variants:
            compared[name] = f"{name}: target", f"{name}: {objective}", f"{name}: {chance}"
        for title, (before, full, part) in compared.items():
            kept = np.array([kept_share(of[before], of[full], of[part]) for of in found])
            cells = [_percent(kept[:, 0]), _percent(kept[:, 1])]
            for name in (full, part):
                own = _measure(found, name)
                cells += [_text(own[:, 0]), _text(own[:, 1])]
            rows.append((f"{objective}, {title}", *cells))
    part = f"{grid.compared:.0%}"
    return Table(
        f"How a random {part} depends on steps, decoder and number of chunks{spread}",
        ("method, study", "VerbMem kept", "KnowMem kept", "VerbMem, forget: all",
         "VerbMem, retain: all", f"VerbMem, forget: {part}", f"VerbMem, retain: {part}"),
        tuple(rows),
    )  # fmt: skip


def _keywords_table(found, grid: Grid, spread: str) -> Table:
    rows = []
    for objective in grid.objectives:
        for kind in KEYWORDS:
            kept = _kept(found, objective, kind)
            own = _measure(found, f"{objective}, {kind}")
            cells = (_percent(kept[:, 0]), _percent(kept[:, 1]), _text(own[:, 1]), _text(own[:, 3]))
            rows.append((f"{objective}, {kind}", *cells))
    return Table(
        f"Unlearning of {grid.words} keywords, of all but these, and of as many tokens{spread}",
        ("method, what the loss is on", "VerbMem kept", "KnowMem kept", "VerbMem, retain",
         "KnowMem, retain"),
        tuple(rows),
    )  # fmt: skip


def _attacks_table(found, grid: Grid, spread: str) -> Table:
    part = f"{grid.compared:.0%}"
    models = [("no unlearning", "attacks on target")]
    for objective in grid.objectives:
        models.append((f"{objective}, all", f"{objective}, attacks on all"))
        models.append((f"{objective}, {part}", f"{objective}, attacks on some"))
    rows = []
    for title, name in models:
        cells = [_text(np.array([of[name][attack] for of in found])) for attack in ATTACKS]
        loss = np.array([of[name]["found tokens in front"] for of in found])
        cells.append(f"{_text(loss[:, 0])} to {_text(loss[:, 1])}")
        rows.append((title, *cells))
    return Table(
        f"What attacks bring out: VerbMem on chunks the attacker lacks{spread}",
        ("model", *ATTACKS, "found tokens in front: loss of what follows, nats a token"),
        tuple(rows),
    )


def _recovered(found, objective: str, which: str) -> np.ndarray:
    parts = [of[f"{objective}, attacks on {which}"] for of in found]
    return np.array([[float(part[name]) for name in ATTACKS] for part in parts])


def _barriers(found, objective: str) -> np.ndarray:
    """Return the barrier of either loss over what unlearning changed it by, `[seed, 2]`.

    On the forget book a high loss is wanted, so that the barrier is a dip.
    """
    rows = []
    for of in found:
        path = {key: jnp.asarray(value) for key, value in of[f"{objective}, path"].items()}
        signed = path["nll"] * jnp.asarray([-1, 1], path["nll"].dtype)
        rise = jax.vmap(connectivity.barrier, (None, 1))(path["points"], signed)
        gained = of[objective]["nll"][0] - of["target"]["nll"][0]
        rows.append(np.asarray(rise) / gained)
    return np.array(rows)


def _fractions(found, grid: Grid) -> bytes:
    panels = []
    parts = np.array([*grid.fractions, 1.0])
    for objective in (*grid.objectives, *grid.others):
        lines, bands = {}, {}
        for kind, title in (("random", "equal steps"), ("epochs", "equal epochs")):
            names = [f"{objective}, {kind} {part:g}" for part in grid.fractions] + [objective]
            values = np.array([_measure(found, name) for name in names])
            for column, label in ((0, "VerbMem, forget"), (3, "KnowMem, retain")):
                mean, spread = values[..., column].mean(1), deviation(values[..., column], 1)
                lines[f"{label}, {title}"] = (100 * parts, mean)
                bands[f"_{label}, {title}"] = (100 * parts, mean - spread, mean + spread)
        panels.append(
            {"title": objective, "x": "% of the forget set", "y": "0 to 100", "lines": lines,
             "bands": bands}
        )  # fmt: skip
    return plots.curves(panels)


def _paths(found, grid: Grid) -> bytes:
    panels = []
    for objective in grid.objectives:
        parts = [of[f"{objective}, path"] for of in found]
        values, points = np.array([part["nll"] for part in parts]), parts[0]["points"]
        mean, spread = values.mean(0), deviation(values, 0)
        lines = {name: (points, mean[:, i]) for i, name in enumerate(("forget", "retain"))}
        low, high = mean - spread, mean + spread
        bands = {f"_{n}": (points, low[:, i], high[:, i]) for i, n in enumerate(lines)}
        panels.append(
            {"title": objective, "x": f"from the whole set to {grid.compared:.0%} of it",
             "y": "loss, nats a token", "lines": lines, "bands": bands}
        )  # fmt: skip
    return plots.curves(panels)


def _numbers(found) -> dict[str, Any]:
    """Return every number but parameters, by run."""
    names = [name for name in found[0] if name != "scores"]
    return {
        name: {
            key: [of[name][key] for of in found]
            for key in found[0][name]
            if not key.startswith("params/")
        }
        for name in names
    }


def _interval(differences: np.ndarray) -> tuple[str, float]:
    """Return the mean of differences with the half width of its 95% interval, by Student's t."""
    count = len(differences)
    mean = differences.mean()
    if count < 2:
        return f"{100 * mean:+.0f} points (one seed)", np.nan
    half = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return f"{100 * mean:+.0f} ± {100 * half:.0f} points (95%)", half


def _said(holds) -> str:
    return "yes" if holds else "no"


def _said_of(mean: float, half: float, most: float) -> str:
    """Return whether a value is within `most` as far as its interval tells."""
    half = np.nan_to_num(half)
    if mean + half <= most:
        return "yes"
    return "no" if mean - half > most else "open: too few seeds"


def _percent(values: np.ndarray) -> str:
    return mean_and_deviation(100 * values, 0, "%")


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
