"""The one training loop: optax steps in scanned chunks, with checkpoints to continue from."""

import contextlib
import dataclasses
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from jaxml.training import checkpoints, placement

Loss = Callable[[Any, Any, Array], tuple[Any, dict[str, Any]]]
"""Of parameters, data and a key, to a scalar and a dict of scalar metrics."""
Progress = Callable[[int, float, float], None]
"""Called with the steps done, the last loss and the steps a second."""

# Folded into the key for the order of rows: no step has this number.
_ORDER = np.uint32(2**32 - 1)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "opt_state", "step", "history"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Trained:
    """Result of `fit`.

    Attributes:
      params: as given, trained.
      opt_state: state of the optimizer.
      step: steps done.
      history: "loss" and the metrics at every step from the first, numpy arrays `[step]`.
    """

    params: PyTree
    opt_state: PyTree
    step: Any
    history: dict[str, Any]


def fit(
    key: Key[Array, ""],
    loss: Loss,
    params: PyTree,
    data: PyTree,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    chunk: int = 100,
    batch_size: int | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Minimise a loss by `steps` steps of an optimizer, from where `folder` has got to.

    A chunk of steps is one compiled loop; on a CPU, where the loss has convolutions, a step is
    one compiled call, which serves data of any number of rows. What is compiled is kept for
    calls with the same `loss` and `optimizer.update` objects.

    With `folder`, parameters, optimizer state and history are saved after every chunk, in the
    background and whole or not at all; the last two checkpoints stay. A call with the same
    arguments goes on from the newest one and ends with the same bits (on one kind of machine)
    as an unbroken run; more `steps` than before train on. A damaged checkpoint is left out
    with a warning for the one before. On SIGTERM in the main thread the chunk is finished and
    saved, and then the process ends as it would have.

    On several devices or processes (`jaxml.sharding`) the arrays stay where they lie: parameters
    on all devices or split over them, data with rows split over them, and the batches then are
    split likewise if the devices divide `batch_size`. What lies on one device is copied to the
    others, and must be the same in all processes. All processes call this, with one `folder`
    that all see; one that gets a SIGTERM ends them all. A run may go on with another number of
    devices or processes: then the bits differ by the order of sums.

    Args:
      key: step i gets `jax.random.fold_in(key, i)`.
      loss: pure function of parameters, data (or the batch) and the key of the step, to the
        scalar loss and a dict of scalar metrics. Its arrays come as arguments: an array it
        captures is a constant that XLA may spend minutes on.
      params: pytree of arrays; not consumed.
      data: pytree of arrays, handed to the loss whole unless `batch_size` is given.
      optimizer: of optax.
      steps: number to reach, those of earlier calls included.
      chunk: steps between checkpoints.
      batch_size: hand the loss this many rows of every array of `data`, then `[rows, ...]`,
        chosen by `batch_indices`.
      folder: of the checkpoints of this run alone.
      progress: called after every chunk with the steps done, the last loss and the steps a
        second of that chunk (the first one compiles), such as what `progress_bar` yields.

    Raises:
      ValueError: a number is below 1, the loss does not return a scalar and a dict of scalars,
        rows of `data` disagree or are fewer than `batch_size`, or `folder` holds a run with
        another key, optimizer state, shapes, batch size or metrics, one that is beyond `steps`,
        or no checkpoint that can be read. Values of `data` and of the optimizer's settings
        are not compared.
      FloatingPointError: the loss or the parameters are not finite; the message names the
        step, and the checkpoints before it stay.
      OSError: `folder` cannot be written; the checkpoints before stay.
    """
    _check_numbers(steps=steps, chunk=chunk, batch_size=batch_size)
    own = lambda tree: jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)
    mesh = placement.mesh_of((params, data))
    state = placement.on_mesh(own((params, optimizer.init(params))), mesh)
    data = placement.on_mesh(data, mesh)
    metrics, convolves = _check_loss(loss, key, state[0], data, batch_size)
    # XLA's CPU backend runs a convolution in the body of a loop up to eighty times slower than
    # outside of one (jax issue 12868). Without one a loop is faster: it uses its memory again.
    at_once = 1 if convolves and jax.default_backend() == "cpu" else chunk
    settings = {
        "key": {"": str(jax.random.key_data(key).tolist())},
        "batch_size": {"": str(batch_size)},
        "metrics": {name: "" for name in metrics},
        "params": _describe(state[0]),
        "optimizer": _describe(state[1]),
        "data": _describe(data),
    }
    run_steps = _compiled(*placement.shardings(state, mesh))
    batch_places = () if mesh is None else placement.batch_shardings(data, batch_size)
    step, parts = 0, []
    with _sigterm_after(folder is not None) as stop_asked, checkpoints.manager(folder) as manager:
        if manager is not None:
            state, step, parts = checkpoints.restore(manager, settings, state)
        if step > steps:
            raise ValueError(f"steps={steps}: {folder} holds a run that has done {step}")
        # Processes that stopped at different steps would wait for each other without end.
        stop = lambda: folder is not None and placement.in_any_process(stop_asked())
        while step < steps and not stop():
            began, end = time.perf_counter(), min(steps, step - step % chunk + chunk)
            state, part, finite = _run_chunk(
                run_steps,
                state,
                key,
                data,
                step,
                loss=loss,
                update=optimizer.update,
                batch_size=batch_size,
                batch_places=batch_places,
                length=end - step,
                at_once=at_once,
            )
            _check_finite(part["loss"], bool(finite), step, folder)
            rate = (end - step) / (time.perf_counter() - began)
            step = end
            parts.append(part)
            if manager is not None:
                checkpoints.save(manager, settings, state, step, _join(parts))
            if progress is not None:
                progress(step, float(part["loss"][-1]), rate)
    if step < steps:
        # A handler of the caller's own took the signal and returned, or another process got it.
        raise SystemExit(128 + signal.SIGTERM)
    params, opt_state = state
    return Trained(params, opt_state, step, _join(parts))


def batch_indices(
    key: Key[Array, ""], step: Int[ArrayLike, ""], rows: int, batch_size: int
) -> Int[Array, " batch"]:
    """Return the rows of one batch, drawn without replacement from epoch to epoch.

    Each epoch is a new permutation of all rows, and the batches are cut from the epochs laid
    end to end: every row comes exactly once an epoch, none is dropped or repeated to fill a
    batch. Where `batch_size` does not divide `rows`, a batch may hold the end of one epoch and
    the start of the next, and then may hold a row twice.

    Args:
      key: the same for all steps.
      step: number of the batch, from 0; may be traced.
      rows: number of rows.
      batch_size: rows in a batch, at most `rows`.

    Returns:
      Row numbers `[batch]`, int32.

    Raises:
      ValueError: `batch_size` is not in 1 to `rows`, or their product is 2^32 or more.
    """
    if not 1 <= batch_size <= rows:
        raise ValueError(f"batch_size={batch_size}: accepted is 1 to rows={rows}")
    if rows * batch_size >= 2**32:
        raise ValueError(f"rows={rows}, batch_size={batch_size}: their product must be below 2^32")
    # Batch `step` starts at place step * batch_size, which itself could overflow.
    step, rows_, size = (jnp.asarray(n).astype(jnp.uint32) for n in (step, rows, batch_size))
    within = step % rows_ * size
    epoch, start = step // rows_ * size + within // rows_, within % rows_
    order = lambda epoch: jax.random.permutation(
        jax.random.fold_in(key, epoch), jnp.arange(rows, dtype=jnp.int32)
    )
    first = order(epoch)
    crosses = start > jnp.uint32(rows - batch_size)
    second = lax.cond(crosses, lambda: order(epoch + jnp.uint32(1)), lambda: first)
    place = start.astype(jnp.int32) + jnp.arange(batch_size, dtype=jnp.int32)
    inside = place < rows
    place = jnp.where(inside, place, place - rows)
    return jnp.where(inside, first[place], second[place])


@contextlib.contextmanager
def progress_bar(title: str, steps: int) -> Iterator[Progress]:
    """Show a bar with loss and rate in the terminal; yields the `progress` of `fit`.

    Of several processes the first shows it.

    Args:
      title: text before the bar.
      steps: number the bar ends at.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    text = TextColumn("loss {task.fields[loss]:.4g}  {task.fields[rate]:.3g} steps/s")
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn()
    with Progress(*columns, disable=jax.process_index() != 0) as bar:
        task = bar.add_task(title, total=steps, loss=float("nan"), rate=0.0)
        yield lambda step, loss, rate: bar.update(task, completed=step, loss=loss, rate=rate)


def _run_chunk(run_steps, state, key, data, start, *, length, at_once, **settings):
    """Return the state after `length` steps, their history, and whether all is finite."""
    finite, parts = True, []
    for first in range(0, length, at_once):
        count = min(at_once, length - first)
        place, end = (jnp.asarray(start + i, jnp.int32) for i in (first, first + count))
        seen = data
        if at_once == 1 and settings["batch_size"] is not None:
            seen = _draw(key, place, data, settings["batch_size"], settings["batch_places"])
        state, part, finite = run_steps(state, key, seen, place, end, at_once=at_once, **settings)
        parts.append(jax.tree.map(lambda values: np.asarray(values)[:count], part))  # noqa: B023
    return state, _join(parts), finite


@functools.partial(jax.jit, static_argnames=("batch_size", "batch_places"))
def _draw(key, step, data, batch_size, batch_places):
    return placement.constrain(_batch(key, step, data, batch_size), batch_places)


@functools.cache
def _compiled(structure, places, whole):
    """Return the compiled steps, whose state comes back where it lay and the rest everywhere."""
    # Left to XLA, a state would come back split otherwise than a restored one.
    state = None if whole is None else jax.tree.unflatten(structure, places)
    return jax.jit(
        _run_steps,
        static_argnames=("loss", "update", "batch_size", "batch_places", "at_once"),
        donate_argnames="state",
        out_shardings=(state, whole, whole),
    )


def _run_steps(state, key, data, start, end, *, loss, update, batch_size, batch_places, at_once):
    def one_step(i, state, batch):
        params, opt_state = state
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, metrics), slope = gradient(params, batch, jax.random.fold_in(key, i))
        # Optimizers of optax are not written for strict promotion, which the loss may be under.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = update(slope, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": value, **metrics}

    def recorded(i, carry):
        state, history = carry
        batch = _draw(key, i, data, batch_size, batch_places)
        state, values = one_step(i, state, batch)
        return state, jax.tree.map(lambda all, one: all.at[i - start].set(one), history, values)

    if at_once == 1:
        # `data` is the batch, drawn apart: the step then serves data of any number of rows.
        state, history = one_step(start, state, data)
        history = jax.tree.map(lambda value: value[None], history)
    else:
        # The number of steps is traced: a shorter last chunk is no second compilation.
        of_loss = lambda params: loss(params, _batch(key, start, data, batch_size), key)
        value, metrics = jax.eval_shape(of_loss, state[0])
        none = lambda scalar: jnp.zeros(at_once, scalar.dtype)
        history = jax.tree.map(none, {"loss": value, **metrics})
        state, history = lax.fori_loop(start, end, recorded, (state, history))
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state[0])]
    return state, history, jnp.all(jnp.stack(finite))


