"""The coreset effect: a few chunks of a book, chosen by chance, unlearn as much as all of it."""

import dataclasses
import functools
from typing import NamedTuple

import jax

from jaxml.data.text import load_books
from jaxml.models import llama
from jaxml.reproduce import coreset_stages as work
from jaxml.reproduce.books import train_tokenizer
from jaxml.reproduce.coreset_report import report
from jaxml.reproduce.report import Report
from jaxml.reproduce.score_decoder import Score, keyword_hits
from jaxml.reproduce.stages import Arrays, Stages, tree_of
from jaxml.reproduce.unlearning_stages import Scale, Setting, library_of, small_decoder, trained


class Size(NamedTuple):
    """Of a study."""

    decoder: llama.LlamaConfig
    scale: Scale
    grid: work.Grid


EVERY_SCORE: tuple[Score, ...] = (
    "random", "el2n", "grand", "loss", "min_k", "moderate", "k_centre", "keyword_density",
)  # fmt: skip
SCALES = {
    "quick": Size(
        small_decoder(vocabulary=512, width=64, layers=2, heads=2),
        Scale(length=64, prompt=16, forget=20, retain=20, folds=1, epochs=80, batch_size=8,
              steps=60, seeds=1),
        work.Grid(fractions=(0.05, 0.25), compared=0.05,
                  scores=("random", "grand", "min_k", "moderate"), objectives=("NPO", "RMU"),
                  others=(), words=60, points=11, relearnt=4, attack_steps=20, suffix=6,
                  candidates=64),
    ),
    "standard": Size(
        small_decoder(vocabulary=1024, width=128, layers=4, heads=4),
        Scale(length=128, prompt=32, forget=40, retain=40, folds=1, epochs=40, batch_size=8,
              steps=100, seeds=3),
        work.Grid(fractions=(0.01, 0.05, 0.1, 0.25, 0.5), compared=0.05, scores=EVERY_SCORE,
                  objectives=("NPO", "RMU"), others=("SimNPO", "GradDiff"), words=150, points=21,
                  relearnt=8, attack_steps=40, suffix=10, candidates=256),
    ),
    "paper": Size(
        small_decoder(vocabulary=32_000, width=2048, layers=16, heads=16),
        Scale(length=512, prompt=128, forget=100, retain=100, folds=1, epochs=40, batch_size=16,
              steps=250, seeds=3),
        work.Grid(fractions=(0.01, 0.05, 0.1, 0.25, 0.5), compared=0.05, scores=EVERY_SCORE,
                  objectives=("NPO", "RMU"), others=("SimNPO", "GradDiff"), words=500, points=21,
                  relearnt=20, attack_steps=500, suffix=20, candidates=512),
    ),
}  # fmt: skip


def experiment(settings, stages: Stages, progress) -> Report:
    """Unlearn parts of a book by every score, its keywords alone, and attack what is left."""
    size = SCALES[settings.scale]
    scale, grid = size.scale, size.grid
    bar = progress.add_task("coreset: loading", total=None)
    corpus = load_books(settings.data)
    tokenizer = train_tokenizer(corpus.texts[:2], size.decoder.vocabulary)
    progress.update(bar, total=scale.seeds * _stages(grid))
    inputs = {
        "scale": dataclasses.asdict(scale),
        "grid": dataclasses.asdict(grid),
        "seed": settings.seed,
        "books": corpus.texts[:2],
    }
    found, words = [], ()
    for seed in range(scale.seeds):
        books = library_of(scale, corpus, tokenizer, settings.seed + seed)
        setting = Setting(books, size.decoder, scale)
        words = words or work.keyword_list(setting, grid.words)
        depends = {**inputs, "run": seed}

        def run(name, compute, seed=seed, depends=depends) -> Arrays:
            title = f"coreset: seed {seed + 1} of {scale.seeds}, {name}"
            progress.update(bar, description=title)
            stage = f"{name.replace(',', '').replace(' ', '-')}-{seed}"
            result = stages.run(stage, {**depends, "stage": name}, compute)
            progress.update(bar, advance=1)
            return result

        scratch = stages.scratch(f"training-{seed}", depends)
        key = jax.random.fold_in(jax.random.key(settings.seed), seed)
        found.append(_one_seed(size, setting, run, scratch, key))
    progress.update(bar, description="coreset: done")
    source = (
        f"{corpus.source}; {scale.forget} chunks of {scale.length} tokens of "
        f"{corpus.names[0]!r} to forget, {scale.retain} of {corpus.names[1]!r} to retain"
    )
    return report(source, size.decoder, scale, grid, found, words)


def _stages(grid: work.Grid) -> int:
    alone = len(grid.objectives) * (len(grid.fractions) * (len(grid.scores) + 1) + 1 + 4 + 3)
    return 4 + alone + len(grid.others) * (1 + 2 * len(grid.fractions))


def _one_seed(size: Size, setting: Setting, run, scratch, key) -> dict[str, Arrays]:
    """Return what is measured of each model, by its name."""
    scale, grid = size.scale, size.grid
    key_train, key_score, key_unlearn, key_attack, key_mask = jax.random.split(key, 5)
    start = lambda key: llama.init(key, size.decoder)
    train = functools.partial(trained, setting, "target", start, scratch, key_train)
    target = tree_of("params", run("model target", train))
    parts = {"target": run("target", functools.partial(work.measured, setting, target))}
    words = work.keyword_list(setting, grid.words)
    hits = keyword_hits(setting.library.tokenizer, setting.library.forget, words)
    scores = run("scores", functools.partial(work.scored, setting, target, grid, hits, key_score))
    parts["scores"] = scores

    def unlearned(name, objective, forget, steps, *, keep=False):
        make = functools.partial(
            work.unlearned, setting, objective, target, forget, steps, key_unlearn, keep=keep
        )
        parts[name] = run(name, make)

    for objective in (*grid.objectives, *grid.others):
        is_main = objective in grid.objectives
        unlearned(objective, objective, setting.library.forget, scale.steps, keep=is_main)
        for fraction in grid.fractions:
            for score in grid.scores if is_main else ("random",):
                picked = work.chosen(setting, scores[score], fraction)
                name = f"{objective}, {score} {fraction:g}"
                keep = is_main and score == "random" and fraction == grid.compared
                unlearned(name, objective, picked, scale.steps, keep=keep)
            picked = work.chosen(setting, scores["random"], fraction)
            steps = max(1, round(scale.steps * fraction))
            unlearned(f"{objective}, epochs {fraction:g}", objective, picked, steps)
    sets = work.keyword_sets(setting, words, hits, key_mask)
    for objective in grid.objectives:
        for kind, texts in sets.items():
            unlearned(f"{objective}, {kind}", objective, texts, scale.steps)
        pair = {"all": objective, "some": f"{objective}, random {grid.compared:g}"}
        models = {which: tree_of("params", parts[name]) for which, name in pair.items()}
        line = functools.partial(work.path, setting, models["all"], models["some"], grid.points)
        parts[f"{objective}, path"] = run(f"{objective}, path", line)
        for which, model in models.items():
            attack = functools.partial(
                work.attacked, setting, grid, objective, target, model, key_attack
            )
            parts[f"{objective}, attacks on {which}"] = run(
                f"{objective}, attacks on {which}", attack
            )
    attack = functools.partial(work.attacked, setting, grid, "target", target, target, key_attack)
    parts["attacks on target"] = run("attacks on target", attack)
    return parts
