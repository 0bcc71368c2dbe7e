"""Registration of two brains: overlap of labels and folds, by optimisation and by a network."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import registration
from jaxml.data.brain import BrainPair, load_brain_pair, voxelmorph_weights
from jaxml.files.digest import file_digest
from jaxml.output import deformations, plots
from jaxml.output.report import Figure, Report, Table
from jaxml.output.stages import Arrays, Stages
from jaxml.reproduce.registration.network import train_at_small_scale
from jaxml.reproduce.registration.smoothing import fewest_folds_by_gaussian, smoothed_where_folded

# Of `register` at each resolution; None takes its default, fewer on the finest.
STEPS = {"quick": 30, "standard": None, "paper": None}
TRAINING_STEPS = {"quick": 200, "standard": 600, "paper": 10_000}
CRITERIA = ("forward", "backward", "central", "digital")


def experiment(settings, stages: Stages, progress) -> Report:
    """Register subject b to subject a and make the field free of folds in several ways.

    At every scale two volumes of 80 x 96 x 112 voxels are registered, and a small network with
    the layer at its end is trained on warps of one subject and tested on the other. Beyond
    "quick" the pretrained VoxelMorph, where its weights are, and registration itself follow at
    160 x 192 x 224.
    """
    full = settings.scale != "quick"
    weights = voxelmorph_weights(settings.data) if full else None
    total = 3 + full + (weights is not None)
    bar = progress.add_task("registration: loading", total=total)

    def step(text):
        progress.update(bar, advance=1, description=f"registration: {text}")

    pair = _two_images(load_brain_pair(settings.data), settings.seed)
    steps = STEPS[settings.scale]
    inputs = {**_content(pair), "steps": steps}
    step("two brains, 2 mm")
    half = stages.run("half", inputs, lambda: _registered(pair, steps))
    step("a network with the layer")
    count = TRAINING_STEPS[settings.scale]
    training = {**_content(pair), "steps": count, "seed": settings.seed}
    train = functools.partial(
        train_at_small_scale,
        pair,
        stages.scratch("network", training),
        steps=count,
        seed=settings.seed,
    )
    network = stages.run("network", training, train)
    parts = [
        f"Volumes: {pair.source}. Subject b is moved onto subject a. Dice is the mean over "
        f"{len(pair.labels)} labels, folds are voxels with a determinant that is not positive.",
        *_registration_parts("Registration by optimisation, 2 mm voxels", half, "half"),
        *_network_parts(network),
    ]
    results = {"source": pair.source, "half": _numbers(half), "network": _numbers(network)}
    if full:
        step("two brains, 1 mm")
        large = _two_images(load_brain_pair(settings.data, size="full"), settings.seed)
        inputs = {**_content(large), "steps": steps}
        whole = stages.run("full", inputs, lambda: _registered(large, steps))
        parts += _registration_parts("Registration by optimisation, 1 mm voxels", whole, "full")
        results["full"] = _numbers(whole)
        if weights is not None and large.two_subjects:
            step("the pretrained VoxelMorph")
            pretrained = {**_content(large), "weights": file_digest(weights)}
            after = stages.run("voxelmorph", pretrained, lambda: _after_voxelmorph(large, weights))
            parts += _registration_parts(
                "The pretrained VoxelMorph (a moved onto b), 1 mm voxels, and what is done to "
                "its field afterwards",
                after,
                "voxelmorph",
            )
            results["voxelmorph"] = _numbers(after)
    step("done")
    return Report("registration", "Registration without folds", tuple(parts), results)


def _content(pair: BrainPair) -> dict[str, Any]:
    """Return what a result depends on of a pair: all but the line on where it came from."""
    return {name: value for name, value in vars(pair).items() if name != "source"}


def _two_images(pair: BrainPair, seed: int) -> BrainPair:
    """Return the pair; of a template with itself, b warped by a smooth random field."""
    if pair.two_subjects:
        return pair
    shape = pair.b.shape
    size = (*(max(4, n // 16) for n in shape), 3)
    coarse = jax.random.normal(jax.random.key(seed), size, jnp.float32)
    u = 3.5 * jax.image.resize(coarse, (*shape, 3), "cubic")

    def warp(image, order):
        return np.asarray(registration.warp(jnp.asarray(image), u, order=order))

    labels = warp(pair.b_labels.astype(np.float32), 0).astype(np.int32)
    source = f"{pair.source}; b is the template under a smooth random warp"
    return BrainPair(pair.a, warp(pair.b, 1), pair.a_labels, labels, pair.labels, False, source)


def _registered(pair: BrainPair, steps: int | None) -> Arrays:
    """Return the measures of `register` without and with each projection."""
    a, b = jnp.asarray(pair.a), jnp.asarray(pair.b)
    measure = functools.partial(_measure, pair.a_labels, pair.b_labels, pair.labels, a, b)
    rows = {"before": measure(jnp.zeros((*a.shape, 3), a.dtype), seconds=0.0)}

    def register(projection):
        # The pair is aligned, and the layer and the projections are compared where the energy
        # makes the field: the symmetric method leaves few folds to project.
        settings = {"affine": None, "method": "energy", "smoothness": 1.0}
        settings |= {"steps": steps, "projection": projection}
        return _timed(lambda: registration.register(a, b, **settings).displacement)

    free, seconds = register(None)
    rows["register"] = measure(free, seconds=seconds)
    layered, seconds = _timed(lambda: _layer(free))
    rows["then the layer (one pass)"] = measure(layered, seconds=seconds, start=free)
    projected, seconds = _timed(lambda: _fold_free(free))
    rows["then fold_free"] = measure(projected, seconds=seconds, start=free)
    inside, seconds = register("layer")
    rows["register through the layer"] = measure(inside, seconds=seconds)
    inside, seconds = register("fold_free")
    rows["register with fold_free inside"] = measure(inside, seconds=seconds)
    shown = {"register": free, "then the layer": layered, "then fold_free": projected}
    moved = jax.jit(registration.warp)(b, projected)
    panels = {
        "fixed (a)": a,
        "moving (b)": b,
        "moved": moved,
        "−before": a - b,
        "−after": a - moved,
    }
    return {
        **_stacked(rows),
        "images": _bytes(deformations.images(panels)),
        "deformations": _bytes(deformations.deformations(shown)),
    }


def _after_voxelmorph(pair: BrainPair, weights) -> Arrays:
    """Return the measures of the pretrained network and of what is done to its field."""
    from jaxml.models.unet import UNet, load_voxelmorph

    # The published direction of these weights: a is moved onto b.
    fixed, moving = jnp.asarray(pair.b), jnp.asarray(pair.a)
    measure = functools.partial(_measure, pair.b_labels, pair.a_labels, pair.labels, fixed, moving)
    rows = {"before": measure(jnp.zeros((*fixed.shape, 3), fixed.dtype), seconds=0.0)}
    params = load_voxelmorph(weights)
    u, seconds = _timed(lambda: jax.jit(UNet().apply)(params, fixed, moving))
    rows["VoxelMorph"] = measure(u, seconds=seconds)
    layered, seconds = _timed(lambda: _layer(u))
    rows["then the layer (one pass)"] = measure(layered, seconds=seconds, start=u)
    allowed = int(rows["then the layer (one pass)"]["forward"])
    for name, folds in (("as few folds as the layer", allowed), ("no fold", 0)):
        (smooth, sigma), seconds = _timed(lambda f=folds: fewest_folds_by_gaussian(u, f))
        rows[f"then Gaussian, sigma {sigma:.2g}: {name}"] = measure(
            smooth, seconds=seconds, start=u
        )
    local, seconds = _timed(lambda: smoothed_where_folded(u))
    rows["then local smoothing"] = measure(local, seconds=seconds, start=u)
    tuned, seconds = _timed(lambda: _optimized_through_layer(fixed, moving, u))
    rows["optimised through the layer"] = measure(tuned, seconds=seconds, start=u)
    projected, seconds = _timed(lambda: _fold_free(u))
    rows["then fold_free"] = measure(projected, seconds=seconds, start=u)
    shown = {"VoxelMorph": u, "then the layer": layered, "then fold_free": projected}
    return {**_stacked(rows), "deformations": _bytes(deformations.deformations(shown))}


def _optimized_through_layer(fixed, moving, u, steps=40):
    """Return the field after steps of Adam on the network's loss through the layer."""
    import optax

    optimizer = optax.adam(0.1)

    def loss(u, fixed, moving):
        flow = lambda params, *_: params
        return registration.voxelmorph_loss(flow, u, fixed, moving, projection="layer")[0]

    @jax.jit
    def step(u, state, fixed, moving):
        gradient = jax.grad(loss)(u, fixed, moving)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(u, updates), state

    state = optimizer.init(u)
    for _ in range(steps):
        u, state = step(u, state, fixed, moving)
    return _layer(u)


