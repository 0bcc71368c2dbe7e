"""Unlearning of the user's texts in the user's model, and the measures of a model."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxml.data.text import load_texts
from jaxml.files.write import write_whole
from jaxml.llm._evaluate import token_mean
from jaxml.llm._tokens import tokenised
from jaxml.llm._unlearn import unlearn_decoder
from jaxml.models import llama
from jaxml.output.plots import curves
from jaxml.output.report import Figure, Report, Table, write_report
from jaxml.output.stages import Stages
from jaxml.training import progress_bar
from jaxml.unlearning import UnlearnConfig


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
        each = [token_mean(p, texts, decoder) for p in (params, found.params)]
        rows.append((name, len(texts.tokens), *each))
    source = f"Model {model.name}, forget {forget.name}, retain {retain.name}."
    report = _unlearn_report(source, config, rows, found.history)
    write_report([report], out, scale=f"{config.steps} steps", seed=seed)
    told = "; ".join(f"{name} {a:.3f} to {b:.3f}" for name, _, a, b in rows)
    return f"log-probability of a token: {told}\nmodel: {out / 'model'}"


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
