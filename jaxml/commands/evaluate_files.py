"""What the user's model knows of the user's texts and questions: measures, and a report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxml import checks, llm
from jaxml.commands.text_files import tokenized_file
from jaxml.data.questions import load_choice_questions, load_passages, load_questions
from jaxml.files.errors import DataError
from jaxml.llm._measures import membership
from jaxml.llm._model import not_finite
from jaxml.output.report import Report, Table, write_report
from jaxml.unlearning import metrics


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
    progress: Callable[[str], None] | None = None,
) -> str:
    """Measure what a model knows of passages, questions and texts, and write a report to `out`.

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
    subject = _load(model)
    rows: list[tuple[str, str, str]] = []
    results: dict[str, Any] = {}

    def add(measure: str, path: Path, text: str, value: Any) -> None:
        rows.append((measure, path.name, text))
        results[f"{measure}: {path.name}"] = value
        if progress is not None:
            progress(f"{measure}, {path.name}: {text}")

    if verbatim is not None:
        value = llm.evaluate(subject, verbatim=load_passages(verbatim)).verbatim
        add("VerbMem", verbatim, f"{value:.1f}", value)
    if knowledge is not None:
        value = llm.evaluate(subject, knowledge=load_questions(knowledge)).knowledge
        add("KnowMem", knowledge, f"{value:.1f}", value)
    for path in choices:
        add("accuracy", path, *_accuracy(subject, path))
    for path in texts:
        measured = llm.evaluate(subject, texts=tokenized_file(subject, path, length))
        assert measured.min_k is not None
        add("perplexity", path, f"{measured.perplexity:.2f}", measured.perplexity)
        score = float(jnp.mean(measured.min_k))
        add("Min-40%", path, f"{score:.3f}", score)
    if privacy:
        value = _privacy(subject, privacy, length)
        add("PrivLeak", privacy[0], f"{value:.1f}", value)
    report = Report(
        method="evaluation",
        title=f"What {model.name} knows",
        parts=(Table("Measures", ("measure", "file", "value"), tuple(rows)),),
        results=results,
    )
    write_report([report], out, scale="evaluation", seed=0)
    return "\n".join(f"{measure}, {name}: {text}" for measure, name, text in rows)


def _load(path: Path) -> llm.Model:
    """Return a model that may be measured: NaN writes texts and picks answers like numbers."""
    model = llm.load(path)
    if leaf := not_finite(model.params):
        raise DataError(f"{path}: parameters{leaf} with NaN or infinity; accepted are finite ones")
    return model


def _accuracy(model: llm.Model, path: Path) -> tuple[str, dict[str, float]]:
    """Return the accuracy on the questions of a file as a text and as numbers."""
    questions, about = load_choice_questions(path), path.stem.removesuffix("_test")
    right = llm.evaluate(model, choices=questions, subject=about).choices
    values = {name: float(getattr(right, name)) for name in ("accuracy", "low", "high")}
    return "{accuracy:.3f} ({low:.3f} to {high:.3f})".format(**values), values


def _privacy(model: llm.Model, files: Sequence[Path], length: int) -> float:
    forget, holdout, retrained = files
    other = _load(retrained)
    if other.config.vocab_size != model.config.vocab_size:
        raise DataError(
            f"{retrained}: a vocabulary of {other.config.vocab_size}; the model has "
            f"{model.config.vocab_size}"
        )
    sets = [tokenized_file(model, path, length) for path in (forget, holdout)]
    scores = [
        membership(each.params, each.config, texts) for each in (model, other) for texts in sets
    ]
    return float(metrics.privacy_leakage(*scores))
