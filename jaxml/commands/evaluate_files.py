"""What the user's model knows of the user's texts and questions: measures, and a report."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxml import checks, llm
from jaxml.commands.text_files import check_words, tokenized
from jaxml.data.questions import load_choice_questions, load_passages, load_questions
from jaxml.data.text import load_texts
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.files.names import shown
from jaxml.llm._measures import membership
from jaxml.llm._model import not_finite
from jaxml.output.report import Report, Table, write_report
from jaxml.unlearning import Sequences, metrics

Measured = tuple[str, Path, str, Any]
"""Measure, file, value as a text, and value."""


def evaluate_files(
    model: Path,
    out: Path,
    *,
    verbatim: Path | None = None,
    knowledge: Path | None = None,
    choices: Sequence[Path] = (),
    texts: Sequence[Path] = (),
    privacy: Sequence[Path] | None = None,
    length: int = 512,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Measure what a model knows of passages, questions and texts, and write a report to `out`.

    All files are read, and their texts encoded, before the first is measured. Where a measure
    fails, or the run is interrupted, the report has those before.

    Args:
      model: folder of Hugging Face, GGUF, or name of a model in the cache of the hub.
      out: folder.
      verbatim: passages as of MUSE's `verbmem`.
      knowledge: questions as of MUSE's `knowmem` or TOFU.
      choices: multiple-choice questions as of WMDP or MMLU.
      texts: files whose perplexity and Min-K% are wanted.
      privacy: for PrivLeak: a file of the texts unlearned, one of texts never seen, and a model
        trained without the former.
      length: most tokens of a sequence of `texts` and `privacy`.
      max_bytes: most memory that reading a file of texts or questions may take.
      progress: called with a line after each measure.

    Returns:
      One line a measure.

    Raises:
      ValueError: nothing to measure, or `length` is below 2.
      DataError: a file that cannot be used, by its name.
      OSError: a file is missing, or `out` cannot be written.
    """
    if not (verbatim or knowledge or choices or texts or privacy):
        raise checks.refused(
            "measures", None, "--verbatim, --knowledge, --choices, --text or --privacy"
        )
    checks.counts(least=2, length=length)
    passages = [] if verbatim is None else load_passages(verbatim, max_bytes=max_bytes)
    questions = [] if knowledge is None else load_questions(knowledge, max_bytes=max_bytes)
    asked = {path: load_choice_questions(path, max_bytes=max_bytes) for path in choices}
    of_privacy = list(privacy or ())[:2]
    read = {path: load_texts(path, max_bytes=max_bytes) for path in (*texts, *of_privacy)}
    subject = _load(model)
    other = _retrained(privacy[2], subject) if privacy else None
    rows = {path: tokenized(subject, path, own, length) for path, own in read.items()}
    if verbatim is not None:
        check_words(subject, verbatim, (w for p in passages for w in (p.prompt, p.continuation)))
    if knowledge is not None:
        check_words(subject, knowledge, (q.question for q in questions))
    for path, own in asked.items():
        check_words(subject, path, (w for q in own for w in (q.question, *q.choices)))

    def measures() -> Iterator[Measured]:
        if verbatim is not None:
            value = llm.evaluate(subject, verbatim=passages).verbatim
            yield "VerbMem", verbatim, f"{value:.1f}", value
        if knowledge is not None:
            value = llm.evaluate(subject, knowledge=questions).knowledge
            yield "KnowMem", knowledge, f"{value:.1f}", value
        for path, own in asked.items():
            yield "accuracy", path, *_accuracy(subject, path, own)
        for path in dict.fromkeys(texts):
            yield from _likelihood(subject, path, rows[path])
        if other is not None:
            value = _privacy(subject, other, [rows[path] for path in of_privacy])
            yield "PrivLeak", of_privacy[0], f"{value:.1f}", value

    files = {path for path in (verbatim, knowledge, *asked, *read) if path is not None}
    names = [path.name for path in files]
    lines: list[tuple[str, str, str]] = []
    results: dict[str, Any] = {}
    try:
        for measure, path, text, value in measures():
            name = path.name if names.count(path.name) == 1 else str(path)
            lines.append((measure, name, text))
            results[f"{measure}: {name}"] = value
            if progress is not None:
                progress(_line(lines[-1]))
    finally:
        if lines:
            table = Table("Measures", ("measure", "file", "value"), tuple(lines))
            report = Report("evaluation", f"What {model.name} knows", (table,), results)
            write_report([report], out, scale="evaluation", seed=0)
    return "\n".join(map(_line, lines))


def _line(row: tuple[str, str, str]) -> str:
    measure, name, text = row
    return f"{measure}, {shown(name)}: {text}"


def _load(path: Path) -> llm.Model:
    """Return a model that may be measured: NaN writes texts and picks answers like numbers."""
    model = llm.load(path)
    if leaf := not_finite(model.params):
        raise DataError(f"{path}: parameters{leaf} with NaN or infinity; accepted are finite ones")
    return model


def _accuracy(model: llm.Model, path: Path, questions) -> tuple[str, dict[str, float]]:
    """Return the accuracy on the questions of a file as a text and as numbers."""
    about = path.stem.removesuffix("_test")
    right = llm.evaluate(model, choices=questions, subject=about).choices
    values = {name: float(getattr(right, name)) for name in ("accuracy", "low", "high")}
    return "{accuracy:.3f} ({low:.3f} to {high:.3f})".format(**values), values


def _likelihood(model: llm.Model, path: Path, texts: Sequences) -> Iterator[Measured]:
    measured = llm.evaluate(model, texts=texts)
    assert measured.min_k is not None
    yield "perplexity", path, f"{measured.perplexity:.2f}", measured.perplexity
    score = float(jnp.mean(measured.min_k))
    yield "Min-40%", path, f"{score:.3f}", score


def _retrained(path: Path, model: llm.Model) -> llm.Model:
    other = _load(path)
    if other.config.vocab_size != model.config.vocab_size:
        raise DataError(
            f"{path}: a vocabulary of {other.config.vocab_size}; the model has "
            f"{model.config.vocab_size}"
        )
    return other


def _privacy(model: llm.Model, other: llm.Model, sets: Sequence[Sequences]) -> float:
    scores = [
        membership(each.params, each.config, texts) for each in (model, other) for texts in sets
    ]
    return float(metrics.privacy_leakage(*scores))
