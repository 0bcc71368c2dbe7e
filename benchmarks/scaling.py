"""Memory and communication of each device for the largest problems: a plan, nothing runs.

    python benchmarks/scaling.py [--quick] [--sections ...] [--out FILE]

Every row compiles a program of the library for a mesh of that many imaginary CPU devices, from
shapes alone, and reads what the compiler tells of one device. What it sends between devices is
counted in the program's text (`hlo.py`), loops as often as they run.
"""

import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import harness
import hlo
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml import backdoor, models, multifractal, registration, sharding
from jaxml.backdoor._amplify import SCALES
from jaxml.llm._unlearn import _likelihood, _states
from jaxml.models import llama
from jaxml.models.llama import LlamaConfig
from jaxml.models.llama.likelihood import CHUNK
from jaxml.training import loop, placement
from jaxml.unlearning import Sequences, UnlearnConfig
from jaxml.unlearning._optimise import adamw
from jaxml.unlearning._problem import likelihood_problem, rmu_problem

SECTIONS = ("llama", "registration", "backdoor", "mfdfa")
NOTE = (
    "\n\nThis is a plan, not a measurement: programs are compiled for imaginary CPU devices and "
    "never run. Arguments and results have the size that they have anywhere. Temporaries depend "
    "on the backend: a GPU fuses and orders otherwise, and a CPU multiplies and sums bfloat16 in "
    "float32, so that temporaries and traffic of the Llama may be twice those of a GPU. Nor does "
    "the CPU's compiler make a reduce-scatter of an all-reduce. GB are 10^9 bytes, of one device; "
    "'in all' is arguments, temporaries and the results that do not take the place of arguments. "
    "Operations are counted in the compiled program, products and element by element (FFTs not); "
    "'sent' is what a device of a ring sends."
)
HEADER = (
    "| program | devices | arguments, GB | temporaries, GB | results, GB | in all, GB | "
    "TFLOP | sent, GB | compiled, s |\n|---|---|--:|--:|--:|--:|--:|---|--:|"
)
# The HLO and its buffers are the same; only the machine code, which never runs, is worse.
UNOPTIMISED: Any = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@dataclass(frozen=True)
class Settings:
    """What is planned.

    Attributes:
      decoder: of the shape of Mistral-7B and Zephyr-7B.
      meshes: data x model.
      devices: of the other sections.
      rows: sequences of each set in a step, for each of the devices of "data".
      length: tokens.
      layer: that RMU steers.
      volume: voxels.
      large: voxels of a volume that is split into slabs.
      images: name, rows, side and stem of the network, and rows at a time.
      series: utterances and samples of each.
    """

    decoder: LlamaConfig = LlamaConfig(32_000, 4096, 32, 32, 8, 128, 14_336)
    meshes: tuple[tuple[int, int], ...] = ((1, 1), (8, 1), (4, 2), (64, 1), (8, 8))
    devices: tuple[int, ...] = (1, 8, 64)
    rows: int = 4
    length: int = 512
    layer: int = 7
    volume: tuple[int, ...] = (160, 192, 224)
    large: tuple[int, ...] = (512, 512, 512)
    images: tuple[tuple[str, int, int, Any, int], ...] = (
        ("CIFAR", 50_000, 32, "cifar", 64),
        ("ImageNet", 1_281_167, 224, "imagenet", 16),
    )
    series: tuple[int, int] = (1_000_000, 16_000)


QUICK = Settings(
    decoder=replace(Settings.decoder, num_layers=4),
    meshes=((4, 2),),
    devices=(8,),
    layer=2,
    volume=(40, 48, 56),
    large=(96, 48, 56),
    images=Settings.images[:1],
)


def main() -> int:
    """Run the sections asked for and print, and write where asked, their Markdown."""
    options = harness.parsed(harness.parser("Memory and traffic of each device.", SECTIONS))
    settings = QUICK if options.quick else Settings()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 64)
    head = harness.machine(
        "Memory and traffic of each device, planned", ("jax", "jaxlib", "flax", "optax"), NOTE
    )
    sections = {"llama": decoder, "registration": volumes, "backdoor": images, "mfdfa": series}
    chapters = {name: functools.partial(of, settings) for name, of in sections.items()}
    return harness.run(head, chapters, options)


# The decoder ----------------------------------------------------------------------------------