@jax.jit
def _layer(u):
    return registration.diffeomorphic_layer(u).displacement


@jax.jit
def _fold_free(u):
    return registration.fold_free(u).displacement


def _timed(call):
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - start


def _measure(fixed_labels, moving_labels, labels, fixed, moving, u, *, seconds, start=None):
    """Return Dice, correlation, folds, irregularity and change of a field."""
    measured = _measured(u, jnp.asarray(moving_labels, jnp.float32), fixed, moving)
    moved_labels = np.asarray(measured.pop("labels")).astype(np.int32)
    measures = {name: float(value) for name, value in measured.items()}
    overlap = registration.dice_per_label(
        jnp.asarray(fixed_labels), jnp.asarray(moved_labels), labels
    )
    measures["dice"] = float(jnp.nanmean(overlap))
    distance = registration.hausdorff95(np.asarray(fixed_labels), moved_labels, labels)
    measures["hausdorff95"] = float(np.mean(distance[np.isfinite(distance)]))
    if start is not None:
        change = float(jnp.sqrt(jnp.mean((u - start) ** 2) / jnp.mean(start**2)))
    else:
        change = float("nan")
    return {**measures, "change": change, "seconds": seconds}


@jax.jit
def _measured(u, moving_labels, fixed, moving):
    folds = {name: registration.count_folds(u, scheme=name) for name in CRITERIA}
    return {
        **folds,
        "ncc": -registration.ncc(fixed, registration.warp(moving, u)),
        "sd_log_jacobian": registration.sd_log_jacobian(u),
        "labels": registration.warp(moving_labels, u, order=0),
    }


