"""Whole registrations, `registration.register` against ANTs' SyN, on the same images in one run.

    python benchmarks/registration_peers.py [--quick] [--sections ...] [--peers ...] [--pairs ...]

The images are those of the folder that JAXML_DATA names, in native space: each pair is given to
both tools with its headers alone. Seconds are those of the processor, all threads together, so
that neither the load of the machine nor the number of threads counts. ANTs is run in one thread
and with a seed. Its settings are its default, and the two that were the best of those tried on
brains: cross-correlation in windows of radius 2, and mutual information with long schedules.
"""

import argparse
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
import scipy.ndimage
from scipy.spatial.transform import Rotation

from jaxml import registration
from jaxml.data import load_brain_pair

SECTIONS = ("pairs", "turns", "contrast", "landmarks")
BRAINS = ("1003", "1004", "1023", "1024", "1101", "1104", "1107", "1110", "1113")
PAIRS = {
    **{f"brains_2mm/{a} <- {b}": (f"brains_2mm/{a}", f"brains_2mm/{b}")
       for a, b in zip(BRAINS, BRAINS[1:], strict=False)},
    "heads_2mm/train02 <- train04": ("heads_2mm/train02", "heads_2mm/train04"),
    "heads_2mm/train04 <- tdveale": ("heads_2mm/train04", "heads_2mm/tdveale"),
    "spinal_cord/t1 <- t2": ("spinal_cord/t1", "spinal_cord/t2"),
}  # fmt: skip
PEERS: dict[str, dict] = {
    "SyN": {"type_of_transform": "SyN"},
    "CC": {
        "type_of_transform": "SyN",
        "syn_metric": "CC",
        "syn_sampling": 2,
        "reg_iterations": (40, 30, 10),
    },
    "MI": {
        "type_of_transform": "SyN",
        "syn_metric": "mattes",
        "syn_sampling": 32,
        "reg_iterations": (100, 70, 50),
        "flow_sigma": 2,
    },
}
_NAMES = {
    "SyN": "ANTs SyN, default",
    "CC": "ANTs SyN, CC radius 2, (40, 30, 10)",
    "MI": "ANTs SyN, MI, (100, 70, 50), flow sigma 2",
}
NO_POINTS = np.zeros((0, 3), int)
Spacing = tuple[tuple[float, ...], tuple[float, ...]]
# The shortest wave of a hidden warp, of the longest one.
SHORTEST = 3 / 8
# The place of a voxel in ITK's millimeters, x to the left and y to the back, from ours.
_ITK = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Scan:
    """A volume of intensities 0 to 1, its labels, and its voxels to mm (right, front, up)."""

    image: np.ndarray
    labels: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, ...]:
        """Sides of a voxel in mm."""
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())


@dataclass(frozen=True)
class Outcome:
    """What a tool made of a pair.

    Attributes:
      displacement: before the affine map, in voxels of the fixed scan.
      labels: those of the moving scan, carried to the fixed one.
      seconds: of the processor.
      points: of the voxels `[point, 3]` of the fixed scan that were asked for, the places in
        voxels of the moving one.
    """

    displacement: np.ndarray
    labels: np.ndarray
    seconds: float
    points: np.ndarray


@dataclass(frozen=True)
class Settings:
    """What is measured: hidden warps are (root mean square, longest wave in mm, seed)."""

    data: Path
    pairs: Sequence[str]
    peers: Sequence[str]
    draws: int = 10
    rounds: int = 3
    warps: tuple[tuple[float, float, int], ...] = (
        (3.0, 160.0, 0),
        (3.0, 160.0, 1),
        (5.0, 160.0, 2),
        (5.0, 160.0, 3),
        (2.0, 80.0, 4),
        (2.0, 80.0, 5),
    )


