"""MFDFA of white noise: jaxml against MFDFA, mf-toolkit, fathon and neurokit2 in one run.

    python benchmarks/multifractal.py [--quick] [--sections ...] [--out FILE]

Every contender gets the same numpy series, scales and moment orders, host to host. The peers
run in child processes with one BLAS thread, their best setting: more threads only spin on
products this small. Rounds are interleaved, so the load of the machine hits all alike, and the
least time of a row counts. Compilation is measured cold and stated apart.
"""

import functools
import importlib
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import harness
import jax
import numpy as np

from jaxml import multifractal, sharding

Q = np.arange(-5, 5.01, 0.25)
DTYPES = ("float32", "float64")
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
SECTIONS = ("single", "batch", "growth", "memory")


@dataclass(frozen=True)
class Settings:
    """What is measured and for how long.

    In each of the `rounds` a contender runs for `turn` seconds, or once where that takes
    longer; `seconds` bounds all runs of one table row.
    """

    singles: tuple[tuple[int, int], ...] = ((2**16, 1), (2**16, 2), (2**20, 1))
    batch: tuple[int, int] = (200, 16_000)
    growth: tuple[int, ...] = tuple(2**k for k in range(14, 23))
    memory: int = 2**22
    rounds: int = 15
    seconds: float = 6.0
    turn: float = 0.1
    # fathon repeats every fit for every q, neurokit2 loops over segments in Python.
    slow_limit: int = 2**16


QUICK = Settings(
    singles=((2**13, 1),),
    batch=(16, 4_000),
    growth=(2**12, 2**14, 2**16),
    memory=2**16,
    rounds=3,
    seconds=2.0,
    slow_limit=2**13,
)


def main() -> int:
    """Run the sections asked for and print, and write where asked, their Markdown."""
    options = harness.parsed(harness.parser("MFDFA: jaxml against its peers.", SECTIONS))
    settings = QUICK if options.quick else Settings()
    sections = {"single": single, "batch": batch, "growth": growth, "memory": memory}
    peers = [name for name in PEERS if harness.installed(name)]
    chapters = {
        name: functools.partial(section, settings, peers) for name, section in sections.items()
    }
    return harness.run(_head(peers), chapters, options)


def _head(peers: list[str]) -> Iterator[str]:
    yield from harness.machine(
        "MFDFA of white noise: time, agreement, growth, memory",
        ("jax", "jaxlib", "numpy", *PEERS),
        f"q = {Q[0]:g} to {Q[-1]:g} in {len(Q)} steps; peers with one BLAS thread.",
    )
    missing = [name for name in PEERS if name not in peers]
    if missing:
        yield f"Not installed, so not measured: {', '.join(missing)}."


# One series -----------------------------------------------------------------------------------


def single(settings: Settings, peers: list[str]) -> Iterator[str]:
    """Yield a table of every contender for each size and order."""
    with _peer_process() as worker:
        for samples, order in settings.singles:
            yield from _single_table(samples, order, settings, peers, worker)


def _single_table(samples, order, settings, peers, worker) -> Iterator[str]:
    x = _white_noise(samples)
    scales = multifractal.default_scales(samples)
    slow = SLOW_PEERS if samples > settings.slow_limit else ()
    contenders: dict[str, Callable] = {}
    for name in peers:
        if name not in slow:
            contenders[name] = functools.partial(_ask_peer, worker, name, x, scales, order)
    first_call = {}
    jax.clear_caches()
    for dtype in DTYPES:
        name = f"jaxml `mfdfa` {dtype}"
        contenders[name] = _ours(multifractal.mfdfa, x, scales, order, dtype)
        first_call[name], _ = contenders[name]()
        name = f"jaxml `fluctuation` {dtype}"
        contenders[name] = _ours(multifractal.fluctuation, x, scales, order, dtype)
        contenders[name]()
    times, values = _in_turns(contenders, settings)
    fastest = min(min(t) for name, t in times.items() if name in peers)
    reference = {ends: log_fluctuation_by_qr(x, scales, order, ends) for ends in (1, 2)}
    yield f"\n## N = {samples:,}, order {order}, {len(scales)} scales\n"
    yield "| | ms | median | runs | fastest peer / this | first call, s | max \\|d ln F\\| |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name, t in times.items():
        error = _disagreement(values[name], reference[1 if name == "neurokit2" else 2])
        compile_time = f"{first_call[name]:.1f}" if name in first_call else ""
        yield (
            f"| {name} | {_ms(min(t))} | {_ms(np.median(t))} | {len(t)} | "
            f"{fastest / min(t):.1f} | {compile_time} | {error:.1e} |"
        )
    yield f"\n{_notes(slow, 'neurokit2' in times, 'mf-toolkit' in times)}"


