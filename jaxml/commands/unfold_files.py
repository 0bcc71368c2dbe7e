"""The displacement field of any tool without its folds: repaired, inverted, and a report."""

import dataclasses
import io
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import registration
from jaxml.commands.transform_chain import inverse_of
from jaxml.data.field_files import field_bytes
from jaxml.data.transforms import Affine, Field, from_voxels, in_voxels, load_transform
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.files.write import write_whole
from jaxml.output import deformations
from jaxml.output.report import Figure, Report, Table, write_report

SCHEMES: tuple[Any, ...] = tuple(field.name for field in dataclasses.fields(registration.Folds))


def unfold_file(path: Path, out: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """Write the nearest field without folds, and its inverse, to `out`.

    Written: `unfolded.nii.gz` and `inverse.nii.gz` on the grid of the file, as ITK and ANTs read
    them; of fields.npz `unfolded.npz` with both; and a report with `results.json`. Vectors that
    need no change keep their numbers.

    Args:
      path: displacement field of any tool, as NIfTI of ITK, or fields.npz of `jaxml register`.
      out: folder.
      max_bytes: most memory that reading the field may take.

    Returns:
      Folds before and after, the change, and where the files are.

    Raises:
      DataError: the file cannot be used, by its name.
      OSError: `out` cannot be written.
    """
    transforms = load_transform(path, max_bytes=max_bytes)
    field, *others = transforms
    if not isinstance(field, Field):
        raise DataError(f"{path}: an affine, which has no folds; give a displacement field")
    if min(field.vectors.shape[:-1]) < 3:
        shape = list(field.vectors.shape[:-1])
        raise DataError(f"{path}: a field of {shape} voxels; give one of 3 or more an axis")
    start = time.perf_counter()
    u = jnp.asarray(in_voxels(field), jnp.float32)
    free = registration.fold_free(u)
    repaired = _repaired(field, np.asarray(u), np.asarray(free.displacement))
    # Of the numbers in the file, which are rounded.
    v = jnp.asarray(in_voxels(repaired), jnp.float32)
    inverse = from_voxels(inverse_of(np.asarray(v)), field)
    changes = np.linalg.norm(repaired.vectors.astype(float) - field.vectors, axis=-1)
    back = jnp.asarray(in_voxels(inverse), jnp.float32)
    residual = jax.jit(registration.inverse_consistency)(v, back)
    results = {
        "field": str(path),
        "unit": field.unit,
        "voxels": changes.size,
        "folds_before": _folds(u),
        "folds_after": _folds(v),
        "folded_volume_before": _folded_volume(u),
        "folded_volume_after": _folded_volume(v),
        "iterations": int(free.iterations),
        "changed_voxels": int(np.count_nonzero(changes)),
        "change_rms": float(np.sqrt(np.mean(changes**2))),
        "change_max": float(changes.max()),
        "inverse_residual_rms_voxels": float(jnp.sqrt(jnp.mean(residual**2))),
        "inverse_residual_max_voxels": float(jnp.max(residual)),
    }
    report = _report(results, {"before": u, "after": v})
    affine = next((each for each in others if isinstance(each, Affine)), None)
    names = _write(out, repaired, inverse, affine)
    write_report([report.finished(time.perf_counter() - start)], out, scale="one field", seed=0)
    # A field without digital folds has none by forward, backward and central differences.
    before, after = (results[f"folds_{when}"]["digital"] for when in ("before", "after"))
    return (
        f"{before} -> {after} voxels with folds, change {results['change_rms']:.4g} "
        f"{field.unit} rms, {results['change_max']:.4g} at most\n"
        f"written: {', '.join(str(out / name) for name in names)}\n"
        f"report: {out / 'report.html'}"
    )


def _repaired(field: Field, u: np.ndarray, free: np.ndarray) -> Field:
    """Return the field with new vectors where its displacement was changed."""
    changed = (free != u).any(axis=-1, keepdims=True)
    vectors = np.where(changed, from_voxels(free, field).vectors, field.vectors)
    return Field(vectors, field.affine, field.unit)


def _folds(u: jax.Array) -> dict[str, int]:
    return {scheme: int(registration.count_folds(u, scheme=scheme)) for scheme in SCHEMES}


def _folded_volume(u: jax.Array) -> float:
    """Return the volume in voxels that the map turns inside out."""
    return float(jnp.sum(registration.non_diffeomorphic_volume(u)))


def _report(results: dict[str, Any], fields: dict[str, jax.Array]) -> Report:
    rows = [
        (
            when,
            *(str(count) for count in results[f"folds_{when}"].values()),
            f"{results[f'folded_volume_{when}']:.4g}",
        )
        for when in ("before", "after")
    ]
    unit = results["unit"]
    text = (
        f"{results['changed_voxels']} of {results['voxels']} vectors were changed, by "
        f"{results['change_rms']:.4g} {unit} in the root mean square over all of them and by "
        f"{results['change_max']:.4g} {unit} at most. The inverse and then the field move a voxel "
        f"by {results['inverse_residual_rms_voxels']:.4g} voxels in the root mean square, by "
        f"{results['inverse_residual_max_voxels']:.4g} at most."
    )
    return Report(
        "unfold",
        f"{Path(results['field']).name} without folds",
        (
            Table(
                "Voxels that are folds, by each criterion, and the volume that is turned inside "
                "out; no simplex bounds the five-point determinant of ANTs",
                ("", *SCHEMES, "volume"),
                tuple(rows),
            ),
            text,
            Figure(
                "deformation",
                "Deformed grid in the plane of the slice, and determinants",
                deformations.deformations(fields),
            ),
        ),
        results,
    )


def _write(out: Path, repaired: Field, inverse: Field, affine: Affine | None) -> tuple[str, ...]:
    """Write both fields in the format of the file; return the names."""
    if repaired.unit == "mm":
        names = "unfolded.nii.gz", "inverse.nii.gz"
        for name, field in zip(names, (repaired, inverse), strict=True):
            write_whole(out / name, field_bytes(field.vectors, field.affine))
        return names
    both = {"displacement": repaired.vectors, "inverse": inverse.vectors}
    arrays: dict[str, Any] = both if affine is None else {**both, "affine": affine.matrix[:-1]}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(out / "unfolded.npz", buffer.getvalue())
    return ("unfolded.npz",)
