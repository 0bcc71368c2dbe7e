"""Unlearning a book: a small Llama that recites two is made to forget one of them."""

import dataclasses
import functools
import math

import jax

from jaxml.data.text import load_books
from jaxml.models.llama import LlamaConfig
from jaxml.models.llama.decoder import parameter_shapes
from jaxml.reproduce import unlearning_stages as work
from jaxml.reproduce.books import library, train_tokenizer
from jaxml.reproduce.report import Report
from jaxml.reproduce.stages import Arrays, Stages, tree_of
from jaxml.reproduce.unlearning_report import report

SCALES = {
    "quick": work.Scale(
        vocabulary=512,
        width=64,
        layers=2,
        heads=2,
        length=64,
        prompt=16,
        forget=8,
        retain=16,
        folds=2,
        epochs=80,
        batch_size=8,
        steps=40,
        seeds=1,
    ),
    "standard": work.Scale(
        vocabulary=1024,
        width=128,
        layers=4,
        heads=4,
        length=128,
        prompt=32,
        forget=16,
        retain=32,
        folds=4,
        epochs=40,
        batch_size=8,
        steps=60,
        seeds=3,
    ),
    "paper": work.Scale(
        vocabulary=32_000,
        width=2048,
        layers=16,
        heads=16,
        length=512,
        prompt=128,
        forget=32,
        retain=64,
        folds=4,
        epochs=40,
        batch_size=16,
        steps=200,
        seeds=3,
    ),
}
# The methods that growing sets and successive requests are measured for.
FOLLOWED = ("NPO", "RMU")


def experiment(settings, stages: Stages, progress) -> Report:
    """Train models with and without the first book, and unlearn it by every method."""
    scale = SCALES[settings.scale]
    bar = progress.add_task("unlearning: loading", total=None)
    corpus = load_books(settings.data)
    tokenizer = train_tokenizer(corpus.texts[:2], scale.vocabulary)
    decoder = LlamaConfig(
        vocabulary=scale.vocabulary,
        width=scale.width,
        layers=scale.layers,
        heads=scale.heads,
        key_heads=scale.heads,
        head_width=scale.width // scale.heads,
        mlp_width=5 * scale.width // 2,
        tied=True,
    )
    each = 4 + len(work.METHODS) + len(FOLLOWED) * scale.folds
    progress.update(bar, total=scale.seeds * each)
    inputs = {"scale": dataclasses.asdict(scale), "seed": settings.seed, "books": corpus.texts[:2]}
    found: list[dict[str, Arrays]] = []
    samples = []
    for seed in range(scale.seeds):
        key = jax.random.fold_in(jax.random.key(settings.seed), seed)
        books = library(
            corpus,
            tokenizer,
            seed=settings.seed + seed,
            length=scale.length,
            forget=scale.forget,
            retain=scale.retain,
            prompt=scale.prompt,
        )
        setting = work.Setting(books, decoder, scale)
        depends = {**inputs, "run": seed}

        def run(name, compute, seed=seed, depends=depends) -> Arrays:
            title = f"unlearning: seed {seed + 1} of {scale.seeds}, {name}"
            progress.update(bar, description=title)
            stage = f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            result = stages.run(stage, {**depends, "stage": name}, compute)
            progress.update(bar, advance=1)
            return result

        parts: dict[str, Arrays] = {}
        models = {}
        for name in ("target", "retrained"):
            scratch = stages.scratch(f"training-{name}-{seed}", depends)
            train = functools.partial(work.trained, setting, name, scratch, key)
            models[name] = tree_of("params", run(f"model {name}", train))
            parts[name] = run(name, functools.partial(work.measured, setting, models[name]))
        target, key = models["target"], jax.random.fold_in(key, 1)
        for name, method in work.METHODS.items():
            parts[name] = run(name, functools.partial(work.unlearned, setting, method, target, key))
        for name in FOLLOWED:
            method = work.METHODS[name]
            for folds in range(1, scale.folds):
                make = functools.partial(work.grown, setting, method, target, folds, key)
                parts[f"{name} {folds}"] = run(f"{name}, {folds} folds", make)
            make = functools.partial(work.requested, setting, method, target, key)
            parts[f"{name} requests"] = run(f"{name}, requests", make)
        found.append(parts)
        samples.append(books.forget_passages[0])
    progress.update(bar, description="unlearning: done")
    source = (
        f"{corpus.source}; {scale.forget} chunks of {scale.length} tokens of "
        f"{corpus.names[0]!r} to forget, as many held out, {scale.retain} of "
        f"{corpus.names[1]!r} to retain"
    )
    shapes = jax.tree.leaves(parameter_shapes(decoder), is_leaf=lambda x: isinstance(x, tuple))
    size = sum(map(math.prod, shapes))
    return report(source, size, found, samples[0], tuple(work.METHODS), FOLLOWED, scale)