def main() -> int:
    """Run the sections asked for and print, and write where asked, their Markdown."""
    parser = harness.parser("Registration: jaxml against ANTs.", SECTIONS)
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="settings of ANTs")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, help="of the section pairs")
    options = harness.parsed(parser)
    head = harness.machine(
        "Registration of whole volumes: jaxml and ANTs",
        ("jax", "jaxlib", "numpy", "scipy", "antspyx"),
        "float32.",
    )
    if absent := missing():
        options.sections = ()
        return harness.run([*head, f"\nNot measured: {absent}."], {}, options)
    settings = _settings(options)
    sections = {"pairs": pairs, "turns": turns, "contrast": contrast, "landmarks": landmarks}
    chapters = {name: functools.partial(section, settings) for name, section in sections.items()}
    return harness.run(head, chapters, options)


def missing() -> str:
    """Return what is not there of what the measurements take."""
    absent = []
    if not harness.installed("antspyx"):
        absent.append("antspyx is not installed (pip install '.[peers]')")
    folder = os.environ.get("JAXML_DATA")
    if not folder:
        absent.append("JAXML_DATA names no folder with brain and registration")
    elif gone := [name for name in ("brain", "registration") if not (Path(folder) / name).is_dir()]:
        absent.append(f"the folder of JAXML_DATA has no {' and no '.join(gone)}")
    return "; ".join(absent)


def _settings(options: argparse.Namespace) -> Settings:
    quick = options.quick
    every = list(PEERS)[:1] if quick else list(PEERS)
    peers = every if options.peers is None else options.peers
    chosen = options.pairs or list(PAIRS)[: 1 if quick else None]
    data = Path(os.environ["JAXML_DATA"])
    if quick:
        return Settings(data, chosen, peers, draws=1, rounds=1, warps=((3.0, 160.0, 0),))
    return Settings(data, chosen, peers)


# Pairs in native space ------------------------------------------------------------------------


