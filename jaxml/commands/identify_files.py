"""Identification of backdoor images in the user's data, by the user's classifier."""

import csv
import dataclasses
import functools
import importlib.util
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from jaxml import backdoor
from jaxml.backdoor._amplify import check_images, row_logits
from jaxml.backdoor._fit_mask import mask_optimizer
from jaxml.commands.memory import is_out_of_memory
from jaxml.data.image_rows import ImageRows, load_rows
from jaxml.files.digest import digest, file_digest
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.files.names import one_line
from jaxml.files.paths import expanded
from jaxml.files.write import write_whole
from jaxml.output.plots import new_figure, png
from jaxml.output.report import Figure, Report, Table, write_report
from jaxml.output.stages import Stages

FUNCTION = "logits_fn"
# Images of the report.
SHOWN = 12
# Of an `IdentifyState`.
FIELDS = ("round", "score", "mask", "logits")
HISTORY = ("objective", "flagged", "mask_l1")


def identify_files(
    images: Path,
    model: str,
    out: Path,
    *,
    skip_unreadable: bool = False,
    max_bytes: int = MAX_BYTES,
    config: backdoor.IdentifyConfig = backdoor.IdentifyConfig(),  # noqa: B008
    progress: Callable[[str], None] | None = None,
) -> str:
    """Find the backdoor images of a training set and write them down in `out`.

    Written: `scores.csv` (file or row number, score, flagged), `clean.txt` with the files or
    rows that are not flagged, one a line, `mask.png` with a pixel for each of the mask, white
    where the trigger is looked for, and a report with `results.json`. The state after each round
    is kept in `out`, so that a run that was ended goes on from there to the same result. A run
    with another network, wherever its weights lie, other images or settings starts anew and puts
    its states in the place of those.

    Args:
      images: folder of png or jpg, or npz; see `data.image_rows.LAYOUT`.
      model: "FILE.py" or "FILE.py:NAME": a JAX function of images `[row, height, width,
        channel]` from 0 to 1 to logits `[row, class]`; `logits_fn` by default. The file is run.
      out: folder.
      skip_unreadable: leave out images that cannot be read, and list them.
      max_bytes: most memory that reading the images may take.
      config: of the identification.
      progress: called with a line after each round.

    Returns:
      How many are flagged, and where the report is.

    Raises:
      DataError: images or a model that cannot be used, by their name, or a bad setting.
      OSError: `out` cannot be written.
    """
    logits_fn = load_model(model)
    rows = load_rows(images, skip_unreadable=skip_unreadable, max_bytes=max_bytes)
    start = time.perf_counter()
    try:
        code = file_digest(_file_and_name(model)[0])
        result = _identify(logits_fn, code, rows.images, config, out / "identify", progress)
    except ValueError as error:
        raise DataError(f"{images}, {model}: {_line(error)}") from error
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise DataError(f"{model}: failed while running: {_line(error)}") from error
    flagged = np.asarray(result.is_backdoor)
    results = {
        "images": str(images),
        "model": model,
        "rows": len(flagged),
        "flagged": int(flagged.sum()),
        "skipped": list(rows.skipped),
        "config": dataclasses.asdict(config),
        "history": result.history,
    }
    report = _report(rows, result, results)
    write_whole(out / "scores.csv", _scores(rows, result))
    write_whole(out / "clean.txt", _lines(_names(rows)[~flagged]))
    write_whole(out / "mask.png", _gray_png(np.asarray(result.mask)))
    seconds = time.perf_counter() - start
    write_report([report.finished(seconds)], out, scale="one set of images", seed=0)
    skipped = f", {len(rows.skipped)} files skipped" if rows.skipped else ""
    return (
        f"{results['flagged']} of {results['rows']} images flagged{skipped}, {seconds:.0f} s\n"
        f"report: {out / 'report.html'}"
    )