def decoder(settings: Settings) -> Iterator[str]:
    """Yield a table of a step of unlearning of a large decoder."""
    c = settings.decoder
    size = sum(leaf.size for leaf in jax.tree.leaves(_parameters(c)))
    yield (
        f"\n## Unlearning, {size / 1e9:.2f} billion parameters in bfloat16, "
        f"{c.num_layers} layers\n\n"
        f"A step on {settings.rows} + {settings.rows} sequences of {settings.length} tokens for "
        "each device of 'data', AdamW, its moments in bfloat16; devices are data x model. RMU "
        f"steers layer {settings.layer} and trains 'down' of the three layers up to it; NPO with "
        "GDR trains everything, with remat and the head in pieces.\n"
    )
    yield HEADER
    for data, model in settings.meshes:
        mesh = llama.decoder_mesh(model=model, devices=data * model)
        for name, step in {"RMU": _rmu, "NPO + GDR": _npo}.items():
            yield _row(name, f"{data} x {model}", data * model, step(settings, mesh))


def _rmu(settings: Settings, mesh: Mesh) -> Any:
    config = UnlearnConfig("rmu", batch_size=settings.rows * mesh.shape["data"])
    first, last = settings.layer - 2, settings.layer + 1
    params = _parameters(settings.decoder, mesh)
    down = params["layers"]["down"]
    shape = (last - first, *down.shape[1:])
    trained = jax.ShapeDtypeStruct(shape, down.dtype, sharding=down.sharding)
    width, texts = settings.decoder.hidden_size, _texts(settings, mesh)
    problem = rmu_problem(
        jax.random.key(0),
        config,
        _states(settings.decoder, "down", first, last, False),
        trained,
        params,
        texts,
        texts,
        width=width,
        dtype=jnp.bfloat16,
    )
    data = problem.data | {"control": _put((width,), jnp.bfloat16, mesh)}
    return _step(problem.loss, trained, data, mesh)


def _npo(settings: Settings, mesh: Mesh) -> Any:
    rows = settings.rows * mesh.shape["data"]
    config = UnlearnConfig("npo", "nll", batch_size=rows)
    texts = _texts(settings, mesh)
    # Logits of all devices together.
    chunk = CHUNK * mesh.shape["data"]
    problem = likelihood_problem(
        config,
        _likelihood(settings.decoder, True, chunk),
        _parameters(settings.decoder, mesh),
        texts,
        texts,
        None,
        before=lambda texts: _put((rows,), jnp.float32, mesh, "data"),
    )
    return _step(problem.loss, problem.trained, problem.data, mesh)


def _step(loss: Callable, params: Any, data: Any, mesh: Mesh) -> Any:
    """Return the step that `jaxml.training.fit` runs, lowered."""
    optimizer = adamw(1e-5)
    everywhere = lambda leaf: _put(leaf.shape, leaf.dtype, mesh)
    moments = optax.tree_map_params(
        optimizer,
        lambda leaf, own: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own.sharding),
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=everywhere,
    )
    key = everywhere(jax.eval_shape(jax.random.key, 0))
    number = _put((), jnp.int32, mesh)
    run: Any = loop._compiled(*placement.shardings((params, moments), mesh))
    plan = loop.Plan(loss, optimizer.update, batch_size=None, batch_places=(), at_once=1)
    return run.lower((params, moments), key, data, number, number, plan=plan)