def _notes(slow, forward_only, threaded) -> str:
    notes = [
        "First call: traced and compiled cold, then run; `fluctuation` does the work of the peers, "
        "`mfdfa` gives exponents, errors and spectrum too."
    ]
    if forward_only:
        notes.append(
            "neurokit2 takes segments from the start only, half the work, and is compared with "
            "a reference that does the same."
        )
    if threaded:
        notes.append("mf-toolkit runs its scales in one thread a core, as it does by default.")
    if slow:
        notes.append(f"Not run at this size, since it would take minutes: {', '.join(slow)}.")
    return " ".join(notes)


def _ours(call: Callable, x, scales, order, dtype) -> Callable:
    """Return a timed call from numpy to a ready result, as a user makes it."""
    x = x.astype(dtype)

    def timed():
        with jax.enable_x64(dtype == "float64"):
            start = time.perf_counter()
            result = jax.block_until_ready(call(x, scales=scales, q=Q, order=order))
            seconds = time.perf_counter() - start
        full = isinstance(result, multifractal.MFDFA)
        log_f = result.log_fluctuation if full else np.log(np.asarray(result, float))
        return seconds, np.asarray(log_f, float)

    return timed


def _in_turns(contenders: dict[str, Callable], settings: Settings):
    return harness.interleave(
        contenders, rounds=settings.rounds, seconds=settings.seconds, turn=settings.turn
    )


def log_fluctuation_by_qr(x: np.ndarray, scales, order: int, ends: int) -> np.ndarray:
    """Return ln F_q(s) `[q, scale]` in float64 by an explicit QR fit of every segment.

    Args:
      x: series `[time]`.
      scales: segment lengths.
      order: degree of the trend of the profile.
      ends: 2 takes segments from both ends, 1 from the start only.
    """
    profile = np.cumsum(x - x.mean())
    columns = []
    for s in scales:
        count = len(x) // s
        starts = (profile[: count * s], profile[len(x) - count * s :])
        y = np.concatenate(starts[:ends]).reshape(-1, s)
        basis, _ = np.linalg.qr(np.vander(np.linspace(-1, 1, s), order + 1))
        log_f2 = np.log(np.mean((y - (y @ basis) @ basis.T) ** 2, axis=1))
        columns.append([_log_moment(log_f2, q) for q in Q])
    return np.array(columns).T


def _log_moment(log_f2: np.ndarray, q: float) -> float:
    if q == 0:
        return float(log_f2.mean()) / 2
    reference = log_f2.max() if q > 0 else log_f2.min()
    mean = np.mean(np.exp(q / 2 * (log_f2 - reference)))
    return float(reference / 2 + np.log(mean) / q)


def _disagreement(log_f: np.ndarray, reference: np.ndarray) -> float:
    kept = np.isfinite(log_f).all(axis=1)  # MFDFA leaves out q = 0
    return float(np.max(np.abs(log_f - reference)[kept]))


# A batch --------------------------------------------------------------------------------------


