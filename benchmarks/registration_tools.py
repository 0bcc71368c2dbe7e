"""The deformable stage of `registration.register` against other tools, organ by organ.

    python benchmarks/registration_tools.py [--quick] [--sections ...] [--tools ...] [--picture PNG]

All tools start from the same affine map, that of `registration.affine`, and are judged by the same
code, from their displacement alone. The images are those of the folder that JAXML_DATA names, in
native space. Seconds are those of the processor, all threads together.
"""

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
from registration_peers import BRAINS, PEERS, dice, sd_log_determinant, two_brains

from jaxml import registration
from jaxml.output import plots

SECTIONS = ("brains", "organs")
# Labels of a folder, if not `labels`.
_LABELS = {"lungs": "lungs"}
# Crops of which the headers tell nothing: the middles are laid on each other.
_CROPS = ("hippocampus", "cardiac", "slices")
# Sides of a voxel that the header does not tell.
_SIDES = {"cardiac": (1.3, 1.3, 10.0)}
# Packages of the tools, by the first word of their names.
_PACKAGES = {"ANTs": "antspyx", "elastix": "itk-elastix"}


@dataclass(frozen=True)
class Pair:
    """Two images of 0 to 1 with labels, and the affine map between their voxels."""

    name: str
    images: tuple[np.ndarray, np.ndarray]
    labels: tuple[np.ndarray, np.ndarray]
    spacing: tuple[tuple[float, ...], tuple[float, ...]]
    affine: np.ndarray


@dataclass(frozen=True)
class Row:
    """What one tool made of one pair; folds by forward, backward, central, digital criteria."""

    overlap: float
    sd: float
    folds: tuple[int, ...]
    seconds: float


def main() -> int:
    """Run the sections asked for and print, and write where asked, their Markdown."""
    parser = harness.parser("Deformable registration: jaxml and other tools.", SECTIONS)
    parser.add_argument("--tools", nargs="*", choices=TOOLS, help="all that are installed")
    parser.add_argument("--picture", type=Path, help="PNG file for the curve of the brains")
    options = harness.parsed(parser)
    head = harness.machine(
        "Deformable registration: jaxml and other tools",
        ("jax", "jaxlib", "numpy", "scipy", "antspyx", "itk-elastix"),
        "float32.",
    )
    folder = os.environ.get("JAXML_DATA")
    if not folder or not (Path(folder) / "registration").is_dir():
        options.sections = ()
        return harness.run([*head, "\nNot measured: JAXML_DATA has no registration."], {}, options)
    tools = [tool for tool in options.tools or TOOLS if _installed(tool)]
    data, few = Path(folder), 1 if options.quick else None
    chapters = {
        "brains": lambda: brains(brain_pairs(data, few), tools, options.picture),
        "organs": lambda: organs(data, few),
    }
    return harness.run(head, chapters, options)


def _installed(tool: str) -> bool:
    package = _PACKAGES.get(tool.split()[0].strip(","))
    return package is None or harness.installed(package)


# Brains: overlap against smoothness ------------------------------------------------------------


def brains(pairs: Sequence[Pair], tools: Sequence[str], picture: Path | None) -> Iterator[str]:
    """Yield a table of means over pairs of all tools, and what jaxml has at each one's smoothness.

    Between two settings of jaxml the overlap is interpolated linearly in the SD.
    """
    yield f"\n## {len(pairs)} pairs of brains\n"
    yield "| tool | Dice | SD log det | folds, the most by any criterion | CPU s |"
    yield "|---|--:|--:|--:|--:|"
    means = {}
    for tool in tools:
        rows = [judged(pair, tool) for pair in pairs]
        means[tool] = overlap, sd = tuple(np.mean([(r.overlap, r.sd) for r in rows], axis=0))
        most, seconds = max(max(r.folds) for r in rows), np.median([r.seconds for r in rows])
        yield f"| {tool} | {overlap:.4f} | {sd:.3f} | {most} | {seconds:.1f} |"
        for pair, row in zip(pairs, rows, strict=True):
            print(f"  {pair.name}: {row}", file=sys.stderr, flush=True)
    yield (
        "\nMeans over pairs. Dice: over all labels of either scan, by nearest neighbor. SD: of the "
        "logarithm of the determinant over the labeled voxels, central differences, beside the "
        "affine map. Folds: of forward, backward, central and digital ones. Seconds: median over "
        "pairs, as the first ones compile."
    )
    ours = sorted((sd, overlap) for tool, (overlap, sd) in means.items() if _is_curve(tool))
    sds, overlaps = [sd for sd, _ in ours], [overlap for _, overlap in ours]
    if len(ours) > 1:
        yield "\n| tool | its SD | its Dice | Dice of jaxml at that SD |"
        yield "|---|--:|--:|--:|"
        for tool, (overlap, sd) in means.items():
            if not tool.startswith("jaxml"):
                there = sds[0] <= sd <= sds[-1]
                at = f"{np.interp(sd, sds, overlaps):.4f}" if there else "not reached"
                yield f"| {tool} | {sd:.3f} | {overlap:.4f} | {at} |"
    if picture:
        picture.write_bytes(_curve(means))


