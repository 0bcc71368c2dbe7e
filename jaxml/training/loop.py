"""The one training loop: optax steps in scanned chunks, with checkpoints to continue from."""

import contextlib
import dataclasses
import functools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array, Key, PyTree

from jaxml import checks
from jaxml.optimizer import optimizer_step
from jaxml.training import checkpoints, placement
from jaxml.training.batches import draw_batch, take_batch
from jaxml.training.progress import Progress

Loss = Callable[[Any, Any, Array], tuple[Any, dict[str, Any]]]
"""Of parameters, data and a key, to a scalar and a dict of scalar metrics."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trained:
    """Result of `fit`.

    Attributes:
      params: pytree of the parameters, trained.
      opt_state: state of the optimizer.
      step: steps done.
      history: "loss" and the metrics at every step from the first, numpy arrays `[step]`.
    """

    params: PyTree
    opt_state: PyTree
    step: Any
    history: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a compiled step is known by, as one static argument.

    Attributes:
      loss: as for `fit`.
      update: function of the optimizer.
      batch_size: as for `fit`.
      batch_places: of the arrays of a batch, as `placement.batch_shardings` returns them.
      at_once: steps in a compiled loop; 1 for a step without a loop.
    """

    loss: Loss
    update: Callable[..., Any]
    batch_size: int | None
    batch_places: tuple
    at_once: int


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
    depends: Mapping[str, Any] | None = None,
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
      depends: what the run in `folder` is known by, name -> number, text, None or a list of them,
        such as the files behind `data` and the settings of the loss, which as a function cannot
        be compared. By default it is the content of `params` and `data`; give something else
        where these are computed, and may differ in their last bits from call to call.
      progress: called after every chunk with the steps done, the last loss and the steps a
        second of that chunk (the first one compiles), such as what `progress_bar` yields.

    Returns:
      `Trained`, with the history of earlier calls.

    Raises:
      ValueError: a number is below 1, the loss does not return a scalar and a dict of scalars,
        rows of `data` disagree or are fewer than `batch_size`, or `folder` holds a run that is
        beyond `steps`.
      DataError: `folder` is a file, or another run is at work in it, or it holds a run with
        another key, batch size or `depends`, other metrics, parameters to start from or data, or
        no checkpoint that can be read. Settings of the optimizer are not compared, unless its
        state or `depends` has them.
      FloatingPointError: the loss or the parameters are not finite; the message names the
        step, and the checkpoints before it stay.
      OSError: `folder` cannot be written; the checkpoints before stay.
    """
    checks.counts(steps=steps, chunk=chunk)
    if batch_size is not None:
        checks.counts(batch_size=batch_size)
    mesh = placement.mesh_of((params, data))
    state = placement.on_mesh(_copied((params, optimizer.init(params))), mesh)
    data = placement.on_mesh(data, mesh)
    metrics, program = _traced_loss(loss, key, state[0], data, batch_size)
    # XLA's CPU backend runs a convolution in the body of a loop up to eighty times slower than
    # outside of one (jax issue 12868). Without one a loop is faster: it uses its memory again.
    is_slow_in_loops = jax.default_backend() == "cpu" and _has_convolution(program)
    plan = Plan(
        loss=loss,
        update=optimizer.update,
        batch_size=batch_size,
        batch_places=() if mesh is None else placement.batch_shardings(data, batch_size),
        at_once=1 if is_slow_in_loops else chunk,
    )
    settings = {}
    if folder is not None:
        settings = {
            "key": {"": str(jax.random.key_data(key).tolist())},
            "batch_size": {"": str(batch_size)},
            "metrics": {name: "" for name in metrics},
            "depends": {f"[{k!r}]": json.dumps(value) for k, value in (depends or {}).items()},
            "params": checkpoints.described(state[0], content=depends is None),
            "optimizer": checkpoints.described(state[1], content=depends is None),
            "data": checkpoints.described(data, content=depends is None),
        }
    run_steps = _compiled(*placement.shardings(state, mesh))
    step, parts = 0, []
    with _sigterm_after(folder is not None) as stop_asked, checkpoints.manager(folder) as manager:
        if manager is not None:
            state, step, parts = checkpoints.restore(manager, settings, state)
        if step > steps:
            raise checks.refused("steps", steps, f"{step} or more: {folder} has done {step}")
        # Processes that stopped at different steps would wait for each other without end.
        stop = lambda: folder is not None and placement.in_any_process(stop_asked())
        while step < steps and not stop():
            began, end = time.perf_counter(), min(steps, step - step % chunk + chunk)
            state, part, finite = _run_chunk(run_steps, plan, state, key, data, step, end)
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


def _run_chunk(run_steps, plan: Plan, state, key, data, start: int, end: int):
    """Return the state after the steps from `start`, their history, and whether all is finite."""
    finite, parts = True, []
    for first in range(start, end, plan.at_once):
        last = min(first + plan.at_once, end)
        bounds = [jnp.asarray(step, jnp.int32) for step in (first, last)]
        seen = data
        if plan.at_once == 1 and plan.batch_size is not None:
            seen = draw_batch(key, bounds[0], data, plan.batch_size, plan.batch_places)
        state, part, finite = run_steps(state, key, seen, *bounds, plan=plan)
        # A compiled loop has room for `at_once` steps.
        parts.append({name: np.asarray(values)[: last - first] for name, values in part.items()})
    return state, _join(parts), finite


@functools.cache
def _compiled(structure, places, whole):
    """Return the compiled steps, whose state comes back where it lay and the rest everywhere."""
    # Left to XLA, a state would come back split otherwise than a restored one.
    state = None if whole is None else jax.tree.unflatten(structure, places)
    return jax.jit(
        _run_steps,
        static_argnames="plan",
        donate_argnames="state",
        out_shardings=(state, whole, whole),
    )


def _run_steps(state, key, data, start, end, *, plan: Plan):
    def one_step(i, state, batch):
        params, opt_state = state
        gradient = jax.value_and_grad(plan.loss, has_aux=True)
        (value, metrics), slope = gradient(params, batch, jax.random.fold_in(key, i))
        updates, opt_state = optimizer_step(plan.update, slope, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": value, **metrics}

    def recorded(i, carry):
        state, history = carry
        batch = draw_batch(key, i, data, plan.batch_size, plan.batch_places)
        state, values = one_step(i, state, batch)
        return state, jax.tree.map(lambda all, one: all.at[i - start].set(one), history, values)

    if plan.at_once == 1:
        # `data` is the batch, drawn apart: the step then serves data of any number of rows.
        state, history = one_step(start, state, data)
        history = jax.tree.map(lambda value: value[None], history)
    else:
        # The number of steps is traced: a shorter last chunk is no second compilation.
        def first_loss(params):
            return plan.loss(params, take_batch(key, start, data, plan.batch_size), key)

        value, metrics = jax.eval_shape(first_loss, state[0])
        empty = lambda scalar: jnp.zeros(plan.at_once, scalar.dtype)
        history = jax.tree.map(empty, {"loss": value, **metrics})
        state, history = lax.fori_loop(start, end, recorded, (state, history))
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state[0])]
    return state, history, jnp.all(jnp.stack(finite))


def _copied(tree: PyTree) -> PyTree:
    """Return a pytree of arrays of its own: the steps take the memory of their state."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def _join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _traced_loss(loss, key, params, data, batch_size) -> tuple[list[str], Jaxpr]:
    """Return the names of the metrics and the program of the loss, if it returns what it should."""
    if batch_size is not None:
        rows = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(data)}
        if len(rows) != 1 or min(rows) < batch_size:
            most = f"up to the rows that all arrays of data have; they have {sorted(rows)}"
            raise checks.refused("batch_size", batch_size, most)

    def first_loss(params, data):
        return loss(params, take_batch(key, 0, data, batch_size), key)

    program, result = jax.make_jaxpr(first_loss, return_shape=True)(params, data)
    name = "loss(params, data, key)"
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise checks.refused(name, result, "(scalar, dict of scalars)")
    value, metrics = result
    scalars = {f"{name}[0]": value, **{f"{name}[1][{k!r}]": v for k, v in metrics.items()}}
    for place, scalar in scalars.items():
        if not hasattr(scalar, "shape") or scalar.shape != ():
            raise checks.refused(place, scalar, "a scalar")
    if "loss" in metrics:
        others = "other names than 'loss', which is that of the loss itself"
        raise checks.refused(f"{name}[1]", sorted(metrics), others)
    return sorted(metrics), program.jaxpr


def _has_convolution(program: Jaxpr) -> bool:
    """Return whether a program convolves, be it in a loop or in a function that it calls."""
    programs = [program]
    # It grows: what an equation holds is looked through once, however often it is called.
    for current in programs:
        for equation in current.eqns:
            if equation.primitive is lax.conv_general_dilated_p:
                return True
            programs += [inner for inner in _inner(equation.params) if inner not in programs]
    return False


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yield the programs that an equation holds; a condition has a tuple of them."""
    for value in params.values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Jaxpr | ClosedJaxpr):
                yield part.jaxpr if isinstance(part, ClosedJaxpr) else part


def _check_finite(losses, finite: bool, start: int, folder) -> None:
    wrong = ~np.isfinite(losses)
    kept = f"; {folder} holds the run up to step {start}" if folder is not None and start else ""
    if wrong.any():
        i = int(wrong.argmax())
        raise FloatingPointError(f"loss is {losses[i]} at step {start + i}{kept}")
    if not finite:
        last = start + len(losses) - 1
        raise FloatingPointError(f"parameters are not finite after step {last}{kept}")


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