def pairs(settings: Settings) -> Iterator[str]:
    """Yield a table of all pairs and tools, and the means of those pairs that all tools ran."""
    yield "\n## Pairs in native space\n"
    yield (
        "| pair | tool | Dice | digital folds | forward folds | SD log det | CPU s | "
        "first call, CPU s |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    rows: dict[str, list[tuple[float, float]]] = {}
    for pair in settings.pairs:
        fixed, moving = (_scan(settings.data, name) for name in PAIRS[pair])
        start = _carried(moving.labels, np.linalg.inv(moving.affine) @ fixed.affine, fixed)
        yield f"| {pair} | the headers | {dice(fixed.labels, start):.4f} | | | | | |"
        for tool, outcome, first in _outcomes(fixed, moving, settings.peers):
            overlap = dice(fixed.labels, outcome.labels)
            rows.setdefault(tool, []).append((overlap, outcome.seconds))
            yield (
                f"| {pair} | {tool} | {overlap:.4f} | {_regularity(outcome, fixed)} | "
                f"{outcome.seconds:.1f} | {first} |"
            )
    yield "\n### Means over these pairs\n"
    yield "| | Dice | CPU s |" + "".join(f" {_NAMES[p]} / this |" for p in settings.peers)
    yield "|---|--:|--:|" + "--:|" * len(settings.peers)
    means = {tool: np.mean(values, axis=0) for tool, values in rows.items()}
    for tool, (overlap, seconds) in means.items():
        ratios = "".join(f" {means[_NAMES[p]][1] / seconds:.1f} |" for p in settings.peers)
        yield f"| {tool} | {overlap:.4f} | {seconds:.1f} |{ratios}"
    yield (
        "\nDice: mean over all labels of either scan, moved by nearest neighbor. Folds: of the "
        "displacement in voxels of the fixed scan. SD log det: over the labeled voxels, central "
        "differences. jaxml with its defaults, in its second call; the first one compiles."
    )


def _outcomes(
    fixed: Scan, moving: Scan, peers: Sequence[str]
) -> Iterator[tuple[str, Outcome, str]]:
    """Yield the name, the outcome and the seconds of a first call, of jaxml and of each peer."""
    first = by_jaxml(fixed, moving).seconds
    yield "jaxml", by_jaxml(fixed, moving), f"{first:.0f}"
    for peer in peers:
        yield _NAMES[peer], by_ants(fixed, moving, peer), ""


def _regularity(outcome: Outcome, fixed: Scan) -> str:
    u = jnp.asarray(outcome.displacement)
    counts = [int(registration.count_folds(u, scheme=s)) for s in ("digital", "forward")]
    return f"{counts[0]:,} | {counts[1]:,} | {sd_log_determinant(u, fixed.labels > 0):.3f}"


def sd_log_determinant(u: jax.Array, inside: np.ndarray) -> float:
    """Return the SD of the logarithm of the determinant, by central differences."""
    determinants = np.asarray(registration.jacobian_determinant(u, scheme="central"))
    return float(np.std(np.log(np.maximum(determinants[inside], 1e-9))))


# Turned and shifted ---------------------------------------------------------------------------


def turns(settings: Settings) -> Iterator[str]:
    """Yield a table of draws: the header of the moving brain is wrong by a turn and a shift."""
    fixed, moving = two_brains(settings.data)
    yield "\n## Brain B turned and shifted by its header\n"
    names = ["jaxml, Dice", *(f"{_NAMES[p]}, Dice" for p in settings.peers[:1])]
    yield f"| degrees | mm | {' | '.join(names)} | jaxml, folds | affine stage, CPU s | in all |"
    yield "|--:|--:|" + "--:|" * (len(names) + 3)
    rng = np.random.default_rng(0)
    overlaps = []
    for draw in range(settings.draws + 1):
        degrees, shift, turn = (0.0, 0.0, np.eye(4)) if draw == 0 else _turn(rng, fixed)
        turned = Scan(moving.image, moving.labels, moving.affine @ np.linalg.inv(turn))
        alone = [_affine_seconds(fixed, turned) for _ in range(2 if draw == 0 else 1)][-1]
        if draw == 0:
            by_jaxml(fixed, turned)
        ours = by_jaxml(fixed, turned)
        peers = [by_ants(fixed, turned, peer).labels for peer in settings.peers[:1]]
        values = [dice(fixed.labels, labels) for labels in (ours.labels, *peers)]
        overlaps.append(values[0])
        folds = int(registration.count_folds(jnp.asarray(ours.displacement), scheme="digital"))
        yield (
            f"| {degrees:.0f} | {shift:.0f} | {' | '.join(f'{v:.4f}' for v in values)} | {folds} | "
            f"{alone:.1f} | {ours.seconds:.1f} |"
        )
    aligned, *others = overlaps
    near = sum(value >= aligned - 0.01 for value in others)
    yield (
        f"\nIn {near} of {settings.draws} draws jaxml's Dice is at most .01 below that of the "
        f"header that is right, {aligned:.4f}. Nothing but the header is turned, so that the image "
        "is interpolated once. Seconds are those of second calls."
    )


def _turn(rng: np.random.Generator, fixed: Scan) -> tuple[float, float, np.ndarray]:
    """Return the angle, the length of the shift, and the map of voxels about the middle."""
    axis = rng.standard_normal(3)
    degrees = rng.uniform(0, 45)
    way = rng.standard_normal(3)
    shift = rng.uniform(0, 40)
    rotation = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    middle = (np.array(fixed.image.shape) - 1) / 2
    offset = middle - rotation @ middle + way / np.linalg.norm(way) * shift / fixed.spacing
    turn = np.eye(4)
    turn[:3] = np.column_stack([rotation, offset])
    return degrees, shift, turn


def _affine_seconds(fixed: Scan, moving: Scan) -> float:
    initial, spacing = _headers(fixed, moving)
    images = jnp.asarray(fixed.image), jnp.asarray(moving.image)
    start = time.process_time()
    jax.block_until_ready(registration.affine(*images, initial=initial, spacing=spacing))
    return time.process_time() - start


# Other contrast -------------------------------------------------------------------------------


def contrast(settings: Settings) -> Iterator[str]:
    """Yield a table of similarities on brain B as it is, inverted and T2-like."""
    fixed, moving = two_brains(settings.data)
    peer = settings.peers[:1]
    yield "\n## Contrast of brain B changed\n"
    head = ["ncc, Dice", "mi, Dice", *(f"{_NAMES[p]}, Dice" for p in peer)]
    head += ["ncc, CPU s", "mi, CPU s", "mi, of ncc's CPU s"]
    yield f"| contrast | {' | '.join(head)} |"
    yield "|---|" + "--:|" * len(head)
    for name, change in _CONTRASTS.items():
        image = np.where(moving.image > 0, change(moving.image), 0).astype(np.float32)
        changed = Scan(image, moving.labels, moving.affine)

        def run(similarity, changed=changed):
            # The affine stage is the same for both and would hide the ratio.
            outcome = by_jaxml(fixed, changed, similarity=similarity, affine=None)
            return outcome.seconds, dice(fixed.labels, outcome.labels)

        calls = {s: functools.partial(run, s) for s in ("ncc", "mi")}
        if name == next(iter(_CONTRASTS)):
            harness.interleave(calls, rounds=1, seconds=1.0)  # compiles
        times, values = harness.interleave(calls, rounds=settings.rounds, seconds=1e9)
        cells = [values["ncc"], values["mi"]]
        cells += [dice(fixed.labels, by_ants(fixed, changed, p).labels) for p in peer]
        ncc, mi = (min(times[s]) for s in ("ncc", "mi"))
        yield (
            f"| {name} | {' | '.join(f'{c:.4f}' for c in cells)} | {ncc:.1f} | {mi:.1f} | "
            f"{mi / ncc:.2f} |"
        )
    yield (
        f"\njaxml without its affine stage, which the brains do not need, the least of "
        f"{settings.rounds} calls each in turns after the first ones."
    )


_CONTRASTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    "inverted": lambda x: 1 - x,
    # Fluid bright, gray matter between, white matter dark.
    "T2-like": lambda x: np.interp(
        x, [0, 0.1, 0.3, 0.5, 0.7, 1.0], [0.9, 1.0, 0.75, 0.45, 0.25, 0.6]
    ),
}