def load_model(model: str) -> Callable[[Array], Array]:
    """Return the function that "FILE.py" or "FILE.py:NAME" names; the file is run.

    Args:
      model: file and name; `logits_fn` by default.

    Returns:
      Function of images to logits. What it raises while it is traced is a DataError of one line.

    Raises:
      DataError: there is no such file or function, or the file fails.
    """
    file, name = _file_and_name(model)
    function: Any = getattr(_run_file(file), name, None)
    if not callable(function):
        raise DataError(f"{file}: no function {name!r}; accepted is FILE.py:NAME")

    def logits_fn(x: Any) -> Any:
        try:
            return function(x)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            kind = type(error).__name__
            raise DataError(f"{name} raised {kind}: {_line(error)}") from error

    return logits_fn


def _file_and_name(model: str) -> tuple[Path, str]:
    path, name = (model, FUNCTION) if model.endswith(".py") else model.rpartition(":")[::2]
    file = expanded(path)
    if not file.is_file() or file.suffix != ".py":
        raise DataError(f"{path or model}: no such file; accepted is FILE.py or FILE.py:NAME")
    return file, name


def _run_file(file: Path) -> Any:
    name = f"_jaxml_model_{file.stem}"
    specification = importlib.util.spec_from_file_location(name, file)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Classes look their module up; and the file finds its neighbours, as when run as a program.
    sys.modules[name] = module
    sys.path.insert(0, str(file.absolute().parent))
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise DataError(f"{file}: {type(error).__name__}: {_line(error)}") from error
    finally:
        sys.path.remove(str(file.absolute().parent))
    return module


def _identify(logits_fn, code, images, config, folder, progress) -> backdoor.Identification:
    """Return the identification, each round of it from disk where it was finished before."""
    x = jnp.asarray(images)
    check_images(logits_fn, x)
    depends = {
        "images": images,
        "code": code,
        "network": _content(logits_fn, x, config),
        "config": dataclasses.asdict(config),
    }
    stages = Stages(folder / "stages")

    def stage(done: int, compute: Callable[[], backdoor.IdentifyState]) -> backdoor.IdentifyState:
        return _state(stages.run(f"round_{done}", depends, lambda: _arrays(compute())), config)

    state = stage(0, functools.partial(backdoor.identify_init, logits_fn, x, config=config))
    for done in range(1, config.rounds + 1):
        step = functools.partial(backdoor.identify_step, logits_fn, x, state, config=config)
        state = stage(done, step)
        if progress is not None:
            flagged, size = (state.history[name][done] for name in ("flagged", "mask_l1"))
            progress(f"round {done} of {config.rounds}: {flagged} flagged, |mask|_1 {size:.1f}")
    return backdoor.identify_result(state)


def _content(logits_fn, x: Array, config: backdoor.IdentifyConfig) -> str:
    """Return a digest of the network: its program with all weights, wherever they come from."""
    program = jax.jit(logits_fn).lower(x[:1]).as_text()
    if "callback" not in program:
        return digest(program)
    # A program names the address of what runs on the host, which is seen by its results alone.
    return digest(row_logits(Partial(logits_fn), x, batch_size=config.score_batch_size))


def _arrays(state: backdoor.IdentifyState) -> dict[str, np.ndarray]:
    momentum = enumerate(jax.tree.leaves(state.opt_state))
    leaves = {name: getattr(state, name) for name in FIELDS} | state.history
    leaves |= {f"opt_state_{i}": leaf for i, leaf in momentum}
    return {name: _storable(leaf) for name, leaf in leaves.items()}


def _storable(leaf) -> np.ndarray:
    """Return the array, in float32 where numpy's files do not know its type, such as bfloat16."""
    array = np.asarray(leaf)
    return array if array.dtype.isbuiltin == 1 else array.astype(np.float32)


def _state(arrays: dict[str, np.ndarray], config) -> backdoor.IdentifyState:
    leaves = {name: jnp.asarray(array) for name, array in arrays.items()}
    structure = jax.tree.structure(mask_optimizer(config).init(leaves["mask"]))
    momentum = [leaves[f"opt_state_{i}"] for i in range(structure.num_leaves)]
    return backdoor.IdentifyState(
        **{name: leaves[name] for name in FIELDS},
        opt_state=jax.tree.unflatten(structure, momentum),
        history={name: leaves[name] for name in HISTORY},
    )