def _parameters(config: LlamaConfig, mesh: Mesh | None = None) -> Any:
    make = functools.partial(llama.init, config=config, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(lambda: make(jax.random.key(0)))
    if mesh is None:
        return shapes
    place = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
    return jax.tree.map(place, shapes, llama.parameter_shardings(config, mesh))


def _texts(settings: Settings, mesh: Mesh) -> Sequences:
    shape = (settings.rows * mesh.shape["data"], settings.length)
    return Sequences(*(_put(shape, dtype, mesh, "data") for dtype in (jnp.int32, jnp.bool_)))


# Rows over devices ----------------------------------------------------------------------------


def volumes(settings: Settings) -> Iterator[str]:
    """Yield a table of pairs of volumes registered at once, and of one volume's slabs."""
    size = " x ".join(str(n) for n in settings.volume)
    yield (
        f"\n## Registration of {size} voxels, float32\n\n`register` with its defaults under "
        "`map_rows`, one pair at a time on each device; and `diffeomorphic_layer` on one volume "
        "of displacements, in slabs.\n"
    )
    yield HEADER
    for devices in settings.devices:
        image = jax.ShapeDtypeStruct((devices, *settings.volume), jnp.float32)
        run = lambda pair: registration.register(*pair)
        lowered = _mapped(run, (image, image), sharding.data_mesh(devices=devices), 1)
        yield _row(f"register, {devices} pairs", str(devices), devices, lowered)
    # As many as the planes of a volume divide over.
    for devices in (math.gcd(settings.volume[0], devices) for devices in settings.devices):
        mesh = sharding.data_mesh(devices=devices)
        field = _put((*settings.volume, 3), jnp.float32, mesh, "data")
        layer = jax.jit(functools.partial(registration.diffeomorphic_layer, mesh=mesh))
        yield _row("the layer in slabs", str(devices), devices, layer.lower(field))
    yield from _large(settings)


def _large(settings: Settings) -> Iterator[str]:
    """Yield a table of one large pair and one large field in slabs."""
    size = " x ".join(str(n) for n in settings.large)
    yield (
        f"\n## One pair of {size} voxels, float32\n\n`register` with its defaults but an affine "
        "stage, and `fold_free`, in slabs. Loops without a fixed end count once.\n"
    )
    yield HEADER
    for devices in settings.devices:
        # Slabs of 16 planes or more.
        devices = min(devices, settings.large[0] // 16)
        mesh = sharding.data_mesh(devices=devices)
        field = _put((*settings.large, 3), jnp.float32, mesh, "data")
        project = jax.jit(functools.partial(registration.fold_free, mesh=mesh))
        yield _row("fold_free in slabs", str(devices), devices, project.lower(field))
        image = _put(settings.large, jnp.float32, mesh)
        run = jax.jit(functools.partial(registration.register, affine=None, mesh=mesh))
        yield _row("register in slabs", str(devices), devices, run.lower(image, image))


def images(settings: Settings) -> Iterator[str]:
    """Yield a table of the scores of a data set of images."""
    yield (
        "\n## Backdoor scores by a ResNet-18, images of bytes, float32\n\n`spc` and `mspc` with "
        f"their {len(SCALES)} scales under `map_rows`; one run scores all rows.\n"
    )
    yield HEADER
    for name, rows, side, stem, at_once in settings.images:
        network = models.ResNet18(stem=stem)
        data = jax.ShapeDtypeStruct((rows, side, side, 3), jnp.uint8)
        variables = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((1, side, side, 3)))
        for method in ("spc", "mspc"):
            run = functools.partial(_score, method, network)
            for devices in settings.devices:
                mesh = sharding.data_mesh(devices=devices)
                lowered = _mapped(run, data, mesh, at_once, variables)
                title = f"{method}, {rows:,} rows of {name}, {at_once} at once"
                yield _row(title, str(devices), devices, lowered)


def series(settings: Settings) -> Iterator[str]:
    """Yield a table of MFDFA of a corpus."""
    count, samples = settings.series
    yield (
        f"\n## MFDFA of {count:,} series of {samples:,} samples, float32\n\n`mfdfa` with its "
        "defaults under `map_rows`, 16 series at once on each device.\n"
    )
    yield HEADER
    for devices in settings.devices:
        data = jax.ShapeDtypeStruct((count, samples), jnp.float32)
        lowered = _mapped(multifractal.mfdfa, data, sharding.data_mesh(devices=devices), 16)
        yield _row("all", str(devices), devices, lowered)


def _score(method: str, network: models.ResNet18, variables: Any, image: Any):
    logits_fn = lambda images: network.apply(variables, images)[0]
    image = models.unit_images(image)[None]
    if method == "spc":
        return backdoor.spc(logits_fn, image)[0]
    return backdoor.mspc(logits_fn, image, jnp.ones(image.shape[1:3]))[0]


def _mapped(run: Callable, data: Any, mesh: Mesh, at_once: int, *more: Any) -> Any:
    """Return `run` of `more` and of each row of `data`, lowered; as many rows on each device."""
    devices = mesh.shape["data"]

    def place(leaf):
        rows = leaf.shape[0] + -leaf.shape[0] % devices
        return _put((rows, *leaf.shape[1:]), leaf.dtype, mesh, "data")

    whole = lambda leaf: _put(leaf.shape, leaf.dtype, mesh)
    every = lambda data, more: sharding.map_rows(
        functools.partial(run, *more), mesh=mesh, batch_size=at_once
    )(data)
    return jax.jit(every).lower(jax.tree.map(place, data), jax.tree.map(whole, more))


# What the compiler tells ----------------------------------------------------------------------


def _put(shape: tuple[int, ...], dtype: Any, mesh: Mesh, *axes: str) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*axes)))


def _row(program: str, mesh: str, devices: int, lowered: Any) -> str:
    start = time.perf_counter()
    compiled = lowered.compile(compiler_options=UNOPTIMISED)
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    work = hlo.work(compiled.as_text(), devices)
    parts = (
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes,
    )
    total = sum(parts) - memory.alias_size_in_bytes
    gigabytes = " | ".join(f"{size / 1e9:,.2f}" for size in (*parts, total))
    kinds = sorted(work.sent.items(), key=lambda item: -item[1])
    sent = ", ".join(f"{kind} {size / 1e9:,.3g}" for kind, size in kinds if size >= 1e6) or "none"
    if work.unknown:
        sent += " (a loop of unknown length counted once)"
    return (
        f"| {program} | {mesh} | {gigabytes} | {work.flops / 1e12:,.3g} | {sent} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
