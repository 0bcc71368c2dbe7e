"""The choice of a part of the user's forget texts, by a score of their chunks under their model."""

import csv
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxml import checks, llm
from jaxml.commands.text_files import tokenized
from jaxml.data.text import load_texts
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.files.write import write_whole
from jaxml.llm._score import SCORES, Score, chunk_texts
from jaxml.output.plots import curves
from jaxml.output.report import Figure, Report, Table, write_report
from jaxml.unlearning import coreset, keywords
from jaxml.unlearning.coreset._select import Keep, check_selection

_FIRST_CHARACTERS = 60


def choose_files(
    model: Path,
    forget: Path,
    out: Path,
    *,
    retain: Path | None = None,
    score: Score = "random",
    fraction: float = 0.05,
    keep: Keep = "top",
    length: int = 512,
    count: int = 100,
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Choose chunks of a file by a score and write them and a report to `out`.

    Written: `coreset.jsonl`, the chosen chunks, the first picked first, with columns "text",
    "chunk" and "score", which `jaxml unlearn --forget` takes; `scores.csv`, every chunk with its
    number, its score, whether it is chosen and how it starts; and a report. A chunk is a row of
    `jaxml.llm.tokenize`. Its text is its tokens decoded: the parts of a word that the edge of a
    chunk cuts may be other tokens when they are read again.

    Args:
      model: folder of Hugging Face, GGUF, or name of a model in the cache of the hub.
      forget: texts to choose from: txt, or json, jsonl, csv, parquet with a column "text".
      out: folder.
      retain: texts to keep, as `forget`; for "keyword_density", and read only there.
      score: see `jaxml.llm.score`; "grand" is of the `down` matrices only.
      fraction: of the chunks to choose, above 0, 1 at most.
      keep: "top": the highest scores; "bottom": the lowest; "middle": around the median.
      length: tokens of a chunk; longer texts are cut into so many.
      count: of the keywords for "keyword_density".
      seed: of "random" and of the clusters of "moderate".
      max_bytes: most memory that reading a file of texts may take.

    Returns:
      How many chunks are chosen, and where they are.

    Raises:
      ValueError: a bad setting, before anything is loaded; nothing is written.
      DataError: a file that cannot be used, by its name, or texts that are one chunk.
      OSError: a file is missing, or `out` cannot be written.
    """
    start = time.perf_counter()
    checks.choice(SCORES, score=score)
    check_selection(fraction, keep)
    checks.counts(count=count)
    checks.counts(least=2, length=length)
    if score == "keyword_density" and retain is None:
        kept = "a file of texts to keep with score='keyword_density', whose words are no keywords"
        raise checks.refused("retain", retain, kept)
    read = load_texts(forget, max_bytes=max_bytes)
    kept_texts = []
    if retain is not None and score == "keyword_density":
        kept_texts = load_texts(retain, max_bytes=max_bytes)
    scorer = llm.load(model)
    texts = tokenized(scorer, forget, read, length)
    chunks, size = texts.tokens.shape
    if chunks == 1:
        raise DataError(
            f"{forget}: {size} tokens, one chunk of length={length}; accepted are two chunks or "
            "more: give a longer text or a smaller length"
        )
    written = chunk_texts(scorer.tokenizer, texts)
    words = keywords.extract(written, kept_texts, count=count) if kept_texts else ()
    scores = llm.score(jax.random.key(seed), score, scorer, texts, words=words)
    chosen = np.asarray(coreset.select(scores, fraction, keep=keep))
    values = np.asarray(scores, np.float64)
    settings = {"score": score, "fraction": fraction, "keep": keep, "length": length}
    results = {
        "settings": settings | ({"count": count} if words else {}),
        "chunks": chunks,
        "chosen": chosen.tolist(),
        "scores": _summary(values),
        "scores of the chosen": _summary(values[chosen]),
        **({"keywords": words} if words else {}),
    }
    report = _report(f"Model {model.name}, forget {forget.name}.", written, values, results)
    report = report.finished(time.perf_counter() - start)
    write_whole(out / "coreset.jsonl", _rows(written, values, chosen))
    write_whole(out / "scores.csv", _table(written, values, chosen))
    write_report([report], out, scale=f"{fraction:g} of the chunks", seed=seed)
    return (
        f"{len(chosen)} of {chunks} chunks chosen by {score}, {report.seconds:.0f} s\n"
        f"coreset: {out / 'coreset.jsonl'}"
    )


def _rows(written: Sequence[str], values: np.ndarray, chosen: np.ndarray) -> bytes:
    rows = ({"text": written[i], "chunk": int(i), "score": float(values[i])} for i in chosen)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _table(written: Sequence[str], values: np.ndarray, chosen: np.ndarray) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["chunk", "score", "chosen", "start"])
    is_chosen = np.isin(np.arange(len(values)), chosen).astype(int)
    for place, (value, flag) in enumerate(zip(values, is_chosen, strict=True)):
        table.writerow([place, f"{value:.6g}", flag, _start(written[place])])
    return text.getvalue().encode()


def _start(text: str) -> str:
    return " ".join(text[: 2 * _FIRST_CHARACTERS].split())[:_FIRST_CHARACTERS]


def _summary(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, (0, 50, 100))
    return {"least": low, "median": median, "greatest": high}


def _spread_row(chunks: str, count: int, summary: dict[str, float]) -> tuple[str, ...]:
    return chunks, str(count), *(f"{value:.4g}" for value in summary.values())


def _report(files: str, written, values: np.ndarray, results: dict[str, Any]) -> Report:
    name, chosen = results["settings"]["score"], np.array(results["chosen"])
    order = np.argsort(-values, kind="stable")
    rank = np.flatnonzero(np.isin(order, chosen))
    lines = {
        "all chunks": (np.arange(len(values)), values[order]),
        "chosen": (rank, values[order][rank]),
    }
    panel = {"title": name, "x": "rank of the chunk", "y": "score", "lines": lines}
    spread = (
        _spread_row("all", len(values), results["scores"]),
        _spread_row("chosen", len(chosen), results["scores of the chosen"]),
    )
    first = tuple((str(i), f"{values[i]:.4g}", _start(written[i])) for i in chosen[:20])
    parts: list[str | Table | Figure] = [
        f"{files} The chosen chunks are in coreset.jsonl, all scores in scores.csv.",
        Table("Scores", ("chunks", "number", "least", "median", "greatest"), spread),
        Figure("scores", "Scores in falling order", curves([panel])),
        Table("The first chosen", ("chunk", "score", "start"), first),
    ]
    if name == "grand":
        parts.insert(1, "GraNd is the norm of the gradient of the down matrices alone.")
    if "keywords" in results:
        parts.append(f"Keywords: {', '.join(results['keywords'])}.")
    title = f"Coreset by {name}, {results['settings']['keep']}"
    return Report(method="coreset", title=title, parts=tuple(parts), results=results)