# A hidden warp --------------------------------------------------------------------------------


def landmarks(settings: Settings) -> Iterator[str]:
    """Yield a table of distances of landmarks from where a hidden warp has them."""
    yield "\n## Landmarks of a hidden warp of brain A\n"
    yield (
        "| warp, mm | waves, mm | seed | smallest det | tool | TRE, mean, mm | median | largest | "
        "CPU s |"
    )
    yield "|--:|---|--:|--:|---|--:|--:|--:|--:|"
    fixed, _ = two_brains(settings.data)
    points = corners(fixed.image, 200)
    for size, longest, seed in settings.warps:
        warp = HiddenWarp.draw(size, longest, seed, fixed)
        moving = Scan(warp.image(fixed.image, seed), fixed.labels, fixed.affine)
        truth = warp.inverse(points)
        before = f"| {size:g} | {SHORTEST * longest:g} to {longest:g} | {seed} "
        before += f"| {warp.smallest(fixed):.2f}"
        yield f"{before} | the headers | {_distances(points, truth, fixed)} | |"
        tools: dict[str, Callable[..., Outcome]] = {
            "jaxml": by_jaxml,
            'jaxml, `method="symmetric"`': functools.partial(by_jaxml, method="symmetric"),
        }
        if (size, longest, seed) == settings.warps[0]:
            for run in tools.values():
                run(fixed, moving)  # compiles
        tools |= {_NAMES[peer]: functools.partial(by_ants, peer=peer) for peer in settings.peers}
        for tool, run in tools.items():
            outcome = run(fixed, moving, points=points)
            away = _distances(outcome.points, truth, fixed)
            yield f"{before} | {tool} | {away} | {outcome.seconds:.1f} |"
    yield (
        "\nThe moving image is brain A at y + w(y) after a turn, a scale and a shift, by cubic "
        "splines, with noise of .01 of its range; w is a sum of 24 sines, scaled to the "
        "root mean square that the table has. The 200 landmarks are corners of the fixed "
        "image; distances are in mm, of voxels of 2 mm."
    )


def _distances(places: np.ndarray, truth: np.ndarray, scan: Scan) -> str:
    away = np.linalg.norm((places - truth) * scan.spacing, axis=1)
    return f"{np.mean(away):.3f} | {np.median(away):.3f} | {np.max(away):.2f}"


