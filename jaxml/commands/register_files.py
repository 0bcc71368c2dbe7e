"""Registration of two files of the user: moved image, transforms and a report."""

import io
import shlex
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import checks, registration
from jaxml.commands.image_results import write_image
from jaxml.commands.register import AFFINES, METHODS, PROJECTIONS, SIMILARITIES
from jaxml.commands.register_inputs import Files, Side, load_pair
from jaxml.commands.register_measures import implausible, lengths, likeness, moved_most, overlaps
from jaxml.commands.register_report import report_of
from jaxml.commands.register_space import (
    Map,
    affine_in_mm,
    carried,
    from_headers,
    in_file_voxels,
    in_mm,
    landmark_distances,
    map_of_file_voxels,
    outside_count,
)
from jaxml.commands.transform_chain import inverse_of
from jaxml.commands.warp_files import linear
from jaxml.data.affine_files import matlab_bytes
from jaxml.data.grid import on_file_grid
from jaxml.data.label_vote import nearest
from jaxml.data.nifti import field_bytes, itk_axes, nifti_bytes
from jaxml.data.transforms import Affine
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.files.write import write_whole
from jaxml.output.report import write_report


def register_files(
    fixed: Files,
    moving: Files,
    out: Path,
    *,
    similarity: str = SIMILARITIES[0],
    affine: str = AFFINES[0],
    method: str = METHODS[0],
    projection: str = PROJECTIONS[0],
    steps: int | None = None,
    smoothness: float | None = None,
    volume: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> tuple[str, str | None]:
    """Register one image file onto another and write the result to `out`.

    Written on the voxels of the fixed file, in its orientation: the moved image with the range
    and the type of numbers of the moving one, and for images that say where they lie, as ITK and
    ANTs read them, `displacement.nii.gz`, `affine.mat` and `inverse.nii.gz`, the inverse of the
    displacement alone; `jacobian.nii.gz`, the change of volume beside that of the affine map.
    For all images `fields.npz` with displacement, inverse and affine in voxels of the files; the
    moved labels; a report with pictures and `results.json`. Every file is read and the
    registration run before the first is written.

    Args:
      fixed, moving: paths of what is known of both images. Where they say where they lie, the
        affine map starts from there.
      out: folder.
      similarity: "ncc"; "mi" for images of different contrast; or "mse".
      affine: "affine", "similarity", "rigid", or "none" for that of the headers.
      method: "both", "symmetric" or "energy", as for `registration.register`.
      projection: "fold_free", "layer" or "none", as for `registration.register`.
      steps: optimization steps a resolution; by default those of `register`.
      smoothness: weight of the roughness; by default that of `register`.
      volume: which image to read, from 0, of files that have several.
      max_bytes: most memory that reading a file may take.

    Returns:
      Similarity and folds before and after, and where the moved image and the report are; and one
      line on why the result cannot be true, None where it may be.

    Raises:
      DataError: a file that cannot be used, by its name.
      ValueError: a bad setting.
      OSError: `out` cannot be written.
    """
    checks.choice(SIMILARITIES, similarity=similarity)
    checks.choice(AFFINES, affine=affine)
    checks.choice(METHODS, method=method)
    checks.choice(PROJECTIONS, projection=projection)
    for name in ("labels", "landmarks"):
        if (getattr(fixed, name) is None) != (getattr(moving, name) is None):
            raise checks.refused(name, "those of one image", "files of both images, or of none")
    first, second = load_pair(fixed, moving, volume=volume, max_bytes=max_bytes)
    settings: dict[str, Any] = {
        "similarity": similarity,
        "method": method,
        "steps": steps,
        "projection": None if projection == "none" else projection,
    }
    if smoothness is not None:
        settings["smoothness"] = smoothness
    outcome = _registered(first, second, None if affine == "none" else affine, settings)
    results = _results(first, second, outcome)
    results["settings"] = {
        "similarity": similarity,
        "affine": affine,
        "method": method,
        "projection": projection,
    }
    doubt = implausible(results, similarity=similarity, affine=affine)
    results["implausible"] = doubt
    if first.image.affine is not None:
        results["ants"] = _ants(first, second, out)
    report = report_of(results, outcome)
    moved, dtype = _write(out, first, second, outcome)
    write_report([report.finished(sum(outcome["seconds"].values()))], out, scale="one pair", seed=0)
    return _summary(results, moved, dtype, out), doubt


def _registered(fixed: Side, moving: Side, kind: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Return both maps with their times, the inverse, and the moving image after each of them."""
    a, b = (list(map(_normalized, side.paths, side.channels)) for side in (fixed, moving))
    shared: dict[str, Any] = {
        "spacing": (fixed.image.spacing, moving.image.spacing),
        "fixed_mask": None if fixed.mask is None else jnp.asarray(fixed.mask),
        "moving_mask": None if moving.mask is None else jnp.asarray(moving.mask),
    }
    channels = [tuple(jnp.asarray(channel) for channel in arrays) for arrays in (a, b)]
    pair = [each if each[1:] else each[0] for each in channels]
    initial = from_headers(fixed, moving)
    headers = _middles(fixed, moving) if initial is None else initial
    between, start = headers, time.perf_counter()
    if kind is not None:
        start_map = None if initial is None else jnp.asarray(initial, jnp.float32)
        aligned = registration.affine(*pair, kind=kind, initial=start_map, **shared)
        between = np.asarray(jax.block_until_ready(aligned.matrix), np.float64)
    middle = time.perf_counter()
    result = registration.register(
        *pair, affine=None, initial=jnp.asarray(between, jnp.float32), **shared, **settings
    )
    u = np.asarray(jax.block_until_ready(result.displacement))
    end = time.perf_counter()
    back = inverse_of(u)
    shape = fixed.image.data.shape
    whole = np.nan_to_num(b[0])
    return {
        "fixed": np.nan_to_num(a[0]),
        "states": {
            "before": carried(whole, None, headers, shape),
            "affine": carried(whole, None, between, shape),
            "after": carried(whole, u, between, shape),
        },
        "moved": carried(moving.image.data, u, between, shape, linear),
        "displacement": u,
        "inverse": back,
        "headers": headers,
        "affine": between,
        "folds": int(result.folds),
        "seconds": {"affine": middle - start, "deformable": end - middle},
    }


def _middles(fixed: Side, moving: Side) -> Map:
    """Return the map of voxels that lays the middle of one image on that of the other."""
    middles = [(np.array(side.image.data.shape) - 1) / 2 for side in (fixed, moving)]
    return np.column_stack([np.eye(len(middles[0])), middles[1] - middles[0]])


def _normalized(path: Path, data: np.ndarray) -> np.ndarray:
    """Return intensities as 0 to 1 from the least to the 99.9th percentile of those above it."""
    low = np.nanmin(data)
    above = data[data > low]
    if above.size == 0:
        raise DataError(f"{path}: the same value everywhere; accepted are images with contrast")
    high = np.percentile(above, 99.9)
    return np.clip((data - low) / (high - low), 0, 1, dtype=np.float32)


def _results(fixed: Side, moving: Side, outcome: dict[str, Any]) -> dict[str, Any]:
    u, back, between = (outcome[name] for name in ("displacement", "inverse", "affine"))
    # In the background there is nothing to find, and much of it.
    counts = outcome["fixed"] > 0
    if fixed.mask is not None:
        counts &= fixed.mask
    states = {
        state: likeness(outcome["fixed"], moved, counts)
        for state, moved in outcome["states"].items()
    }
    consistency = jax.jit(registration.inverse_consistency)
    residual = np.asarray(consistency(jnp.asarray(u), jnp.asarray(back)))
    in_space = lengths(in_mm(u, fixed.image))
    folds = registration.fold_percentages(jnp.asarray(u))
    sides = np.array(u.shape[:-1]) * fixed.image.spacing
    results: dict[str, Any] = {
        "fixed": str(fixed.path),
        "moving": str(moving.path),
        "spacing": fixed.image.spacing,
        "notes": [f"{s.path.name}: {s.image.note}" for s in (fixed, moving) if s.image.note],
        "likeness": states,
        "fold_percent": {name: float(value) for name, value in vars(folds).items()},
        "digital_folds": outcome["folds"],
        "inverse_residual_voxels": {
            "max": float(residual.max()),
            "percentile_99_9": float(np.percentile(residual, 99.9)),
        },
        "displacement": {
            "unit": "voxels" if fixed.image.affine is None else "mm",
            "max": float(in_space.max()),
            "most": moved_most(in_space[counts]),
            "extent": float(np.prod(sides) ** (1 / len(sides))),
        },
        "seconds": outcome["seconds"],
    }
    if fixed.labels is not None and moving.labels is not None:
        shape = fixed.labels.data.shape
        before, after = (
            carried(moving.labels.data, field, matrix, shape, nearest)
            for field, matrix in ((None, outcome["headers"]), (u, between))
        )
        outcome["moved_labels"] = after
        each = overlaps(fixed.labels.data, before, after)
        means = np.mean([*each.values()], axis=0) if each else (np.nan, np.nan)
        results["dice"] = {
            "mean_before": float(means[0]),
            "mean_after": float(means[1]),
            "before_and_after": each,
        }
    if fixed.points is not None:
        distances = {
            "before": landmark_distances(fixed, moving, None, outcome["headers"]),
            "after": landmark_distances(fixed, moving, u, between),
        }
        results["landmarks"] = {
            "points": len(distances["before"]),
            "outside": outside_count(fixed),
            "unit": results["displacement"]["unit"],
            **{
                f"{name}_{state}": float(statistic(values))
                for state, values in distances.items()
                for name, statistic in (("mean", np.mean), ("median", np.median))
            },
        }
    return results


def _write(out: Path, fixed: Side, moving: Side, outcome: dict[str, Any]) -> tuple[Path, np.dtype]:
    """Write images and transforms; return where the moved image is, and its type of numbers."""
    grid, u, back = fixed.grid, outcome["displacement"], outcome["inverse"]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        displacement=in_file_voxels(u, grid),
        inverse=in_file_voxels(back, grid),
        affine=map_of_file_voxels(outcome["affine"], grid, moving.grid),
    )
    write_whole(out / "fields.npz", buffer.getvalue())
    images = {"moved": moving.image}
    if moving.labels is not None:
        images["moved_labels"] = moving.labels
    written = [
        write_image(out / name, on_file_grid(outcome[name], grid), source, grid, fixed.path)
        for name, source in images.items()
    ]
    if fixed.image.affine is None:
        return written[0]
    write_whole(out / "displacement.nii.gz", field_bytes(u, grid))
    write_whole(out / "inverse.nii.gz", field_bytes(back, grid))
    matrix = affine_in_mm(outcome["affine"], fixed, moving)
    write_whole(out / "affine.mat", matlab_bytes(Affine(matrix)))
    determinant = np.asarray(
        registration.jacobian_determinant(jnp.asarray(u), scheme="central"), np.float32
    )
    write_whole(out / "jacobian.nii.gz", nifti_bytes(on_file_grid(determinant, grid), grid))
    return written[0]


def _ants(fixed: Side, moving: Side, out: Path) -> str:
    """Return the command of ANTs that applies the result."""
    dimension = itk_axes(fixed.grid)
    files = [str(path) for path in (moving.path, fixed.path)]
    quoted = [shlex.quote(text) for text in (*files, str(out / "displacement.nii.gz"))]
    return (
        f"antsApplyTransforms -d {dimension} -i {quoted[0]} -r {quoted[1]} -t {quoted[2]} "
        f"-t {shlex.quote(str(out / 'affine.mat'))} -o moved_by_ants.nii.gz"
    )


def _summary(results: dict[str, Any], moved: Path, dtype: np.dtype, out: Path) -> str:
    before, after = (results["likeness"][state] for state in ("before", "after"))
    lines = [
        f"similarity (NCC) {before['ncc']:.4f} -> {after['ncc']:.4f}, mutual information "
        f"{before['mutual_information']:.4f} -> {after['mutual_information']:.4f}, "
        f"{results['digital_folds']} folds, {results['seconds']['affine']:.0f} + "
        f"{results['seconds']['deformable']:.0f} s"
    ]
    if "dice" in results:
        dice = results["dice"]
        lines.append(f"mean Dice {dice['mean_before']:.4f} -> {dice['mean_after']:.4f}")
    if "landmarks" in results:
        marks = results["landmarks"]
        lines.append(
            f"landmarks: mean distance {marks['mean_before']:.2f} -> {marks['mean_after']:.2f} "
            f"{marks['unit']}"
        )
    return "\n".join([*lines, f"moved image: {moved}, {dtype}", f"report: {out / 'report.html'}"])
