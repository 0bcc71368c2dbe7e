"""Unlearning of the user's texts in the user's model, and a report."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxml import checks, llm
from jaxml.commands.text_files import tokenized
from jaxml.data.text import load_texts
from jaxml.files.limits import MAX_BYTES
from jaxml.llm._measures import token_mean
from jaxml.output.plots import curves
from jaxml.output.report import Figure, Report, Table, write_report
from jaxml.output.stages import Stages
from jaxml.training import progress_bar
from jaxml.unlearning import METHODS, RETAIN_TERMS, Sequences, UnlearnConfig


def unlearn_files(
    model: Path,
    forget: Path,
    retain: Path,
    out: Path,
    *,
    config: UnlearnConfig,
    alternative: Path | None = None,
    layer: int = 7,
    length: int = 512,
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Unlearn the texts of a file and write the model and a report to `out`.

    Written: `model`, a folder of safetensors that transformers and `jaxml` load, the tokenizer
    in it where there is one to save, and a report with the losses. A run that was ended goes on
    from its checkpoints in `out`, which are known by the content of the model and the texts, by
    the settings and by the code: a run with others starts anew beside them. When a run has
    written its model and report, all checkpoints in `out` are removed.

    Args:
      model: folder of Hugging Face, GGUF, or name of a model in the cache of the hub.
      forget: texts to forget: txt, or json, jsonl, csv, parquet with a column "text".
      retain: texts to keep, as `forget`.
      out: folder.
      config: of the loop.
      alternative: for "dpo" and "idk": a text instead of each of `forget`.
      layer: that RMU steers, from 0.
      length: most tokens of a sequence; longer texts are cut.
      seed: of the batches.
      max_bytes: most memory that reading a file of texts may take.

    Returns:
      The log-probability of a token before and after, and where the model is.

    Raises:
      ValueError: a bad setting, a mistyped method before anything is loaded.
      DataError: a file that cannot be used, by its name.
      OSError: a file is missing, or `out` cannot be written.
    """
    checks.choice(METHODS, method=config.method)
    checks.choice(RETAIN_TERMS, retain=config.retain)
    checks.counts(least=2, length=length)
    files = {"forget": forget, "retain": retain}
    if alternative is not None:
        files["alternative"] = alternative
    read = {name: load_texts(path, max_bytes=max_bytes) for name, path in files.items()}
    before = llm.load(model)
    sets = {name: tokenized(before, path, read[name], length) for name, path in files.items()}
    depends = {
        "config": dataclasses.asdict(config),
        "layer": layer,
        "seed": seed,
        "model": (before.params, dataclasses.asdict(before.config)),
        "texts": sets,
    }
    checkpoints = Stages(out / "checkpoints").scratch(str(config.method), depends)
    with progress_bar("unlearn", config.steps) as progress:
        unlearned = llm.unlearn(
            jax.random.key(seed),
            before,
            sets["forget"],
            sets["retain"],
            alternative=sets.get("alternative"),
            config=config,
            layer=layer,
            folder=checkpoints,
            progress=progress,
        )
    if jax.process_index() == 0:
        llm.save(out / "model", unlearned.model)
    rows = [
        Row(name, len(texts), _token_mean(before, texts), _token_mean(unlearned.model, texts))
        for name, texts in sets.items()
    ]
    source = f"Model {model.name}, forget {forget.name}, retain {retain.name}."
    report = _unlearn_report(source, config, rows, unlearned.history)
    write_report([report], out, scale=f"{config.steps} steps", seed=seed)
    if jax.process_index() == 0:
        shutil.rmtree(checkpoints.parent, ignore_errors=True)
    changes = "; ".join(f"{row.name} {row.before:.3f} to {row.after:.3f}" for row in rows)
    return f"log-probability of a token: {changes}\nmodel: {out / 'model'}"


class Row(NamedTuple):
    """How likely texts are under the models before and after.

    Attributes:
      name: of the texts.
      sequences: number of rows.
      before: mean log-probability of a token, in nats.
      after: the same under the model after unlearning.
    """

    name: str
    sequences: int
    before: float
    after: float


def _token_mean(model: llm.Model, texts: Sequences) -> float:
    return token_mean(model.params, model.config, texts)


def _unlearn_report(
    source: str, config: UnlearnConfig, rows: Sequence[Row], history: Mapping[str, Any]
) -> Report:
    steps = np.arange(config.steps)
    panel = {
        "title": str(config.method),
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
                tuple(
                    (row.name, str(row.sequences), f"{row.before:.3f}", f"{row.after:.3f}")
                    for row in rows
                ),
            ),
            Figure("loss", "Loss of each step", curves([panel])),
        ),
        results={
            "settings": dataclasses.asdict(config),
            **{
                row.name: {"sequences": row.sequences, "before": row.before, "after": row.after}
                for row in rows
            },
        },
    )