def _stacked(rows) -> Arrays:
    names = tuple(next(iter(rows.values())))
    values = np.array([[row[name] for name in names] for row in rows.values()])
    return {"rows": np.array(list(rows)), "measures": np.array(names), "values": values}


def _bytes(png: bytes) -> np.ndarray:
    return np.frombuffer(png, np.uint8)


def _numbers(stage: Arrays):
    return {
        str(row): dict(zip(map(str, stage["measures"]), values, strict=True))
        for row, values in zip(stage["rows"], stage["values"].tolist(), strict=True)
    }


def _registration_parts(caption: str, stage: Arrays, name: str):
    columns = {
        "dice": ("Dice", ".4f"),
        "hausdorff95": ("HD95, voxels", ".2f"),
        "ncc": ("NCC", ".4f"),
        "forward": ("folds: forward", ".0f"),
        "central": ("central", ".0f"),
        "digital": ("digital", ".0f"),
        "sd_log_jacobian": ("SD log det", ".3f"),
        "change": ("change", ".3f"),
        "seconds": ("s", ".1f"),
    }
    numbers = _numbers(stage)

    def text(value, form):
        return "-" if np.isnan(value) else format(value, form)

    rows = tuple(
        (row, *(text(values[key], form) for key, (_, form) in columns.items()))
        for row, values in numbers.items()
    )
    header = ("", *(title for title, _ in columns.values()))
    parts: list[Table | Figure] = [
        Table(f"{caption}. Change: of the field, relative. Seconds with compilation", header, rows)
    ]
    captions = {
        "images": "Middle slices, and differences before and after (free of folds)",
        "deformations": "Deformed grid, and determinants: red is folded",
    }
    for key, title in captions.items():
        if key in stage:
            parts.append(Figure(f"{name}-{key}", f"{caption}. {title}", stage[key].tobytes()))
    return parts


def _network_parts(stage: Arrays):
    numbers = _numbers(stage)
    rows = tuple(
        (row, f"{v['ncc']:.4f}", f"{v['dice']:.4f}", f"{v['digital']:.0f}")
        for row, v in numbers.items()
    )
    steps = np.arange(1, len(stage["loss"]) + 1)
    curve = plots.curves(
        [{"title": "", "lines": {"loss": (steps, stage["loss"])}, "x": "step", "y": "loss"}]
    )
    return [
        Table(
            f"A VoxelMorph with the layer at its end, trained for {len(steps)} steps on random "
            f"warps of subject a at {' x '.join(map(str, stage['shape']))} voxels, on a pair with "
            "a subject it has not seen",
            ("", "NCC", "Dice", "digital folds"),
            rows,
        ),
        Figure("network-loss", "Loss of the training", curve),
    ]