@dataclass(frozen=True)
class HiddenWarp:
    """y to linear @ (y + w(y)) + offset, voxels of the moving image to those of the fixed one."""

    linear: np.ndarray
    offset: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    heights: np.ndarray

    @classmethod
    def draw(cls, size: float, longest: float, seed: int, scan: Scan) -> "HiddenWarp":
        """Return a random one with a displacement w of that root mean square in mm."""
        rng = np.random.default_rng(seed)
        ways = rng.standard_normal((24, 3))
        lengths = longest * SHORTEST ** rng.uniform(size=(24, 1))
        waves = 2 * np.pi * ways / np.linalg.norm(ways, axis=1, keepdims=True) / lengths
        heights = rng.standard_normal((24, 3)) * lengths
        heights *= size / np.sqrt(np.sum(heights**2) / 2)
        rotation = Rotation.from_rotvec(np.deg2rad(4) * rng.uniform(-1, 1, 3)).as_matrix()
        linear = rotation * rng.uniform(0.97, 1.03)
        middle = (np.array(scan.image.shape) - 1) / 2
        offset = middle - linear @ middle + rng.uniform(-3, 3, 3) / scan.spacing
        phases = rng.uniform(0, 2 * np.pi, 24)
        return cls(linear, offset, waves * scan.spacing, phases, heights / scan.spacing)

    def displacement(self, y: np.ndarray) -> np.ndarray:
        """Return w at places `[point, 3]`."""
        return np.sin(y @ self.waves.T + self.phases) @ self.heights

    def smallest(self, scan: Scan) -> float:
        """Return the smallest determinant of y + w(y) at the voxels."""
        y = np.indices(scan.image.shape)[:, ::2, ::2, ::2].reshape(3, -1).T
        slopes = np.cos(y @ self.waves.T + self.phases)
        products = np.einsum("ki,kj->kij", self.heights, self.waves).reshape(len(self.waves), 9)
        return float(np.linalg.det(np.eye(3) + (slopes @ products).reshape(-1, 3, 3)).min())

    def image(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Return the moving image."""
        y = np.indices(image.shape).reshape(3, -1).T
        x = (y + self.displacement(y)) @ self.linear.T + self.offset
        moved = scipy.ndimage.map_coordinates(image, x.T, order=3).reshape(image.shape)
        noise = np.random.default_rng(seed).normal(0, 0.01, image.shape)
        return np.clip(moved + noise, 0, 1).astype(np.float32)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Return where places `[point, 3]` of the fixed image are in the moving one."""
        target = np.linalg.solve(self.linear, (x - self.offset).T).T
        y = target
        for _ in range(200):
            y = (y + target - self.displacement(y)) / 2
        if np.max(np.abs(y + self.displacement(y) - target)) > 1e-6:
            raise RuntimeError("the hidden warp has folds")
        return y


def corners(image: np.ndarray, count: int) -> np.ndarray:
    """Return voxels `[count, 3]` where the image changes most along all three axes."""
    slopes = [_slope(image, axis) for axis in range(3)]
    tensor = np.empty((*image.shape, 3, 3))
    for i in range(3):
        for j in range(3):
            tensor[..., i, j] = scipy.ndimage.gaussian_filter(slopes[i] * slopes[j], 1.5)
    least = np.linalg.eigvalsh(tensor)[..., 0]
    peak = (least == scipy.ndimage.maximum_filter(least, 5)) & (image > 0)
    places = np.argwhere(peak)
    return places[np.argsort(-least[peak])[:count]]


def _slope(image: np.ndarray, axis: int) -> np.ndarray:
    for a in range(3):
        image = scipy.ndimage.gaussian_filter1d(image, 1.0, axis=a, order=int(a == axis))
    return image


# The tools ------------------------------------------------------------------------------------


def by_jaxml(fixed: Scan, moving: Scan, points: np.ndarray = NO_POINTS, **options) -> Outcome:
    """Return what `registration.register` makes of a pair, by default with its defaults."""
    initial, spacing = _headers(fixed, moving)
    images = jnp.asarray(fixed.image), jnp.asarray(moving.image)
    start = time.process_time()
    result = registration.register(*images, initial=initial, spacing=spacing, **options)
    jax.block_until_ready(result)
    seconds = time.process_time() - start
    u = np.asarray(result.displacement)
    labels = jnp.asarray(moving.labels, jnp.float32)
    moved = registration.warp(labels, result.displacement, affine=result.affine, order=0)
    places = _applied(np.asarray(result.affine, np.float64), points + u[tuple(points.T)])
    return Outcome(u, np.asarray(moved).astype(int), seconds, places)


def by_ants(fixed: Scan, moving: Scan, peer: str, points: np.ndarray = NO_POINTS) -> Outcome:
    """Return what ANTs makes of a pair with one of the settings."""
    # Read when ANTs is imported.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import ants
    import pandas as pd

    image, other = _ants_image(fixed.image, fixed), _ants_image(moving.image, moving)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        result = ants.registration(
            image, other, random_seed=1, outprefix=f"{folder}/", **PEERS[peer]
        )
        seconds = time.process_time() - start
        forward = result["fwdtransforms"]
        labels = _ants_image(moving.labels, moving)
        moved = ants.apply_transforms(image, labels, forward, interpolator="nearestNeighbor")
        (file,) = (name for name in forward if name.endswith("Warp.nii.gz"))
        vectors = ants.image_read(file).numpy()
        places = NO_POINTS
        if len(points):
            # Points of the fixed image go to the moving one by what brings the image back.
            table = pd.DataFrame(_applied(_ITK @ fixed.affine, points), columns=["x", "y", "z"])
            there = ants.apply_transforms_to_points(3, table, forward)[["x", "y", "z"]].to_numpy()
            places = _applied(np.linalg.inv(_ITK @ moving.affine), there)
    u = vectors @ np.linalg.inv((_ITK @ fixed.affine)[:3, :3]).T
    return Outcome(u.astype(np.float32), moved.numpy().astype(int), seconds, places)


def _ants_image(array: np.ndarray, scan: Scan) -> Any:
    import ants

    place = _ITK @ scan.affine
    return ants.from_numpy(
        array.astype(np.float32),
        origin=place[:3, 3].tolist(),
        spacing=list(scan.spacing),
        direction=place[:3, :3] / scan.spacing,
    )


# Small things ---------------------------------------------------------------------------------


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean overlap of all labels but 0 that are in either volume."""
    labels = np.union1d(first, second)
    values = registration.dice_per_label(
        jnp.asarray(first, jnp.int32), jnp.asarray(second, jnp.int32), labels[labels > 0].tolist()
    )
    return float(jnp.mean(values))


def _scan(data: Path, name: str) -> Scan:
    """Return a volume of the folder registration."""
    with np.load(data / "registration" / f"{name}.npz") as arrays:
        image = arrays["image"].astype(np.float32) / 255
        return Scan(image, arrays["labels"].astype(int), arrays["affine"].astype(np.float64))


def two_brains(data: Path) -> tuple[Scan, Scan]:
    """Return brains A and B, of one grid of 2 mm, with the labels that count."""
    pair = load_brain_pair(data)
    only = lambda labels: np.where(np.isin(labels, pair.labels), labels, 0)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    return Scan(pair.a, only(pair.a_labels), affine), Scan(pair.b, only(pair.b_labels), affine)


def _headers(fixed: Scan, moving: Scan) -> tuple[jax.Array, Spacing]:
    """Return the initial map and the spacing, as `register` wants them, of two headers."""
    initial = np.linalg.inv(moving.affine) @ fixed.affine
    return jnp.asarray(initial[:3], jnp.float32), (fixed.spacing, moving.spacing)


def _carried(labels: np.ndarray, matrix: np.ndarray, fixed: Scan) -> np.ndarray:
    """Return labels on the grid of the fixed scan by an affine map of voxels."""
    shape = fixed.image.shape
    return scipy.ndimage.affine_transform(labels, matrix, output_shape=shape, order=0)


def _applied(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


if __name__ == "__main__":
    sys.exit(main())