def _batch(key, step, data, batch_size):
    if batch_size is None:
        return data
    rows = jax.tree.leaves(data)[0].shape[0]
    index = batch_indices(jax.random.fold_in(key, _ORDER), step, rows, batch_size)
    return jax.tree.map(lambda leaf: leaf[index], data)


def _join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name}={number}: accepted is 1 or more")


def _check_loss(loss, key, params, data, batch_size) -> tuple[list[str], bool]:
    """Return the names of the metrics, and whether the loss has convolutions."""
    if batch_size is not None:
        counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(data)}
        if len(counts) != 1 or min(counts) < batch_size:
            raise ValueError(f"batch_size={batch_size}: arrays of data have {sorted(counts)} rows")
    call = lambda params, data: loss(params, _batch(key, 0, data, batch_size), key)
    program, result = jax.make_jaxpr(call, return_shape=True)(params, data)
    scalar = lambda x: hasattr(x, "shape") and x.shape == ()
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise ValueError(f"loss: returns {result}; accepted is (scalar, dict of scalars)")
    for name, value in {**result[1], "the loss": result[0]}.items():
        if not scalar(value):
            raise ValueError(f"loss: {name} is {value}; accepted are scalars")
    if "loss" in result[1]:
        raise ValueError("loss: a metric is called 'loss', which is the name of the loss itself")
    return sorted(result[1]), "conv_general_dilated" in str(program)


def _check_finite(losses, finite: bool, start: int, folder) -> None:
    wrong = ~np.isfinite(losses)
    kept = f"; {folder} holds the run up to step {start}" if folder is not None and start else ""
    if wrong.any():
        i = int(wrong.argmax())
        raise FloatingPointError(f"loss is {losses[i]} at step {start + i}{kept}")
    if not finite:
        last = start + len(losses) - 1
        raise FloatingPointError(f"parameters are not finite after step {last}{kept}")


def _describe(tree: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


@contextlib.contextmanager
def _sigterm_after(wanted: bool):
    """Hold SIGTERM back until the end; yields a function that tells whether it came."""
    previous = signal.getsignal(signal.SIGTERM)
    main = threading.current_thread() is threading.main_thread()
    if not (wanted and main) or previous in (signal.SIG_IGN, None):
        yield lambda: False
        return
    came = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, previous)
        if came.is_set():
            signal.raise_signal(signal.SIGTERM)
