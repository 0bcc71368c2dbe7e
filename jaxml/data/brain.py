"""Pairs of brain volumes with labels: the user's folder, else a template that a package ships."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxml.data.folder import named_folder
from jaxml.data.volume import load_volume
from jaxml.files.errors import DataError, unreadable
from jaxml.files.limits import MAX_BYTES
from jaxml.files.npz import read_npz

LAYOUT = (
    "subject_a_SIZE.npz and subject_b_SIZE.npz, each with vol (uint8) and seg (labels), and "
    "labels30.npz with labels"
)
SIZES = {"half": "80x96x112", "full": "160x192x224"}
TEMPLATES = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
TISSUES = ("fluid and rest", "grey matter", "white matter")


@dataclasses.dataclass(frozen=True)
class BrainPair:
    """Two volumes of one grid and their labels; b is to be moved onto a.

    Attributes:
      a: intensities `[D, H, W]`, 0 to 1, float32.
      b: intensities of the volume to be moved, likewise.
      a_labels: label of each voxel of `a`, `[D, H, W]`, int32.
      b_labels: label of each voxel of `b`, likewise.
      labels: labels that count in an evaluation.
      two_subjects: whether b is another person; else it is a, to be warped by the caller.
      source: one line that says what was used.
    """

    a: Float[np.ndarray, "*volume"]
    b: Float[np.ndarray, "*volume"]
    a_labels: Int[np.ndarray, "*volume"]
    b_labels: Int[np.ndarray, "*volume"]
    labels: tuple[int, ...]
    two_subjects: bool
    source: str


def load_brain_pair(
    folder: Path | str | None, *, size: str = "half", max_bytes: int = MAX_BYTES
) -> BrainPair:
    """Return two subjects of a folder, or the template of nilearn twice.

    Args:
      folder: the user's data, else the folder that the variable JAXML_DATA names; the files of
        `LAYOUT` in it or in its folder `brain`.
      size: "half" (80 x 96 x 112 voxels of 2 mm) or "full" (160 x 192 x 224 of 1 mm). The
        template is resampled to about that size.
      max_bytes: most memory that reading a file may take.

    Returns:
      The pair; the template stands for both where there are no two subjects.

    Raises:
      DataError: a named folder holds no such pair, a file is damaged or too large, or nothing was
        named and nilearn is not installed.
      ValueError: `size` is unknown.
    """
    # Loaders import no JAX: the processes that download and speak start sooner without.
    from jaxml import checks

    checks.choice(tuple(SIZES), size=size)
    root = named_folder(folder)
    if root is None:
        return _template(size)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give one with {LAYOUT}")
    inner = root / "brain" if (root / "brain").is_dir() else root
    paths = [inner / f"subject_{s}_{SIZES[size]}.npz" for s in "ab"]
    if not all(path.is_file() for path in (*paths, inner / "labels30.npz")):
        # A folder of data for other methods says nothing about brains.
        if folder is None:
            return _template(size)
        raise DataError(f"{inner}: no pair of brains; give a folder with {LAYOUT}")
    (a, a_labels), (b, b_labels) = (_subject(path, max_bytes) for path in paths)
    if a.shape != b.shape:
        raise DataError(f"{inner}: subjects of shapes {a.shape} and {b.shape}; give one shape")
    (labels,) = _arrays(inner / "labels30.npz", "labels", max_bytes=max_bytes)
    if labels.ndim != 1:
        raise DataError(f"{inner / 'labels30.npz'}: labels {list(labels.shape)}; give one row")
    labels = tuple(_labels(inner / "labels30.npz", labels).tolist())
    source = f"{inner} (two subjects, {SIZES[size]} voxels, {len(labels)} labels)"
    return BrainPair(a, b, a_labels, b_labels, labels, True, source)


def voxelmorph_weights(folder: Path | str | None) -> Path | None:
    """Return the path of released VoxelMorph weights in the user's data.

    Args:
      folder: as for `load_brain_pair`.

    Returns:
      Path of `voxelmorph_vm2_cc.npz`, None where it is not there.
    """
    named = named_folder(folder)
    roots = () if named is None else (named / "brain", named)
    paths = (root / "voxelmorph_vm2_cc.npz" for root in roots)
    return next((path for path in paths if path.is_file()), None)


def _subject(path, max_bytes):
    volume, labels = _arrays(path, "vol", "seg", max_bytes=max_bytes)
    if volume.ndim != 3 or volume.shape != labels.shape or volume.dtype != np.uint8:
        raise DataError(
            f"{path}: vol {volume.dtype}{volume.shape}, seg {labels.shape}; give two volumes of "
            "one shape, vol as uint8"
        )
    return volume.astype(np.float32) / 255, _labels(path, labels)


def _arrays(path, *names, max_bytes):
    try:
        arrays = read_npz(path, *names, max_bytes=max_bytes)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, what="damaged", accepted=f"give {LAYOUT}") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataError(f"{path}: no array {missing[0]}; give {LAYOUT}")
    return [arrays[name] for name in names]


def _labels(path, array):
    """Return labels as int32, if they are whole numbers of that size."""
    numbers = array.dtype.kind in "iubf"
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.int32) if numbers else array
    if not numbers or (labels != array).any():
        raise DataError(f"{path}: labels of {array.dtype} that are not whole; give {LAYOUT}")
    return labels


def _template(size) -> BrainPair:
    """Return the MNI template with tissues as labels, by its own tissue maps."""
    package = importlib.util.find_spec("nilearn")
    if package is None or package.origin is None:
        raise DataError(
            f"no brain volumes: name a folder with {LAYOUT}, or install the package nilearn, "
            "which ships a template"
        )
    data = Path(package.origin).parent / "datasets" / "data"
    t1, grey, white = (load_volume(data / TEMPLATES.format(n)).data for n in ("t1", "gm", "wm"))
    step = 2 if size == "half" else 1
    t1, grey, white = (_means(v / v.max(), step) for v in (t1, grey, white))
    tissue = np.stack([np.full_like(grey, 0.3), grey, white]).argmax(axis=0) + 1
    labels = np.where(t1 > 0.05, tissue, 0).astype(np.int32)
    shape = " x ".join(map(str, t1.shape))
    source = f"MNI152 template that nilearn ships ({shape} voxels; labels {', '.join(TISSUES)})"
    return BrainPair(t1, t1, labels, labels, (1, 2, 3), False, source)


def _means(volume, step):
    """Return means over cubes of `step` voxels, cut to even sides."""
    cut = volume[tuple(slice(0, n // (2 * step) * 2 * step) for n in volume.shape)]
    if step == 1:
        return np.ascontiguousarray(cut, np.float32)
    shape = [part for n in cut.shape for part in (n // step, step)]
    return cut.reshape(shape).mean(axis=(1, 3, 5)).astype(np.float32)
