"""Unlearning of the user's texts in the user's model, and the measures of a model."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml.data.questions import load_choice_questions, load_passages, load_questions
from jaxml.data.text import load_texts
from jaxml.models import llama
from jaxml.reproduce.evaluate_decoder import choices as choice_accuracy
from jaxml.reproduce.evaluate_decoder import knowledge as answered
from jaxml.reproduce.evaluate_decoder import membership
from jaxml.reproduce.evaluate_decoder import verbatim as recited
from jaxml.reproduce.plots import curves
from jaxml.reproduce.report import Figure, Report, Table, write_report
from jaxml.reproduce.stages import Stages, write_whole
from jaxml.reproduce.unlearn_decoder import sequence_log_probs, unlearn_decoder
from jaxml.training import progress_bar
from jaxml.unlearning import Sequences, UnlearnConfig, metrics


def unlearn_files(
    model: Path,
    forget: Path,
    retain: Path,
    out: Path,
    *,
    config: UnlearnConfig,
    alternative: Path | None = None,
    layer: int,
    length: int,
    seed: int,
) -> str:
    """Unlearn the texts of a file and write the model and a report to `out`.

    Written: `model`, a folder of safetensors that transformers and `jaxml` load, the tokenizer
    in it where there is one to save, and a report with the losses. A run that was ended goes on
    from its checkpoints in `out`.

    Args:
      model: folder of Hugging Face, or GGUF.
      forget: texts to forget: txt, or json, jsonl, csv, parquet with a column "text".
      retain: texts to keep, as `forget`.
      out: folder.
      config: of the loop.
      alternative: for "dpo" and "idk": a text instead of each of `forget`.
      layer: that RMU steers, from 0.
      length: tokens of a sequence; longer texts are cut into so many, shorter ones are padded.
      seed: of the batches.

    Returns:
      The log-probability of a token before and after, and where the model is.

    Raises:
      ValueError: a file that cannot be used, by its name, or a bad setting.
      OSError: a file is missing, or `out` cannot be written.
    """
    loaded = llama.load(model)
    params, decoder = loaded.params, loaded.config
    tokenizer = llama.load_tokenizer(model, decoder)
    files = {"forget": forget, "retain": retain}
    if alternative is not None:
        files["alternative"] = alternative
    sets = {
        name: tokenised(load_texts(path), tokenizer, length, path) for name, path in files.items()
    }
    # Other settings or texts are another run.
    depends = {
        "config": dataclasses.asdict(config),
        "layer": layer,
        "seed": seed,
        "model": str(model.absolute()),
        **{name: np.asarray(texts.tokens) for name, texts in sets.items()},
    }
    checkpoints = Stages(out / "checkpoints").scratch(config.method, depends)
    with progress_bar("unlearn", config.steps) as progress:
        found = unlearn_decoder(
            jax.random.key(seed),
            params,
            decoder,
            sets["forget"],
            sets["retain"],
            config=config,
            alternative=sets.get("alternative"),
            layer=layer,
            folder=checkpoints,
            progress=progress,
        )
    if jax.process_index() == 0:
        llama.save(out / "model", found.params, decoder)
        _save_tokenizer(tokenizer, out / "model")
    rows = []
    for name, texts in sets.items():
        each = [_token_mean(p, texts, decoder) for p in (params, found.params)]
        rows.append((name, len(texts.tokens), *each))
    source = f"Model {model.name}, forget {forget.name}, retain {retain.name}."
    report = _unlearn_report(source, config, rows, found.history)
    write_report([report], out, scale=f"{config.steps} steps", seed=seed)
    told = "; ".join(f"{name} {a:.3f} to {b:.3f}" for name, _, a, b in rows)
    return f"log-probability of a token: {told}\nmodel: {out / 'model'}"


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
        value = float(np.exp(-_token_mean(params, rows_of, decoder)))
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


def tokenised(texts: Sequence[str], tokenizer: Any, length: int, path: Path) -> Sequences:
    """Return texts as sequences of one length: long ones cut, short ones padded.

    Args:
      texts: of a file.
      tokenizer: of Hugging Face.
      length: tokens of a sequence, that of the beginning of a text included.
      path: of the file, for messages.

    Raises:
      ValueError: `length` is below 2, or no text has a token.
    """
    if length < 2:
        raise ValueError(f"length={length}: accepted is 2 or more")
    first = getattr(tokenizer, "bos_token_id", None)
    head = [] if first is None else [first]
    room = length - len(head)
    pieces = []
    for text in texts:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        pieces += [head + tokens[i : i + room] for i in range(0, len(tokens), room)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    if not pieces:
        raise ValueError(f"{path}: no text of 2 tokens or more")
    longest = max(map(len, pieces))
    tokens = np.zeros((len(pieces), longest), np.int32)
    mask = np.zeros((len(pieces), longest), bool)
    for row, piece in enumerate(pieces):
        tokens[row, : len(piece)] = piece
        mask[row, : len(piece)] = True
    return Sequences(jnp.asarray(tokens), jnp.asarray(mask))


def _unlearn_report(source: str, config: UnlearnConfig, rows, history) -> Report:
    steps = np.arange(config.steps)
    panel = {
        "title": config.method,
        "x": "step",
        "y": "loss",
        "lines": {name: (steps, values) for name, values in history.items()},
    }
    return Report(
        method="unlearn",
        title=f"Unlearning by {config.method}",
        parts=(
            source,
            Table(
                "Mean log-probability of a token, in nats",
                ("texts", "sequences", "before", "after"),
                tuple((n, str(k), f"{a:.3f}", f"{b:.3f}") for n, k, a, b in rows),
            ),
            Figure("loss", "Loss of each step", curves([panel])),
        ),
        results={
            "settings": dataclasses.asdict(config),
            **{n: {"sequences": k, "before": a, "after": b} for n, k, a, b in rows},
        },
    )


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the files of a tokenizer, each whole."""
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        for file in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            write_whole(folder / file.relative_to(scratch), file.read_bytes())


def _privacy(params, decoder, tokenizer, files: Sequence[Path], length: int) -> float:
    forget, holdout, retrained = files
    other = llama.load(retrained)
    if other.config.vocabulary != decoder.vocabulary:
        raise ValueError(
            f"{retrained}: a vocabulary of {other.config.vocabulary}; the model has "
            f"{decoder.vocabulary}"
        )
    models = ((params, decoder), (other.params, other.config))
    sets = [tokenised(load_texts(path), tokenizer, length, path) for path in (forget, holdout)]
    scores = [membership(*model, texts) for model in models for texts in sets]
    return float(metrics.privacy_leakage(*scores))


def _token_mean(params, texts: Sequences, decoder) -> float:
    """Return the mean log-probability of a token, in nats."""
    total = float(jnp.sum(sequence_log_probs(params, texts, decoder)))
    return total / float(jnp.sum(texts.mask[:, 1:]))
