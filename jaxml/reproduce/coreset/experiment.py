"""The coreset effect: a few chunks of a book, chosen by chance, unlearn as much as all of it."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxml.data.text import load_books
from jaxml.llm._score import Score, keyword_hits
from jaxml.models import llama
from jaxml.output.report import Report
from jaxml.output.stages import Arrays, Stages, of_seed, tree_of
from jaxml.reproduce.coreset import stages as work
from jaxml.reproduce.coreset.report import report
from jaxml.reproduce.language.books import train_tokenizer
from jaxml.reproduce.unlearning.stages import Scale, Setting, library_of, small_decoder, trained
from jaxml.unlearning import coreset


class Variant(NamedTuple):
    """Another decoder or number of chunks to forget, to see what the effect depends on."""

    name: str
    decoder: llama.LlamaConfig
    forget: int


class Size(NamedTuple):
    """Of a study."""

    decoder: llama.LlamaConfig
    scale: Scale
    grid: work.Grid
    variants: tuple[Variant, ...] = ()


EVERY_SCORE: tuple[Score, ...] = (
    "random", "el2n", "grand", "loss", "min_k", "moderate", "k_center", "keyword_density",
)  # fmt: skip
# Of the decoders of the three scales.
QUICK = small_decoder(vocab_size=512, hidden_size=64, num_layers=2, num_heads=2)
STANDARD = small_decoder(vocab_size=1024, hidden_size=128, num_layers=4, num_heads=4)
PAPER = small_decoder(vocab_size=32_000, hidden_size=2048, num_layers=16, num_heads=16)
SCALES = {
    "quick": Size(
        QUICK,
        Scale(length=64, prompt=16, forget=20, retain=20, folds=1, epochs=80, batch_size=8,
              steps=60, seeds=1),
        work.Grid(fractions=(0.05, 0.25), scored=(0.05,), compared=0.05, factors=(4,),
                  scores=("random", "grand", "min_k", "moderate"), objectives=("NPO", "RMU"),
                  others=(), words=60, points=11, relearnt=4, attack_steps=20, suffix=6,
                  candidates=64),
    ),
    "standard": Size(
        STANDARD,
        Scale(length=128, prompt=32, forget=40, retain=40, folds=1, epochs=40, batch_size=8,
              steps=100, seeds=3),
        work.Grid(fractions=(0.01, 0.05, 0.1, 0.25, 0.5), scored=(0.05, 0.25), compared=0.05,
                  factors=(0.5, 2, 4), scores=EVERY_SCORE, objectives=("NPO", "RMU"),
                  others=("SimNPO", "GradDiff"), words=150, points=21, relearnt=8,
                  attack_steps=40, suffix=10, candidates=256),
        (
            Variant("width 64, 2 layers",
                    small_decoder(vocab_size=1024, hidden_size=64, num_layers=2, num_heads=2), 40),
            Variant("20 chunks", STANDARD, 20),
            Variant("80 chunks", STANDARD, 80),
        ),
    ),
    "paper": Size(
        PAPER,
        Scale(length=512, prompt=128, forget=100, retain=100, folds=1, epochs=40, batch_size=16,
              steps=250, seeds=3),
        work.Grid(fractions=(0.01, 0.05, 0.1, 0.25, 0.5),
                  scored=(0.01, 0.05, 0.1, 0.25, 0.5), compared=0.05, factors=(0.5, 2, 4),
                  scores=EVERY_SCORE, objectives=("NPO", "RMU"), others=("SimNPO", "GradDiff"),
                  words=500, points=21, relearnt=20, attack_steps=500, suffix=20, candidates=512),
        (
            Variant("width 768, 12 layers",
                    small_decoder(vocab_size=32_000, hidden_size=768, num_layers=12,
                                  num_heads=12), 100),
            Variant("20 chunks", PAPER, 20),
        ),
    ),
}  # fmt: skip


def experiment(settings, stages: Stages, progress) -> Report:
    """Unlearn parts of a book by every score, its keywords alone, and attack what is left."""
    size = SCALES[settings.scale]
    scale, grid = size.scale, size.grid
    bar = progress.add_task("coreset: loading", total=None)
    corpus = load_books(settings.data)
    tokenizer = train_tokenizer(corpus.texts[:2], size.decoder.vocab_size)
    progress.update(bar, total=scale.seeds * _stages(size))
    inputs = {
        "scale": dataclasses.asdict(scale),
        "grid": dataclasses.asdict(grid),
        "variants": [[name, dataclasses.asdict(of), count] for name, of, count in size.variants],
        "seed": settings.seed,
        "books": corpus.texts[:2],
    }
    found, words = [], ()
    for seed in range(scale.seeds):
        books = library_of(scale, corpus, tokenizer, settings.seed + seed)
        setting = Setting(books, size.decoder, scale)
        words = words or work.keyword_list(setting, grid.words)
        title = f"coreset: seed {seed + 1} of {scale.seeds}"
        run, scratch = of_seed(stages, inputs, seed, progress, bar, title)
        key = jax.random.fold_in(jax.random.key(settings.seed), seed)
        parts = _one_seed(size, setting, run, scratch, key)
        for variant in size.variants:
            other = dataclasses.replace(scale, forget=variant.forget)
            books = library_of(other, corpus, tokenizer, settings.seed + seed)
            setting = Setting(books, variant.decoder, other)
            parts |= _one_variant(variant.name, setting, grid, run, scratch, key)
        found.append(parts)
    progress.update(bar, description="coreset: done")
    source = (
        f"{corpus.source}; {scale.forget} chunks of {scale.length} tokens of "
        f"{corpus.names[0]!r} to forget, {scale.retain} of {corpus.names[1]!r} to retain"
    )
    names = [variant.name for variant in size.variants]
    return report(source, size.decoder, scale, grid, found, words, names)


def _stages(size: Size) -> int:
    grid = size.grid
    by_score = len(grid.scored) * (len(grid.scores) - 1)
    parts = 2 * len(grid.fractions) + by_score + len(grid.factors)
    alone = len(grid.objectives) * (parts + 1 + 4 + 3)
    others = len(grid.others) * (1 + 2 * len(grid.fractions))
    return 4 + alone + others + len(size.variants) * (2 + 2 * len(grid.objectives))


def _one_seed(size: Size, setting: Setting, run, scratch, key) -> dict[str, Arrays]:
    """Return what is measured of each model, by its name."""
    scale, grid = size.scale, size.grid
    key_train, key_score, key_unlearn, key_attack, key_mask = jax.random.split(key, 5)
    target, parts = _target("", setting, run, scratch, key_train)
    words = work.keyword_list(setting, grid.words)
    hits = keyword_hits(setting.library.tokenizer, setting.library.forget, words)
    scores = run("scores", functools.partial(work.scored, setting, target, grid, hits, key_score))
    parts["scores"] = scores

    def unlearned(name, objective, forget, steps, *, keep=False):
        given = setting, objective, target, forget, steps, key_unlearn
        parts[name] = run(name, functools.partial(work.unlearned, *given, keep=keep))

    _by_fraction(setting, grid, scores, unlearned)
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


def _by_fraction(setting: Setting, grid: work.Grid, scores: Arrays, unlearned) -> None:
    """Unlearn the whole set and every part of it by every objective."""
    steps = setting.scale.steps
    for objective in (*grid.objectives, *grid.others):
        is_main = objective in grid.objectives
        unlearned(objective, objective, setting.library.forget, steps, keep=is_main)
        for fraction in grid.fractions:
            chance = work.chosen(setting, scores["random"], fraction)
            fewer = max(1, round(steps * fraction))
            unlearned(f"{objective}, epochs {fraction:g}", objective, chance, fewer)
            for score in grid.scores if is_main and fraction in grid.scored else ("random",):
                name = f"{objective}, {score} {fraction:g}"
                keep = is_main and score == "random" and fraction == grid.compared
                picked = work.chosen(setting, scores[score], fraction)
                unlearned(name, objective, picked, steps, keep=keep)
        for factor in grid.factors if is_main else ():
            chance = work.chosen(setting, scores["random"], grid.compared)
            more = max(1, round(steps * factor))
            unlearned(f"{objective}, steps {factor:g}", objective, chance, more)


def _one_variant(
    name: str, setting: Setting, grid: work.Grid, run, scratch, key
) -> dict[str, Arrays]:
    """Return what is measured of another decoder, or of other chunks, by "variant: model"."""
    key_train, key_score, key_unlearn = jax.random.split(key, 3)
    target, parts = _target(f"{name}: ", setting, run, scratch, key_train)
    forget = setting.library.forget
    chance = np.asarray(coreset.random(key_score, len(forget.tokens)))
    picked = work.chosen(setting, chance, grid.compared)
    for objective in grid.objectives:
        for title, texts in (("", forget), (f", random {grid.compared:g}", picked)):
            run_name = f"{name}: {objective}{title}"
            given = setting, objective, target, texts, setting.scale.steps, key_unlearn
            make = functools.partial(work.unlearned, *given, keep=False)
            parts[run_name] = run(run_name, make)
    return parts


def _target(front: str, setting: Setting, run, scratch, key) -> tuple[PyTree, dict[str, Arrays]]:
    """Return the parameters that know both books, and what is measured of them, by its name."""
    start = lambda key: llama.init(key, setting.decoder)
    train = functools.partial(trained, setting, "target", start, scratch(f"{front}target"), key)
    target = tree_of("params", run(f"{front}model target", train))
    measure = functools.partial(work.measured, setting, target)
    return target, {f"{front}target": run(f"{front}target", measure)}
