"""The diffeomorphic layer against PyTorch, and the fold-free projection against other ways.

    python benchmarks/registration.py [--quick] [--sections ...] [--out FILE]

PyTorch runs the layer in the form it was published in: a Taylor series of 19 terms on one 3 x 3
matrix a voxel, then sine transforms as dense products. It runs in a child process, on the GPU
where JAX does, else on all cores as JAX does; memory is measured without a GPU alone. Rounds are
interleaved, so the load of the machine hits all alike, and the least time of a row counts.
Compilation is measured cold and stated apart.
"""

import ctypes
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from jaxml import registration

Shape = tuple[int, ...]
SECTIONS = ("layer", "foldfree")
TERMS = 19
# PyTorch is not asked to keep more than this of the series for its backward pass.
KEPT_BYTES = 20e9


@dataclass(frozen=True)
class Settings:
    """What is measured and for how long: `seconds` bounds the rounds of one table row."""

    shapes: tuple[Shape, ...] = ((64, 64, 64), (80, 96, 112), (160, 192, 224))
    # Standard deviation of the smoothing, then amplitude, both in voxels.
    layer_field: tuple[float, float] = (4.0, 2.4)
    # The first three fold about 1% of the voxels, the last one 10%.
    fields: tuple[tuple[float, float], ...] = ((4.0, 1.75), (2.0, 0.875), (8.0, 3.5), (4.0, 2.9))
    side: int = 64
    seeds: int = 3
    rounds: int = 10
    seconds: float = 20.0


QUICK = Settings(
    shapes=((24, 28, 32),), fields=((3.0, 2.2),), side=24, seeds=1, rounds=3, seconds=2.0
)


def main() -> int:
    """Run the sections asked for and print, and write where asked, their Markdown."""
    options = harness.parsed(harness.parser("Registration: jaxml against its peers.", SECTIONS))
    settings = QUICK if options.quick else Settings()
    head = harness.machine(
        "Registration: the layer, and fields without folds",
        ("jax", "jaxlib", "numpy", "scipy", "torch"),
        "float32.",
    )
    sections = {"layer": layer, "foldfree": foldfree}
    chapters = {name: functools.partial(section, settings) for name, section in sections.items()}
    return harness.run(head, chapters, options)


# The layer ------------------------------------------------------------------------------------


def layer(settings: Settings) -> Iterator[str]:
    """Yield a table of time, memory and agreement for each size."""
    if not harness.installed("torch"):
        yield "\nPyTorch is not installed, so not measured."
    for shape in settings.shapes:
        yield from _layer_table(shape, settings)
    yield (
        "\nForward + backward: value and gradient of the mean square of the result. First call: "
        "traced and compiled cold, then run. Peak: rise of the memory of a process of its own in "
        "its second call, result included. Difference: largest one over the largest value, of the "
        "field or of the gradient."
    )