def _is_curve(tool: str) -> bool:
    return tool.startswith("jaxml, symmetric")


def _curve(means: dict[str, tuple[float, float]]) -> bytes:
    figure, axes = plots.new_figure(5.5, 4)
    curve = sorted((sd, overlap) for tool, (overlap, sd) in means.items() if _is_curve(tool))
    sds, overlaps = [sd for sd, _ in curve], [overlap for _, overlap in curve]
    axes.plot(sds, overlaps, "o-", label="jaxml, symmetric")
    for tool, (overlap, sd) in means.items():
        if not _is_curve(tool):
            axes.plot(sd, overlap, "s" if tool.startswith("jaxml") else "^", label=tool)
    axes.set_xlabel("SD of the logarithm of the determinant")
    axes.set_ylabel("mean Dice")
    axes.legend(fontsize=7)
    return plots.png(figure)


# Other organs ----------------------------------------------------------------------------------


def organs(data: Path, few: int | None) -> Iterator[str]:
    """Yield a table of the mean overlap of each kind by the defaults and by ANTs' SyN."""
    tools = [tool for tool in ("jaxml", "ANTs SyN") if _installed(tool)]
    yield "\n## Other organs\n"
    yield f"| kind | pairs | affine map alone |{''.join(f' {tool} |' for tool in tools)}"
    yield "|---|--:|--:|" + "--:|" * len(tools)
    for kind in ("hippocampus", "cardiac", "lungs", "slices", "heads_2mm"):
        names = sorted(p.stem for p in (data / "registration" / kind).glob("*.npz"))
        couples = list(zip(names[::2], names[1::2], strict=False))
        if kind == "heads_2mm":
            couples = list(zip(names, names[1:], strict=False))
        pairs = [load_pair(data, kind, a, b) for a, b in couples[:few]]
        still = [np.zeros((*pair.images[0].shape, pair.images[0].ndim)) for pair in pairs]
        before = np.mean([_overlap(*both) for both in zip(pairs, still, strict=True)])
        cells = [np.mean([judged(pair, tool).overlap for pair in pairs]) for tool in tools]
        yield f"| {kind} | {len(pairs)} | {before:.4f} |{''.join(f' {c:.4f} |' for c in cells)}"
        # Of many shapes the programs that judge them fill the table of memory maps of a process.
        jax.clear_caches()


# The pairs -------------------------------------------------------------------------------------


def brain_pairs(data: Path, few: int | None) -> list[Pair]:
    """Return 8 pairs of people, or fewer; of all 8, brains A and B in both directions too."""
    couples = list(zip(BRAINS, BRAINS[1:], strict=False))[:few]
    pairs = [load_pair(data, "brains_2mm", fixed, moving) for fixed, moving in couples]
    if few:
        return pairs
    a, b = two_brains(data)
    for name, fixed, moving in (("A <- B", a, b), ("B <- A", b, a)):
        images, labels = (fixed.image, moving.image), (fixed.labels, moving.labels)
        pairs.append(Pair(name, images, labels, (fixed.spacing, moving.spacing), np.eye(3, 4)))
    return pairs


def load_pair(data: Path, kind: str, fixed: str, moving: str) -> Pair:
    """Return a pair of a folder of `registration`, with the map of `registration.affine`."""
    images, labels, spaces = [], [], []
    for name in (fixed, moving):
        with np.load(data / "registration" / kind / f"{name}.npz") as arrays:
            images.append(arrays["image"].astype(np.float32) / 255)
            labels.append(arrays[_LABELS.get(kind, "labels")].astype(np.int32))
            ndim = images[-1].ndim
            space = np.diag([*_SIDES[kind], 1]) if kind in _SIDES else arrays["affine"]
            spaces.append(np.eye(3) if ndim == 2 else space)
    initial = (np.linalg.inv(spaces[1]) @ spaces[0])[:ndim]
    if kind in _CROPS:
        middles = [(np.array(image.shape) - 1) / 2 for image in images]
        initial[:, -1] = middles[1] - initial[:, :-1] @ middles[0]
    ours, theirs = (tuple(np.linalg.norm(s[:ndim, :ndim], axis=0).tolist()) for s in spaces)
    spacing = ours, theirs
    alignment = registration.affine(
        *map(jnp.asarray, images), initial=jnp.asarray(initial, jnp.float32), spacing=spacing
    )
    matrix = np.asarray(alignment.matrix, np.float64)
    return Pair(f"{fixed} <- {moving}", tuple(images), tuple(labels), spacing, matrix)


