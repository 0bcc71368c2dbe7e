"""What the user's model knows of the user's texts and questions: measures, and a report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxml.data.questions import load_choice_questions, load_passages, load_questions
from jaxml.data.text import load_texts
from jaxml.llm._evaluate import choices as choice_accuracy
from jaxml.llm._evaluate import knowledge as answered
from jaxml.llm._evaluate import membership, token_mean
from jaxml.llm._evaluate import verbatim as recited
from jaxml.llm._tokens import tokenised
from jaxml.models import llama
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
      model: folder of Hugging Face, or GGUF.
      out: folder.
      verbatim: passages as of MUSE's `verbmem`.
      knowledge: questions as of MUSE's `knowmem` or TOFU.
      choices: multiple-choice questions as of WMDP or MMLU.
      texts: files whose perplexity and Min-K% are wanted.
      privacy: for PrivLeak: a file of the texts unlearned, one of texts never seen, and a model
        trained without the former.
      length: tokens of a sequence of `texts` and `privacy`.
      progress: called with a line after each measure.

    Returns:
      One line a measure.

    Raises:
      ValueError: nothing to measure, or a file that cannot be used, by its name.
      OSError: a file is missing, or `out` cannot be written.
    """
    if not (verbatim or knowledge or choices or texts or privacy):
        raise ValueError(
            "nothing to measure; give --verbatim, --knowledge, --choices, --text or --privacy"
        )
    loaded = llama.load(model)
    params, decoder = loaded.params, loaded.config
    tokenizer = llama.load_tokenizer(model, decoder)
    given = params, decoder, tokenizer
    rows: list[tuple[str, str, str]] = []
    results: dict[str, Any] = {}

    def tell(measure: str, path: Path, text: str, value: Any) -> None:
        rows.append((measure, path.name, text))
        results[f"{measure}: {path.name}"] = value
        if progress is not None:
            progress(f"{measure}, {path.name}: {text}")

    if verbatim is not None:
        value = recited(*given, load_passages(verbatim))
        tell("VerbMem", verbatim, f"{value:.1f}", value)
    if knowledge is not None:
        value = answered(*given, load_questions(knowledge))
        tell("KnowMem", knowledge, f"{value:.1f}", value)
    for path in choices:
        questions = load_choice_questions(path)
        subject = path.stem.removesuffix("_test")
        found = choice_accuracy(*given, questions, subject=subject)
        share, low, high = (float(x) for x in (found.accuracy, found.low, found.high))
        text = f"{share:.3f} ({low:.3f} to {high:.3f})"
        tell("accuracy", path, text, {"accuracy": share, "low": low, "high": high})
    for path in texts:
        rows_of = tokenised(load_texts(path), tokenizer, length, path)
        value = float(np.exp(-token_mean(params, rows_of, decoder)))
        tell("perplexity", path, f"{value:.2f}", value)
        score = float(jnp.mean(membership(params, decoder, rows_of)))
        tell("Min-40%", path, f"{score:.3f}", score)
    if privacy:
        value = _privacy(*given, privacy, length)
        tell("PrivLeak", privacy[0], f"{value:.1f}", value)
    report = Report(
        method="evaluation",
        title=f"What {model.name} knows",
        parts=(Table("Measures", ("measure", "file", "value"), tuple(rows)),),
        results=results,
    )
    write_report([report], out, scale="evaluation", seed=0)
    return "\n".join(f"{measure}, {name}: {text}" for measure, name, text in rows)


def _privacy(params, decoder, tokenizer, files: Sequence[Path], length: int) -> float:
    forget, holdout, retrained = files
    other = llama.load(retrained)
    if other.config.vocab_size != decoder.vocab_size:
        raise ValueError(
            f"{retrained}: a vocabulary of {other.config.vocab_size}; the model has "
            f"{decoder.vocab_size}"
        )
    models = ((params, decoder), (other.params, other.config))
    sets = [tokenised(load_texts(path), tokenizer, length, path) for path in (forget, holdout)]
    scores = [membership(*model, texts) for model in models for texts in sets]
    return float(metrics.privacy_leakage(*scores))