def batch(settings: Settings, peers: list[str]) -> Iterator[str]:
    """Yield a table of the time a series takes in a batch, analysed in one compiled call."""
    rows, samples = settings.batch
    series = np.stack([_white_noise(samples, seed) for seed in range(rows)])
    scales = multifractal.default_scales(samples)
    quick = [name for name in peers if name not in SLOW_PEERS]
    contenders: dict[str, Callable] = {}
    first_call = {}
    jax.clear_caches()
    for dtype in DTYPES:
        name = f"jaxml `mfdfa` in `map_rows` {dtype}"
        contenders[name] = _our_batch(series, scales, dtype)
        first_call[name], _ = contenders[name]()
    with _peer_process() as one, _peer_process(os.cpu_count() or 1) as pool:
        sample = series[: max(4, rows // 5)]
        for peer in quick:
            contenders[peer] = functools.partial(_peer_batch, one, 1, peer, sample, scales)
        if "MFDFA" in quick:
            many = os.cpu_count() or 1
            name = f"MFDFA in {many} processes"
            contenders[name] = functools.partial(_peer_batch, pool, many, "MFDFA", sample, scales)
        times, _ = _in_turns(contenders, settings)
    fastest = min(min(times[name]) for name in quick)
    yield f"\n## {rows} series of {samples:,}, order 1, {len(scales)} scales\n"
    yield "| | ms a series | median | runs | fastest peer / this | first call, s |"
    yield "|---|--:|--:|--:|--:|--:|"
    for name, t in times.items():
        compile_time = f"{first_call[name] * rows:.1f}" if name in first_call else ""
        yield (
            f"| {name} | {_ms(min(t))} | {_ms(np.median(t))} | {len(t)} | "
            f"{fastest / min(t):.1f} | {compile_time} |"
        )
    yield f"\nPeers: one process unless said, mean over {len(sample)} of the series."


def _our_batch(series, scales, dtype) -> Callable:
    series = series.astype(dtype)
    analyse = sharding.map_rows(lambda x: multifractal.mfdfa(x, scales=scales, q=Q))

    def timed():
        with jax.enable_x64(dtype == "float64"):
            start = time.perf_counter()
            jax.block_until_ready(analyse(series))
            return (time.perf_counter() - start) / len(series), None

    return timed


def _peer_batch(worker: ProcessPoolExecutor, processes, name, series, scales):
    """Return seconds a series, of one process by its own clock, of several by ours."""
    parts = np.array_split(series, processes)
    start = time.perf_counter()
    jobs = [worker.submit(_time_peer, name, part, scales, 1) for part in parts]
    inside = [job.result()[0] for job in jobs]
    total = inside[0] if processes == 1 else time.perf_counter() - start
    return total / len(series), None


# Growth and memory ----------------------------------------------------------------------------


def growth(settings: Settings, peers: list[str]) -> Iterator[str]:
    """Yield time against N and the exponent fitted to it."""
    del peers
    yield "\n## Growth: jaxml `mfdfa`, float32, order 1\n"
    yield "| N | scales | ms | ns a sample | first call, s |"
    yield "|--:|--:|--:|--:|--:|"
    best = []
    for samples in settings.growth:
        scales = multifractal.default_scales(samples)
        call = _ours(multifractal.mfdfa, _white_noise(samples), scales, 1, "float32")
        jax.clear_caches()
        first_call, _ = call()
        times, _ = _in_turns({"ours": call}, settings)
        best.append(min(times["ours"]))
        yield (
            f"| {samples:,} | {len(scales)} | {_ms(best[-1])} | {best[-1] / samples * 1e9:.0f} | "
            f"{first_call:.1f} |"
        )
    exponent, _ = np.polyfit(np.log(settings.growth), np.log(best), 1)
    local = math.log(best[-1] / best[-3]) / math.log(settings.growth[-1] / settings.growth[-3])
    yield f"\nTime grows as N^{exponent:.2f} over all sizes, as N^{local:.2f} over the last three."


def memory(settings: Settings, peers: list[str]) -> Iterator[str]:
    """Yield the memory of one analysis in a process of its own."""
    del peers
    samples = settings.memory
    yield f"\n## Memory: jaxml `mfdfa`, N = {samples:,}, order 1\n"
    yield "| | series, MB | temporary buffers, MB | peak of the process above its start, MB |"
    yield "|---|--:|--:|--:|"
    for dtype in DTYPES:
        with _peer_process() as child:
            buffers, peak = child.submit(_memory_of, samples, dtype).result()
        series = samples * np.dtype(dtype).itemsize
        peak = "not known on this system" if peak is None else f"{peak / 1e6:.0f}"
        yield f"| {dtype} | {series / 1e6:.0f} | {buffers / 1e6:.0f} | {peak} |"
    yield "\nThe peak holds the compiler's memory too; the series is in before the start."


def _memory_of(samples: int, dtype: str) -> tuple[int, float | None]:
    """Return bytes of the compiled program's buffers and the rise of this process's peak."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    x = jax.numpy.asarray(_white_noise(samples).astype(dtype))
    scales = multifractal.default_scales(samples)
    before = _peak_bytes()
    analyse = jax.jit(lambda x: multifractal.mfdfa(x, scales=scales, q=Q))
    compiled = analyse.lower(x).compile()
    jax.block_until_ready(compiled(x))
    after = _peak_bytes()
    analysis = compiled.memory_analysis()
    rise = None if before is None or after is None else after - before
    return (0 if analysis is None else analysis.temp_size_in_bytes), rise


def _peak_bytes() -> int | None:
    """Return this program's peak resident memory.

    Not ru_maxrss, into which Linux counts the parent's memory at the time of the exec.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


# Peers ----------------------------------------------------------------------------------------


def _mfdfa_package() -> Callable:
    mfdfa = importlib.import_module("MFDFA").MFDFA

    def run(x, scales, order):
        kept = np.abs(Q) > 0.1
        values = np.full((len(Q), len(scales)), np.nan)
        values[kept] = mfdfa(x, np.asarray(scales), order=order, q=Q[kept])[1].T
        return values

    return run


def _mf_toolkit() -> Callable:
    mfdfa = importlib.import_module("mftoolkit.MFDFA").mfdfa

    def run(x, scales, order):
        return mfdfa(x, Q, scales, order=order, segments_from_both_ends=True, validate=False)[-1]

    return run


def _fathon() -> Callable:
    fathon = importlib.import_module("fathon")
    utils = importlib.import_module("fathon.fathonUtils")

    def run(x, scales, order):
        analysis = fathon.MFDFA(utils.toAggregated(x))
        sizes = np.asarray(scales, np.int64)
        return analysis.computeFlucVec(sizes, Q, polOrd=order, revSeg=True)[1]

    return run


def _neurokit2() -> Callable:
    fractal_dfa = importlib.import_module("neurokit2").fractal_dfa

    def run(x, scales, order):
        options = {"order": order, "q": Q.tolist(), "multifractal": True, "overlap": False}
        return fractal_dfa(x, scale=list(scales), **options)[1]["Fluctuations"].T

    return run


PEERS = {
    "MFDFA": _mfdfa_package,
    "mf-toolkit": _mf_toolkit,
    "fathon": _fathon,
    "neurokit2": _neurokit2,
}
SLOW_PEERS = ("fathon", "neurokit2")


def _time_peer(name: str, series: np.ndarray, scales, order: int):
    """Return seconds for all rows of `series` and ln F of the last one; runs in a child."""
    warnings.simplefilter("ignore")
    run = PEERS[name]()
    start = time.perf_counter()
    values = [run(x, scales, order) for x in series]
    seconds = time.perf_counter() - start
    return seconds, np.log(np.asarray(values[-1], float))


def _ask_peer(worker: ProcessPoolExecutor, name, x, scales, order):
    return worker.submit(_time_peer, name, x[None], scales, order).result()


@contextmanager
def _peer_process(processes: int = 1) -> Iterator[ProcessPoolExecutor]:
    """Give child processes with one BLAS thread; ours keeps the threads it has."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            for job in [pool.submit(time.sleep, 0.1) for _ in range(processes)]:
                job.result()  # starts the children while the variables are set
            yield pool
    finally:
        os.environ.clear()
        os.environ.update(before)


# Small things ---------------------------------------------------------------------------------


def _white_noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


if __name__ == "__main__":
    sys.exit(main())
