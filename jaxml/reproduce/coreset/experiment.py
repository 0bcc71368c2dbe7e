"""The coreset effect: a few chunks of a book, chosen by chance, unlearn as much as all of it."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxml.data.text import TextCorpus, load_books
from jaxml.llm._score import Score, keyword_hits
from jaxml.models import llama
from jaxml.output.report import Report
from jaxml.output.stages import Arrays, SeedStages, Stages, tree_of
from jaxml.reproduce.coreset import stages as work
from jaxml.reproduce.coreset.grid import Grid
from jaxml.reproduce.coreset.report import report
from jaxml.reproduce.coreset.results import Results
from jaxml.reproduce.coreset.stages import Unlearning
from jaxml.reproduce.language.books import tokenizer_content, train_tokenizer
from jaxml.reproduce.language.setting import Scale, Setting, library_of, small_decoder
from jaxml.reproduce.language.training import trained
from jaxml.unlearning import coreset


class Variant(NamedTuple):
    """Another decoder or number of chunks to forget, to see what the effect depends on.

    Attributes:
      name: of it, in front of the names of its runs.
      decoder: shape of the network.
      forget: chunks to forget.
    """

    name: str
    decoder: llama.LlamaConfig
    forget: int


class Size(NamedTuple):
    """Size of a study.

    Attributes:
      decoder: shape of the network.
      scale: size of the texts and of the training.
      grid: what is compared.
      variants: what the effect is compared with.
    """

    decoder: llama.LlamaConfig
    scale: Scale
    grid: Grid
    variants: tuple[Variant, ...] = ()


EVERY_SCORE: tuple[Score, ...] = (
    "random",
    "el2n",
    "grand",
    "loss",
    "min_k",
    "moderate",
    "k_center",
    "keyword_density",
)
# Of the decoders of the three scales.
QUICK = small_decoder(vocab_size=512, hidden_size=64, num_layers=2, num_heads=2)
STANDARD = small_decoder(vocab_size=1024, hidden_size=128, num_layers=4, num_heads=4)
PAPER = small_decoder(vocab_size=32_000, hidden_size=2048, num_layers=16, num_heads=16)
NARROW = small_decoder(vocab_size=1024, hidden_size=64, num_layers=2, num_heads=2)
NARROW_PAPER = small_decoder(vocab_size=32_000, hidden_size=768, num_layers=12, num_heads=12)
SCALES = {
    "quick": Size(
        QUICK,
        Scale(
            length=64,
            prompt=16,
            forget=20,
            retain=20,
            folds=1,
            epochs=80,
            batch_size=8,
            steps=60,
            seeds=1,
        ),
        Grid(
            fractions=(0.05, 0.25),
            scored=(0.05,),
            compared=0.05,
            factors=(4,),
            scores=("random", "grand", "min_k", "moderate"),
            objectives=("NPO", "RMU"),
            others=(),
            words=60,
            points=11,
            relearnt=4,
            attack_steps=20,
            suffix=6,
            candidates=64,
        ),
    ),
    "standard": Size(
        STANDARD,
        Scale(
            length=128,
            prompt=32,
            forget=40,
            retain=40,
            folds=1,
            epochs=40,
            batch_size=8,
            steps=100,
            seeds=3,
        ),
        Grid(
            fractions=(0.01, 0.05, 0.1, 0.25, 0.5),
            scored=(0.05, 0.25),
            compared=0.05,
            factors=(0.5, 2, 4),
            scores=EVERY_SCORE,
            objectives=("NPO", "RMU"),
            others=("SimNPO", "GradDiff"),
            words=150,
            points=21,
            relearnt=8,
            attack_steps=40,
            suffix=10,
            candidates=256,
        ),
        (
            Variant("width 64, 2 layers", NARROW, 40),
            Variant("20 chunks", STANDARD, 20),
            Variant("80 chunks", STANDARD, 80),
        ),
    ),
    "paper": Size(
        PAPER,
        Scale(
            length=512,
            prompt=128,
            forget=100,
            retain=100,
            folds=1,
            epochs=40,
            batch_size=16,
            steps=250,
            seeds=3,
        ),
        Grid(
            fractions=(0.01, 0.05, 0.1, 0.25, 0.5),
            scored=(0.01, 0.05, 0.1, 0.25, 0.5),
            compared=0.05,
            factors=(0.5, 2, 4),
            scores=EVERY_SCORE,
            objectives=("NPO", "RMU"),
            others=("SimNPO", "GradDiff"),
            words=500,
            points=21,
            relearnt=20,
            attack_steps=500,
            suffix=20,
            candidates=512,
        ),
        (
            Variant("width 768, 12 layers", NARROW_PAPER, 100),
            Variant("20 chunks", PAPER, 20),
        ),
    ),
}


def experiment(settings, stages: Stages, progress) -> Report:
    """Unlearn parts of a book by every score, its keywords alone, and attack what is left."""
    size = SCALES[settings.scale]
    scale, grid = size.scale, size.grid
    bar = progress.add_task("coreset: loading", total=None)
    corpus = load_books(settings.data)
    tokenizer = train_tokenizer(corpus.texts[:2], size.decoder.vocab_size)
    progress.update(bar, total=scale.seeds * _stages(size))
    inputs = {
        "decoder": dataclasses.asdict(size.decoder),
        "tokenizer": tokenizer_content(tokenizer),
        "scale": dataclasses.asdict(scale),
        "grid": dataclasses.asdict(grid),
        "variants": [
            [variant.name, dataclasses.asdict(variant.decoder), variant.forget]
            for variant in size.variants
        ],
        "seed": settings.seed,
        "books": corpus.texts[:2],
    }

    def setting_of(seed: int, decoder: llama.LlamaConfig, scale: Scale) -> Setting:
        books = library_of(scale, corpus, tokenizer, settings.seed + seed)
        return Setting(books, decoder, scale)

    own = [setting_of(seed, size.decoder, scale) for seed in range(scale.seeds)]

    def measured(seed: int) -> dict[str, Arrays]:
        title = f"coreset: seed {seed + 1} of {scale.seeds}"
        stored = SeedStages(stages, inputs, seed, progress, bar, title)
        key = jax.random.fold_in(jax.random.key(settings.seed), seed)
        parts = _one_seed(own[seed], grid, stored.run, stored.scratch, key)
        for variant in size.variants:
            other = dataclasses.replace(scale, forget=variant.forget)
            setting = setting_of(seed, variant.decoder, other)
            parts |= _one_variant(variant.name, setting, grid, stored.run, stored.scratch, key)
        return parts

    results = Results(
        source=_source(corpus, scale),
        decoder=size.decoder,
        scale=scale,
        grid=grid,
        seeds=[measured(seed) for seed in range(scale.seeds)],
        words=work.keyword_list(own[0], grid.words),
        variants=[variant.name for variant in size.variants],
    )
    progress.update(bar, description="coreset: done")
    return report(results)


def _source(corpus: TextCorpus, scale: Scale) -> str:
    return (
        f"{corpus.source}; {scale.forget} chunks of {scale.length} tokens of "
        f"{corpus.names[0]!r} to forget, {scale.retain} of {corpus.names[1]!r} to retain"
    )


def _stages(size: Size) -> int:
    grid = size.grid
    by_score = len(grid.scored) * (len(grid.scores) - 1)
    parts = 2 * len(grid.fractions) + by_score + len(grid.factors)
    alone = len(grid.objectives) * (parts + 1 + 4 + 3)
    others = len(grid.others) * (1 + 2 * len(grid.fractions))
    return 4 + alone + others + len(size.variants) * (2 + 2 * len(grid.objectives))


def _one_seed(setting: Setting, grid: Grid, run, scratch, key) -> dict[str, Arrays]:
    """Return what is measured of each model, by its name."""
    key_train, key_score, key_unlearn, key_attack, key_mask = jax.random.split(key, 5)
    target, parts = _target("", setting, run, scratch, key_train)
    words = work.keyword_list(setting, grid.words)
    hits = keyword_hits(setting.library.tokenizer, setting.library.forget, words)
    scores = run("scores", functools.partial(work.scored, setting, target, grid, hits, key_score))
    parts["scores"] = scores

    def unlearned(plan: Unlearning) -> Arrays:
        make = functools.partial(work.unlearned, setting, plan, target, key_unlearn)
        return run(plan.name, make)

    def attacked(name: str, objective: str, model: PyTree) -> Arrays:
        attack = functools.partial(
            work.attacked, setting, grid, objective, target, model, key_attack
        )
        return run(name, attack)

    parts |= {plan.name: unlearned(plan) for plan in _by_fraction(setting, grid, scores)}
    sets = work.keyword_sets(setting, words, hits, key_mask)
    for objective in grid.objectives:
        for kind, texts in sets.items():
            plan = Unlearning(f"{objective}, {kind}", objective, texts, setting.scale.steps)
            parts[plan.name] = unlearned(plan)
        whole, part = (
            tree_of("params", parts[name])
            for name in (objective, f"{objective}, random {grid.compared:g}")
        )
        name = f"{objective}, path"
        parts[name] = run(name, functools.partial(work.path, setting, whole, part, grid.points))
        for which, model in (("all", whole), ("some", part)):
            name = f"{objective}, attacks on {which}"
            parts[name] = attacked(name, objective, model)
    parts["attacks on target"] = attacked("attacks on target", "target", target)
    return parts


def _by_fraction(setting: Setting, grid: Grid, scores: Arrays) -> Iterator[Unlearning]:
    """Yield the runs on the whole set and on every part of it, for every objective."""
    steps = setting.scale.steps
    for objective in (*grid.objectives, *grid.others):
        is_main = objective in grid.objectives
        yield Unlearning(objective, objective, setting.library.forget, steps, keep=is_main)
        for fraction in grid.fractions:
            chance = work.chosen(setting, scores["random"], fraction)
            fewer = max(1, round(steps * fraction))
            yield Unlearning(f"{objective}, epochs {fraction:g}", objective, chance, fewer)
            for score in grid.scores if is_main and fraction in grid.scored else ("random",):
                yield Unlearning(
                    name=f"{objective}, {score} {fraction:g}",
                    objective=objective,
                    forget=work.chosen(setting, scores[score], fraction),
                    steps=steps,
                    keep=is_main and score == "random" and fraction == grid.compared,
                )
        for factor in grid.factors if is_main else ():
            chance = work.chosen(setting, scores["random"], grid.compared)
            more = max(1, round(steps * factor))
            yield Unlearning(f"{objective}, steps {factor:g}", objective, chance, more)


def _one_variant(name: str, setting: Setting, grid: Grid, run, scratch, key) -> dict[str, Arrays]:
    """Return what is measured of another decoder, or of other chunks, by "variant: model"."""
    key_train, key_score, key_unlearn = jax.random.split(key, 3)
    target, parts = _target(f"{name}: ", setting, run, scratch, key_train)
    forget, steps = setting.library.forget, setting.scale.steps
    chance = np.asarray(coreset.random(key_score, len(forget)))
    picked = work.chosen(setting, chance, grid.compared)
    for objective in grid.objectives:
        for title, texts in (("", forget), (f", random {grid.compared:g}", picked)):
            plan = Unlearning(f"{name}: {objective}{title}", objective, texts, steps)
            make = functools.partial(work.unlearned, setting, plan, target, key_unlearn)
            parts[plan.name] = run(plan.name, make)
    return parts


def _target(front: str, setting: Setting, run, scratch, key) -> tuple[PyTree, dict[str, Arrays]]:
    """Return the parameters that know both books, and what is measured of them, by its name."""
    start = lambda key: llama.init(key, setting.decoder)
    train = functools.partial(
        trained, setting, "target", start, scratch(f"{front}model target"), key
    )
    target = tree_of("params", run(f"{front}model target", train))
    measure = functools.partial(work.measured, setting, target)
    return target, {f"{front}target": run(f"{front}target", measure)}