def _names(rows: ImageRows) -> np.ndarray:
    return np.arange(len(rows.images)) if rows.files is None else np.asarray(rows.files)


def _scores(rows: ImageRows, result: backdoor.Identification) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row" if rows.files is None else "file", "score", "flagged"])
    scores, flags = np.asarray(result.score), np.asarray(result.is_backdoor, int)
    for name, score, flag in zip(_names(rows), scores, flags, strict=True):
        table.writerow([name, f"{score:.6g}", flag])
    return text.getvalue().encode(errors="surrogateescape")


def _lines(names) -> bytes:
    """Return a line a name, with the bytes that the file has; a line break within is escaped."""
    lines = (str(name).replace("\n", "\\n").replace("\r", "\\r") for name in names)
    return "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")


def _gray_png(mask: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * mask).astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def _report(rows: ImageRows, result: backdoor.Identification, results) -> Report:
    history = {name: np.asarray(values) for name, values in result.history.items()}
    columns = (history[name] for name in HISTORY)
    share = results["flagged"] / results["rows"]
    rounds = Table(
        "The rounds: objective of the mask, images flagged after it, sum of the mask",
        ("round", "objective", "flagged", "|mask|_1"),
        tuple(
            (str(i), f"{o:.4f}", str(n), f"{m:.1f}")
            for i, (o, n, m) in enumerate(zip(*columns, strict=True))
        ),
    )
    # Images that keep their class under every scale tie, the first of them come first.
    first = np.argsort(-np.asarray(result.score), kind="stable")[:SHOWN]
    names = _names(rows)
    top = Table(
        "The highest scores",
        ("image", "score"),
        tuple((str(names[i]), f"{float(result.score[i]):+.3f}") for i in first),
    )
    parts: list[str | Table | Figure] = [
        f"{results['flagged']} of {results['rows']} images ({100 * share:.1f}%) are flagged: "
        "their score is above 0. All scores are in scores.csv, the others' names in clean.txt.",
        *_warnings(share, float(history["mask_l1"][-1])),
        rounds,
        Figure("mask", "The mask, and the scores of all images", _mask_and_scores(result)),
        Figure("images", "Images of the highest scores", _pictures(rows.images[first])),
        top,
    ]
    if rows.skipped:
        lines = tuple((line,) for line in rows.skipped)
        parts.append(Table(f"{len(lines)} files left out", ("not readable",), lines))
    return Report("identify", f"Backdoor images of {results['images']}", tuple(parts), results)


def _warnings(share: float, mask_l1: float) -> list[str]:
    """Return what speaks against the flags, if anything does."""
    if share == 0:
        return ["No image is flagged, and no mask was fitted: that of ones is shown."]
    if share > 0.5:
        return [
            "More than half are flagged. Poison is rarely so frequent: clean images of this set "
            "probably keep their class when amplified, as black-and-white ones do, and the flags "
            "then say little. Compare other scores of jaxml.backdoor."
        ]
    if mask_l1 == 0:
        return ["The mask is 0 everywhere: the flags are those of a black image's class."]
    return []


def _mask_and_scores(result: backdoor.Identification) -> bytes:
    figure, (left, right) = new_figure(9, 3.8, columns=2)
    shown = left.imshow(np.asarray(result.mask), cmap="gray", vmin=0, vmax=1)
    left.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=left)
    right.hist(np.asarray(result.score), bins=np.linspace(-1, 1, 24))
    right.axvline(0, color="black", linestyle=":")
    right.set(xlabel="score, flagged above 0", ylabel="images", yscale="log")
    return png(figure)


def _pictures(images: np.ndarray) -> bytes:
    columns = min(6, len(images))
    count = -(-len(images) // columns)
    figure, axes = new_figure(1.5 * columns, 1.5 * count, columns=columns, rows=count)
    for axis in np.ravel(axes):
        axis.axis("off")
    for axis, image in zip(np.ravel(axes), images, strict=False):
        is_gray = image.shape[-1] not in (3, 4)
        axis.imshow(image[..., 0] if is_gray else image, cmap="gray", vmin=0, vmax=1)
    return png(figure)


def _line(error: BaseException) -> str:
    return one_line(error)[:300]