# The tools -------------------------------------------------------------------------------------


def by_jaxml(pair: Pair, **options: Any) -> np.ndarray:
    """Return the displacement in voxels by `registration.register`."""
    initial = jnp.asarray(pair.affine, jnp.float32)
    result = registration.register(
        *map(jnp.asarray, pair.images),
        affine=None,
        initial=initial,
        spacing=pair.spacing,
        **options,
    )
    return np.asarray(result.displacement)


def by_ants(pair: Pair, **options: Any) -> np.ndarray:
    """Return the displacement in voxels by ANTs' SyN, in one thread and with a seed."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import ants

    ndim = pair.images[0].ndim
    images = [
        ants.from_numpy(image, spacing=list(sides))
        for image, sides in zip(pair.images, pair.spacing, strict=True)
    ]
    ours, theirs = map(np.array, pair.spacing)
    start = ants.create_ants_transform(
        "AffineTransform",
        dimension=ndim,
        matrix=theirs[:, None] * pair.affine[:, :-1] / ours[None],
        translation=theirs * pair.affine[:, -1],
        center=np.zeros(ndim),
    )
    with tempfile.TemporaryDirectory() as folder:
        ants.write_transform(start, f"{folder}/start.mat")
        result = ants.registration(
            *images,
            initial_transform=f"{folder}/start.mat",
            random_seed=1,
            outprefix=f"{folder}/",
            **{**options, "type_of_transform": "SyNOnly"},
        )
        (file,) = (name for name in result["fwdtransforms"] if name.endswith("Warp.nii.gz"))
        vectors = ants.image_read(file).numpy()
    return (vectors / ours).astype(np.float32)


def by_elastix(pair: Pair) -> np.ndarray:
    """Return the displacement in voxels by elastix' default of B-splines."""
    import itk

    fixed, moving = pair.images
    still = jnp.zeros((*fixed.shape, fixed.ndim))
    affine = jnp.asarray(pair.affine, jnp.float32)
    moved = np.asarray(registration.warp(jnp.asarray(moving), still, affine=affine))
    volumes = []
    for image in (fixed, moved):
        # ITK's axes are numpy's, last first.
        volume = itk.image_from_array(np.ascontiguousarray(image))
        volume.SetSpacing(pair.spacing[0][::-1])
        volumes.append(volume)
    settings = itk.ParameterObject.New()
    settings.AddParameterMap(settings.GetDefaultParameterMap("bspline"))
    _, transform = itk.elastix_registration_method(
        *volumes, parameter_object=settings, log_to_console=False
    )
    field = itk.transformix_deformation_field(volumes[1], transform)
    return itk.array_from_image(field)[..., ::-1] / np.array(pair.spacing[0], np.float32)


TOOLS: dict[str, Callable[[Pair], np.ndarray]] = {
    **{
        f"jaxml, symmetric, smoothness {weight:g}": functools.partial(
            by_jaxml, method="symmetric", smoothness=weight
        )
        for weight in (12, 6, 3, 1.5, 0.7, 0.35)
    },
    "jaxml": by_jaxml,
    "ANTs SyN": by_ants,
    "ANTs SyN, MI, (100, 70, 50), flow sigma 2": functools.partial(by_ants, **PEERS["MI"]),
    "ANTs SyN, CC radius 2, (40, 30, 10)": functools.partial(by_ants, **PEERS["CC"]),
    "elastix, B-splines": by_elastix,
}


def judged(pair: Pair, tool: str) -> Row:
    """Return the figures of a tool; the first pairs of jaxml compile."""
    start = time.process_time()
    u = TOOLS[tool](pair)
    seconds = time.process_time() - start
    field = jnp.asarray(u)
    schemes = ("forward", "backward", "central", "digital")
    folds = tuple(int(registration.count_folds(field, scheme=s)) for s in schemes)
    sd = sd_log_determinant(field, pair.labels[0] > 0)
    return Row(_overlap(pair, u), sd, folds, seconds)


def _overlap(pair: Pair, u: np.ndarray) -> float:
    affine = jnp.asarray(pair.affine, jnp.float32)
    labels = jnp.asarray(pair.labels[1], jnp.float32)
    moved = registration.warp(labels, jnp.asarray(u, jnp.float32), affine=affine, order=0)
    return dice(pair.labels[0], np.asarray(moved).astype(int))


if __name__ == "__main__":
    sys.exit(main())
