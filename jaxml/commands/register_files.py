"""Registration of two files of the user: moved image, fields and a report."""

import dataclasses
import io
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import checks, registration
from jaxml.commands.register import PROJECTIONS
from jaxml.data.grid import on_file_grid
from jaxml.data.nifti import field_bytes, nifti_bytes
from jaxml.data.volume import Volume, as_stored, load_volume
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.files.write import write_whole
from jaxml.output import deformations
from jaxml.output.report import Figure, Report, Table, write_report


def register_files(
    fixed: Path,
    moving: Path,
    out: Path,
    *,
    projection: str = PROJECTIONS[0],
    steps: int | None = None,
    smoothness: float | None = None,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Register one image file onto another and write the result to `out`.

    Written: the moved image with the range and the type of numbers of the moving one, in the
    format of the fixed one, or as `moved.npy` where that has no such type; `fields.npz` with
    displacement and inverse in voxels of the fixed image; for images with an affine also both as
    displacement fields of ITK; a report with pictures and `results.json`.
    Every file is read and the registration run before the first is written.

    Args:
      fixed, moving: NIfTI, npz, npy or png; a moving NIfTI on another grid is resampled to
        that of the fixed one by both affines first.
      out: folder.
      projection: "fold_free", "layer" or "none", as for `registration.register`.
      steps: optimization steps a resolution; by default those of `register`.
      smoothness: weight of the roughness; by default that of `register`.
      max_bytes: most memory that reading an image may take.

    Returns:
      Similarity and folds before and after, and where the moved image and the report are.

    Raises:
      DataError: a file that cannot be used, by its name.
      ValueError: a bad setting.
      OSError: `out` cannot be written.
    """
    checks.choice(PROJECTIONS, projection=projection)
    target, source = (load_volume(path, max_bytes=max_bytes) for path in (fixed, moving))
    try:
        source = resample_to(source, target)
    except ValueError as error:
        raise DataError(f"{fixed}, {moving}: {error}") from error
    a, b = (_normalized(path, v) for path, v in ((fixed, target), (moving, source)))
    start = time.perf_counter()
    settings: dict[str, Any] = {
        "steps": steps,
        "projection": None if projection == "none" else projection,
    }
    if smoothness is not None:
        settings["smoothness"] = smoothness
    result = registration.register(a, b, **settings)
    u = jax.block_until_ready(result.displacement)
    seconds = time.perf_counter() - start
    back = jax.jit(registration.inverse)(u)
    residual = float(jnp.sqrt(jnp.mean(jax.jit(registration.compose)(u, back) ** 2)))
    moved = jax.jit(registration.warp)(jnp.asarray(source.data), u)

    stored, name = _moved(np.asarray(moved), source, target, fixed)
    similarity = jax.jit(registration.ncc)
    folds = registration.fold_percentages(u)
    results = {
        "fixed": str(fixed),
        "moving": str(moving),
        "moved": f"{name} of {stored.dtype}",
        "spacing": target.spacing,
        "notes": [v.note for v in (target, source) if v.note],
        "ncc_before": -float(similarity(a, b)),
        "ncc_after": -float(similarity(a, result.moved)),
        "mse_before": float(jnp.mean((a - b) ** 2)),
        "mse_after": float(jnp.mean((a - result.moved) ** 2)),
        "fold_percent": {name: float(value) for name, value in vars(folds).items()},
        "digital_folds": int(result.folds),
        "inverse_residual_voxels": residual,
    }
    report = _report(results, a, b, result, projection)
    _write(out, target, source, name, stored, np.asarray(u), np.asarray(back))
    write_report([report.finished(seconds)], out, scale="one pair", seed=0)
    return (
        f"similarity (NCC) {results['ncc_before']:.4f} -> {results['ncc_after']:.4f}, "
        f"{results['digital_folds']} folds, {seconds:.0f} s\n"
        f"moved image: {out / name}, {stored.dtype}\n"
        f"report: {out / 'report.html'}"
    )


def _normalized(path: Path, volume: Volume) -> jax.Array:
    """Return intensities as 0 to 1 from the least to the 99.9th percentile of those above it."""
    low = volume.data.min()
    above = volume.data[volume.data > low]
    if above.size == 0:
        raise DataError(f"{path}: the same value everywhere; accepted are images with contrast")
    high = np.percentile(above, 99.9)
    return jnp.asarray(np.clip((volume.data - low) / (high - low), 0, 1), jnp.float32)


def _report(results, a, b, result, projection) -> Report:
    rows = (
        ("local correlation (NCC)", "ncc"),
        ("mean squared difference", "mse"),
    )
    table = Table(
        "Likeness of the images, intensities 0 to 1",
        ("", "before", "after"),
        tuple(
            (t, f"{results[k + '_before']:.5f}", f"{results[k + '_after']:.5f}") for t, k in rows
        ),
    )
    percent = results["fold_percent"]
    folds = Table(
        f"Folds, % of voxels, by each criterion; {results['digital_folds']} digital ones in all",
        tuple(percent),
        (tuple(f"{value:.4f}" for value in percent.values()),),
    )
    notes = "".join(f" {note[0].upper()}{note[1:]}." for note in results["notes"])
    text = (
        f"Projection: {projection}. Root mean square of the field composed with its inverse: "
        f"{results['inverse_residual_voxels']:.3f} voxels (0 for an exact inverse).{notes}"
    )
    pictures = {
        "fixed": a,
        "moving": b,
        "moved": result.moved,
        "−before": a - b,
        "−after": a - result.moved,
    }
    return Report(
        "register",
        f"Registration of {Path(results['moving']).name} onto {Path(results['fixed']).name}",
        (
            table,
            folds,
            text,
            Figure(
                "images",
                "Middle slices, and differences before and after",
                deformations.images(pictures),
            ),
            Figure(
                "deformation",
                "Deformed grid in the plane of the slice, and determinants",
                deformations.deformations({"displacement": result.displacement}),
            ),
        ),
        results,
    )


def _moved(
    moved: np.ndarray, source: Volume, target: Volume, fixed: Path
) -> tuple[np.ndarray, str]:
    """Return the moved image as numbers of the moving file, and the name of a file for them."""
    name = fixed.name.lower()
    nifti = target.affine is not None
    if not nifti and (source.slope, source.intercept) != (1, 0):
        return moved, "moved.npy"
    stored = as_stored(moved, source)
    if name.endswith(".png") and stored.dtype in (np.bool_, np.uint8, np.uint16):
        return stored, "moved.png"
    if not nifti:
        return stored, "moved.npy"
    # NIfTI has neither of these types; all of their numbers are among those of the next.
    wider = {"bool": np.uint8, "float16": np.float32}.get(stored.dtype.name)
    return (stored if wider is None else stored.astype(wider)), "moved.nii.gz"


def _write(out, target: Volume, source: Volume, name: str, stored, u, back) -> None:
    grid = target.grid if target.affine is not None else None
    buffer = io.BytesIO()
    np.savez_compressed(buffer, displacement=u, inverse=back)
    write_whole(out / "fields.npz", buffer.getvalue())
    buffer = io.BytesIO()
    if grid is not None:
        scale: dict[str, Any] = {"slope": source.slope, "intercept": source.intercept}
        write_whole(out / name, nifti_bytes(on_file_grid(stored, grid), grid, **scale))
        for field_name, field in (("displacement", u), ("inverse", back)):
            write_whole(out / f"{field_name}.nii.gz", field_bytes(field, grid))
    elif name.endswith(".png"):
        write_whole(out / name, _png(stored))
    else:
        np.save(buffer, stored)
        write_whole(out / name, buffer.getvalue())


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def resample_to(volume: Volume, grid: Volume, *, order: int = 1) -> Volume:
    """Return a volume on the voxels of another, by the world positions of both.

    Volumes of one shape and affine, and those without an affine, come back as they are.

    Args:
      volume: volume to resample, 0 outside of it.
      grid: volume whose shape and affine are wanted.
      order: 1 for linear, 0 for nearest (labels).

    Returns:
      `Volume` with the affine of `grid`; its note says that it was resampled.

    Raises:
      DataError: another number of axes; or shapes differ and an affine is missing.
    """
    if volume.data.ndim != grid.data.ndim:
        raise DataError(
            f"images of {grid.data.ndim} and {volume.data.ndim} axes; give two of the same number"
        )
    same_shape = volume.data.shape == grid.data.shape
    if volume.affine is None or grid.affine is None:
        if same_shape:
            return volume
        raise DataError(
            f"images of shapes {grid.data.shape} and {volume.data.shape} without affines; "
            "give two of one shape, or NIfTI files"
        )
    if same_shape and np.allclose(volume.affine, grid.affine, atol=1e-4):
        return volume
    import scipy.ndimage

    ndim = grid.data.ndim
    to_voxel = np.linalg.solve(volume.affine, grid.affine)
    offset: Any = to_voxel[:ndim, 3]
    data = scipy.ndimage.affine_transform(
        volume.data, to_voxel[:ndim, :ndim], offset, grid.data.shape, order=order
    )
    sizes = " x ".join(map(str, volume.data.shape)), " x ".join(map(str, grid.data.shape))
    note = f"resampled by its affine from {sizes[0]} to the grid of the fixed image, {sizes[1]}"
    note = "; ".join(filter(None, (volume.note, note)))
    return dataclasses.replace(volume, data=data, affine=grid.affine, note=note)