def _layer_table(shape: Shape, settings: Settings) -> Iterator[str]:
    u = random_field(shape, *settings.layer_field, seed=0)
    folds = int(registration.count_folds(jnp.asarray(u)))
    kept = 2 * (TERMS - 1) * 9 * u[..., 0].nbytes
    absent = [
        call for call in CALLS if call.startswith("PyTorch") and not harness.installed("torch")
    ]
    absent += [f"PyTorch, {BOTH}"] if kept > KEPT_BYTES else []
    calls = [call for call in CALLS if call not in absent]
    first = {}
    jax.clear_caches()
    with harness.child() as peer:
        contenders: dict[str, Callable] = {}
        for call in calls:
            if call.startswith("PyTorch"):
                contenders[call] = functools.partial(_ask, peer, call, u)
            else:
                contenders[call] = CALLS[call](u)
                first[call] = f"{contenders[call]()[0]:.1f}"
        times, values = harness.interleave(
            contenders, rounds=settings.rounds, seconds=settings.seconds
        )
    peaks = {call: _peak(call, u) for call in calls}
    size = " x ".join(map(str, shape))
    yield f"\n## {size}, {folds:,} folds ({100 * folds / u[..., 0].size:.2f}%)\n"
    yield (
        "| | ms | median | runs | PyTorch / this | peak, MB | of PyTorch's | difference | "
        "first call, s |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for call in calls:
        speedup = share = difference = ""
        if (peer_call := _reference(call)) in calls:
            speedup = f"{min(times[peer_call]) / min(times[call]):.1f}"
            share = _stated(np.divide(peaks[call], peaks[peer_call] or np.nan), ".2f")
            largest = np.max(np.abs(values[peer_call]))
            difference = f"{np.max(np.abs(values[call] - values[peer_call])) / largest:.1e}"
        yield (
            f"| {call} | {_ms(min(times[call]))} | {_ms(np.median(times[call]))} | "
            f"{len(times[call])} | {speedup} | {_stated(peaks[call] / 1e6, '.0f')} | {share} | "
            f"{difference} | {first.get(call, '')} |"
        )
    if kept > KEPT_BYTES:
        yield (
            f"\nPyTorch, {BOTH}: not run, since the series alone, of which autograd keeps each "
            f"term, takes {kept / 1e9:.0f} GB."
        )


BOTH = "forward + backward"


def _reference(call: str) -> str:
    return f"PyTorch, {BOTH if call.endswith(BOTH) else 'forward'}"


def _jax_forward(u: np.ndarray, *, whole: bool) -> Callable:
    """Return a timed call of the layer, with its exponential if `whole`, else without."""
    x = jnp.asarray(u)

    @jax.jit
    def compiled(u):
        result = registration.diffeomorphic_layer(u)
        return (result.displacement, result.exponential) if whole else (result.displacement,)

    return functools.partial(_timed, lambda: jax.block_until_ready(compiled(x))[0])


def _jax_both(u: np.ndarray) -> Callable:
    x = jnp.asarray(u)
    compiled = jax.jit(
        jax.value_and_grad(
            lambda u: jnp.mean(registration.diffeomorphic_layer(u).displacement ** 2)
        )
    )
    return functools.partial(_timed, lambda: jax.block_until_ready(compiled(x))[1])


def _torch_forward(u: np.ndarray, device: str = "cpu") -> Callable:
    import torch

    wait = harness.use_torch(device)
    planes = torch.as_tensor(np.moveaxis(u, -1, 0).copy())
    solver = torch_solver(u.shape[:-1])

    def run():
        with torch.no_grad():
            field = torch_layer(planes, solver)[0]
        wait()
        return field

    return functools.partial(_timed, run, lambda r: np.moveaxis(r.cpu().numpy(), 0, -1))


def _torch_both(u: np.ndarray, device: str = "cpu") -> Callable:
    import torch

    wait = harness.use_torch(device)
    planes = torch.as_tensor(np.moveaxis(u, -1, 0).copy()).requires_grad_()
    solver = torch_solver(u.shape[:-1])

    def run():
        planes.grad = None
        (torch_layer(planes, solver)[0] ** 2).mean().backward()
        wait()
        return planes.grad

    return functools.partial(_timed, run, lambda r: np.moveaxis(r.cpu().numpy(), 0, -1))


CALLS = {
    "PyTorch, forward": _torch_forward,
    "jaxml, forward, field alone": functools.partial(_jax_forward, whole=False),
    "jaxml, forward, field and exponential": functools.partial(_jax_forward, whole=True),
    f"PyTorch, {BOTH}": _torch_both,
    f"jaxml, {BOTH}": _jax_both,
}


def torch_layer(planes: Any, solver: Any) -> tuple[Any, Any]:
    """Return the field and the exponential by the operations of the published form.

    Args:
      planes: displacement, tensor `[3, D, H, W]`.
      solver: from `torch_solver`.
    """
    import torch

    shape = planes.shape[1:]
    columns = []
    for axis in (1, 2, 3):
        step = torch.diff(planes, dim=axis)
        columns.append(torch.cat([step, torch.zeros_like(step.narrow(axis, 0, 1))], axis))
    a = torch.stack(columns, -1).permute(1, 2, 3, 0, 4).reshape(-1, 3, 3)
    term = a
    total = torch.eye(3) + a
    for k in range(2, TERMS + 1):
        term = torch.bmm(term, a) / k
        total = total + term
    e = total.reshape(*shape, 3, 3)
    inner = e[1:-1, 1:-1, 1:-1]
    before = (e[:-2, 1:-1, 1:-1], e[1:-1, :-2, 1:-1], e[1:-1, 1:-1, :-2])
    parts = [inner[..., axis] - before[axis][..., axis] for axis in range(3)]
    source = parts[0] + parts[1] + parts[2]
    sines, eigenvalues = solver

    def transform(x):
        x = sines[1] @ (x @ sines[2])
        return (sines[0] @ x.reshape(3, x.shape[1], -1)).reshape(x.shape)

    field = transform(transform(source.permute(3, 0, 1, 2)) / eigenvalues)
    return torch.nn.functional.pad(field, (1,) * 6), e


def torch_solver(shape: Shape) -> tuple[list[Any], Any]:
    """Return the sine transforms of the interior, and the eigenvalues of the Laplacian."""
    import torch

    steps = [np.arange(1, n - 1) / (n - 1) for n in shape]
    sines = [
        np.sqrt(2 / (n - 1)) * np.sin(np.pi * (n - 1) * np.outer(s, s))
        for n, s in zip(shape, steps, strict=True)
    ]
    eigenvalues = functools.reduce(np.add.outer, [2 * np.cos(np.pi * s) - 2 for s in steps])
    tensor = lambda x: torch.as_tensor(x.astype(np.float32))
    return [tensor(s) for s in sines], tensor(eigenvalues)


def _timed(run: Callable, convert: Callable = np.asarray) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    return seconds, convert(result)


_PREPARED: dict[tuple, Callable] = {}


def _in_child(call: str, u: np.ndarray, device: str) -> tuple[float, np.ndarray]:
    """Time one call; it is prepared, and run once to warm up, when it is first asked for."""
    key = (call, u.shape)
    if key not in _PREPARED:
        _PREPARED[key] = CALLS[call](u, device)
        _PREPARED[key]()
    return _PREPARED[key]()


def _ask(child: ProcessPoolExecutor, call: str, u: np.ndarray) -> tuple[float, np.ndarray]:
    return child.submit(_in_child, call, u, harness.torch_device()).result()


def _peak(call: str, u: np.ndarray) -> float:
    """Return the rise of the peak memory of a process of its own by the second call in it."""
    if jax.default_backend() != "cpu":
        return math.nan
    with harness.child() as child:
        return child.submit(_rise, call, u).result()


def _rise(call: str, u: np.ndarray) -> float:
    timed = CALLS[call](u)
    timed()
    # Linux forgets the peak so far, which is that of imports and compilers, once glibc has given
    # back what was freed.
    peaks = Path("/proc/self/clear_refs")
    if not peaks.exists():
        return math.nan
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
    peaks.write_text("5")
    before = _status_bytes("VmRSS")
    timed()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> float:
    """Return an entry of this process's status: not ru_maxrss, which counts the parent's too."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next(
        (float(line.split()[1]) * 1024 for line in lines if line.startswith(field)), math.nan
    )


# Fields without folds -------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """What a method made of a field: forward and digital folds, change, regularity, effort."""

    forward: int
    digital: int
    smallest: float
    change: float
    sd_log: float
    iterations: int
    seconds: float


def foldfree(settings: Settings) -> Iterator[str]:
    """Yield a table for each smoothness of the field: means over seeds."""
    shape = (settings.side,) * 3
    for sigma, amplitude in settings.fields:
        fields = [random_field(shape, sigma, amplitude, seed=s) for s in range(settings.seeds)]
        yield (
            f"\n## {settings.side} cubed, white noise smoothed by {sigma:g} voxels to a standard "
            f"deviation of {amplitude:g}, {settings.seeds} seed(s)\n"
        )
        yield (
            "| | forward folds | digital folds | smallest det | rel. change | "
            "change, single pass / this | SD log det | iterations | s |"
        )
        yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
        yield _row("the field itself", [_judge(u, u, 0, 0.0) for u in fields], math.nan)
        attempts_by_method = {}
        for name, method in METHODS.items():
            method(fields[0])  # compiles
            attempts_by_method[name] = [_attempt(method, u) for u in fields]
        for name, attempts in attempts_by_method.items():
            yield _row(name, attempts, _mean(attempts_by_method[SINGLE], "change"))
    yield (
        "\nMeans over the seeds; the range of the change in brackets. Relative change: rms of "
        "the change over rms of the field. Smallest det: over the simplices of all voxels. SD "
        "log det: central differences, folds clipped at 1e-9. Iterations: trials of a search "
        "where there is one. `fold_free` demands determinants of 0.01, the others end where "
        "they are positive. Scaling and squaring gives another map, that of a velocity."
    )


def _attempt(method: Callable, u: np.ndarray) -> Attempt:
    start = time.perf_counter()
    result, iterations = method(u)
    seconds = time.perf_counter() - start
    return _judge(u, result, iterations, seconds)


def _judge(u: np.ndarray, result: np.ndarray, iterations: int, seconds: float) -> Attempt:
    v = jnp.asarray(result)
    return Attempt(
        int(registration.count_folds(v, scheme="forward")),
        int(registration.count_folds(v, scheme="digital")),
        float(jnp.min(registration.min_jacobian_determinant(v))),
        float(np.linalg.norm(result - u) / np.linalg.norm(u)),
        float(registration.sd_log_jacobian(v)),
        iterations,
        seconds,
    )


def _mean(attempts: list[Attempt], field: str) -> float:
    return float(np.mean([getattr(a, field) for a in attempts]))


def _row(name: str, attempts: list[Attempt], single: float) -> str:
    """Return a row; `single` is the mean change by the single pass."""
    mean = functools.partial(_mean, attempts)
    changes = [a.change for a in attempts]
    spread = f" ({min(changes):.4f} - {max(changes):.4f})" if max(changes) > 0 else ""
    return (
        f"| {name} | {mean('forward'):,.0f} | {mean('digital'):,.0f} | {mean('smallest'):.3f} | "
        f"{mean('change'):.4f}{spread} | {_stated(single / (mean('change') or math.nan), '.1f')} | "
        f"{mean('sd_log'):.3f} | {mean('iterations'):.0f} | {mean('seconds'):.2f} |"
    )


def _fold_free(u: np.ndarray) -> tuple[np.ndarray, int]:
    result = _compiled_fold_free(u)
    return np.asarray(result.displacement), int(result.iterations)


def _single_pass(u: np.ndarray) -> tuple[np.ndarray, int]:
    return np.asarray(_compiled_layer(u)), 1


def _local_gaussian(u: np.ndarray) -> tuple[np.ndarray, int]:
    """Smooth by 0.7 voxels within a voxel of a fold until none is left."""
    for iteration in range(500):
        folded = np.asarray(_compiled_smallest(u)) <= 0
        if not folded.any():
            return u, iteration
        near = scipy.ndimage.binary_dilation(folded)[..., None]
        u = np.where(near, scipy.ndimage.gaussian_filter(u, (0.7, 0.7, 0.7, 0), mode="nearest"), u)
    return u, 500


def _global_gaussian(u: np.ndarray, *, folds: Callable = lambda u: 0) -> tuple[np.ndarray, int]:
    """Smooth everything by the least sigma that leaves as few folds as asked for."""
    smooth = lambda s: scipy.ndimage.gaussian_filter(u, (s, s, s, 0), mode="nearest")
    return _bisect(smooth, 0.0, 12.0, folds(u))


def _shrink(u: np.ndarray) -> tuple[np.ndarray, int]:
    return _bisect(lambda s: ((1 - s) * u).astype(u.dtype), 0.0, 1.0, 0)


def _bisect(change: Callable, kept: float, enough: float, folds: int) -> tuple[np.ndarray, int]:
    for _ in range(10):
        middle = (kept + enough) / 2
        if _digital_folds(change(middle)) <= folds:
            enough = middle
        else:
            kept = middle
    return change(enough), 10


def _velocity(u: np.ndarray) -> tuple[np.ndarray, int]:
    return np.asarray(_compiled_exponential(u)), 7


def _digital_folds(u: np.ndarray) -> int:
    return int(np.sum(np.asarray(_compiled_smallest(u)) <= 0))


_compiled_fold_free = jax.jit(registration.fold_free)
_compiled_layer = jax.jit(lambda u: registration.diffeomorphic_layer(u).displacement)
_compiled_smallest = jax.jit(registration.min_jacobian_determinant)
_compiled_exponential = jax.jit(registration.integrate_velocity)

SINGLE = "the layer, a single pass as published"
METHODS: dict[str, Callable] = {
    SINGLE: _single_pass,
    "jaxml `fold_free`": _fold_free,
    "Gaussian 0.7 around folds, repeated (scipy)": _local_gaussian,
    "Gaussian everywhere, least sigma without folds (scipy)": _global_gaussian,
    "scaling and squaring, the field as a velocity": _velocity,
    "shrunk, largest factor without folds": _shrink,
    "Gaussian everywhere, to as many folds as that pass": functools.partial(
        _global_gaussian, folds=lambda u: _digital_folds(_single_pass(u)[0])
    ),
}


# Small things ---------------------------------------------------------------------------------


def random_field(shape: Shape, sigma: float, amplitude: float, *, seed: int) -> np.ndarray:
    """Return white noise smoothed by `sigma` voxels, then scaled to a deviation of `amplitude`."""
    noise = np.random.default_rng(seed).standard_normal((len(shape), *shape), dtype=np.float32)
    smooth = np.stack([scipy.ndimage.gaussian_filter(n, sigma) for n in noise], axis=-1)
    return (amplitude * smooth / smooth.std()).astype(np.float32)


def _stated(value: float, how: str) -> str:
    return "" if math.isnan(value) else format(value, how)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


if __name__ == "__main__":
    sys.exit(main())
