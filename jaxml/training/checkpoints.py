"""The checkpoints of a training run: saved whole, the newest good one restored."""

import contextlib
import logging
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxml.files.digest import digest
from jaxml.files.errors import DataError
from jaxml.files.lock import at_work
from jaxml.files.paths import is_utf8
from jaxml.sharding import to_numpy


@contextlib.contextmanager
def manager(folder: str | Path | None) -> Iterator[Any]:
    """Open the checkpoints of a folder; yields their manager, None without a folder.

    Args:
      folder: of the checkpoints of one run; it is made where it is missing.

    Returns:
      A context manager, which yields a `CheckpointManager` of orbax, or None.

    Raises:
      DataError: `folder` is a file, or no path in UTF-8, or another run is at work in it.
      OSError: it cannot be made, or a checkpoint cannot be written, such as on a full disk;
        those before it stay.
    """
    if folder is None:
        yield None
        return
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; give a folder")
    if not is_utf8(folder):
        raise DataError(f"{folder}: accepted is a path in UTF-8")
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2,
        cleanup_tmp_directories=True,
        # Otherwise a damaged date of one checkpoint keeps the whole folder from being opened.
        lightweight_initialize=True,
    )
    # A second run would take what the first is writing for what an ended one left.
    with at_work(folder):
        folder.mkdir(parents=True, exist_ok=True)
        opened = ocp.CheckpointManager(folder, options=options)
        try:
            yield opened
        finally:
            with _named(folder):
                opened.close()


def save(manager: Any, settings: dict, state: tuple, step: int, history: dict) -> None:
    """Save state and history of a step, in the background and whole or not at all.

    Args:
      manager: of the folder.
      settings: name -> place -> text of what a later call must have alike.
      state: parameters and state of the optimizer.
      step: number of steps done.
      history: name -> values of all steps so far.

    Raises:
      OSError: the folder cannot be written.
    """
    import orbax.checkpoint as ocp

    params, opt_state = state
    arrays = {"params": params, "opt_state": opt_state}
    items = ocp.args.Composite(
        settings=ocp.args.JsonSave(settings),
        state=ocp.args.StandardSave(arrays),
        history=ocp.args.StandardSave(history),
    )
    with _named(manager.directory):
        manager.save(step, args=items)


def restore(manager: Any, settings: dict, state: tuple) -> tuple[tuple, int, list]:
    """Return what the newest checkpoint holds that can be read.

    Args:
      manager: of the folder.
      settings: of this run, as for `save`.
      state: parameters and state of the optimizer at the start, whose shapes and devices the
        restored ones get.

    Returns:
      State, steps done, and a list with the history; the state given, 0 and [] where there is
      no checkpoint.

    Raises:
      DataError: it is of a run with other settings, or none can be read.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    for i, step in enumerate(steps):
        try:
            restored = _read(manager, step, settings, state)
        except _OtherSettings as difference:
            raise DataError(
                f"{manager.directory}: holds a run with other settings: {difference}; "
                "give those, or another folder"
            ) from None
        # What damage raises depends on where it is.
        except Exception as error:
            logging.getLogger(__name__).warning(
                "%s: damaged (%s), left out",
                manager.directory / str(step),
                textwrap.shorten(str(error), 100),
            )
            continue
        for damaged in steps[:i]:
            manager.delete(damaged)
        return restored
    if steps:
        raise DataError(
            f"{manager.directory}: no checkpoint in it can be read; remove it to start anew"
        )
    return state, 0, []


def described(tree: PyTree, *, content: bool) -> dict[str, str]:
    """Return what arrays are, by their places in a pytree; all processes call it together.

    Args:
      tree: pytree of arrays, which may be spread over processes.
      content: whether their values count, beside types and shapes.
    """

    def text(leaf) -> str:
        kind = f"{leaf.dtype}{list(leaf.shape)}"
        if not content:
            return kind
        here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        return f"{kind} of content {digest(leaf if here else to_numpy(leaf))[:12]}"

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): text(leaf) for path, leaf in leaves}


@contextlib.contextmanager
def _named(folder):
    """Name the folder that could not be written, and why; orbax often says neither."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = textwrap.shorten(_reason(error), 100)
        raise OSError(f"{folder}: cannot be written: {reason}") from error


def _reason(error: BaseException) -> str:
    """Return what the system said, which may be behind what was raised, or else the last part."""
    behind: BaseException | None = error
    while behind is not None:
        number = re.search(r"os_error_code='(\d+)'", str(behind))
        if number:
            return os.strerror(int(number[1]))
        if isinstance(behind, OSError) and behind.errno is not None:
            return os.strerror(behind.errno)
        behind = behind.__cause__ or behind.__context__
    return str(error).rpartition(": ")[2]


class _OtherSettings(Exception):
    pass


def _read(manager, step: int, settings, state):
    import orbax.checkpoint as ocp

    items = ocp.args.Composite(settings=ocp.args.JsonRestore())
    saved = manager.restore(step, args=items)["settings"]
    for name, now in settings.items():
        before = saved.get(name, {})
        for place in sorted({*before, *now}):
            if before.get(place) != now.get(place):
                raise _OtherSettings(
                    f"{name}{place} was {before.get(place)} and is {now.get(place)}"
                )
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    items = ocp.args.Composite(
        state=ocp.args.StandardRestore({"params": like[0], "opt_state": like[1]}),
        history=ocp.args.StandardRestore(),
    )
    restored = manager.restore(step, args=items)
    history = {name: np.asarray(values) for name, values in restored["history"].items()}
    as_saved = restored["state"]["params"], restored["state"]["opt_state"]
    return jax.tree.map(_placed_as, as_saved, state), step, [history]


def _placed_as(leaf, before):
    """Free an array of the device that orbax bound it to: a step would be compiled once more."""
    return leaf if before.committed else jnp.asarray(np.asarray(leaf))
