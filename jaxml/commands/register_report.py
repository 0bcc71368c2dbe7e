"""The report of a registration of two files."""

from pathlib import Path
from typing import Any

from jaxml.output import deformations
from jaxml.output.report import Figure, Report, Table

_MEASURES = (
    ("local correlation (NCC)", "ncc"),
    ("mutual information, nats", "mutual_information"),
    ("mean squared difference", "mse"),
)


def report_of(results: dict[str, Any], outcome: dict[str, Any]) -> Report:
    """Return the report.

    Args:
      results: numbers of the run, as they are written to results.json.
      outcome: images and fields of the run.

    Returns:
      `Report` without its duration.
    """
    states = ("before", "affine", "after")
    likeness = Table(
        "Likeness of the images, intensities 0 to 1, by the headers, after the affine map, and "
        "after the deformation",
        ("", *states),
        tuple(
            (title, *(f"{results['likeness'][state][name]:.5f}" for state in states))
            for title, name in _MEASURES
        ),
    )
    percent = results["fold_percent"]
    folds = Table(
        f"Folds, % of voxels, by each criterion; {results['digital_folds']} digital ones in all",
        tuple(percent),
        (tuple(f"{value:.4f}" for value in percent.values()),),
    )
    first, second = outcome["fixed"], outcome["states"]
    pictures = {
        "fixed": first,
        "moving": second["before"],
        "moved": second["after"],
        "−before": first - second["before"],
        "−after": first - second["after"],
    }
    return Report(
        "register",
        f"Registration of {Path(results['moving']).name} onto {Path(results['fixed']).name}",
        (
            *((f"Attention: {results['implausible']}.",) if results["implausible"] else ()),
            likeness,
            *_against_truth(results),
            folds,
            _text(results),
            Figure(
                "images",
                "Middle slices, and differences before and after",
                deformations.images(pictures),
            ),
            Figure(
                "deformation",
                "Deformed grid in the plane of the slice, and determinants",
                deformations.deformations({"displacement": outcome["displacement"]}),
            ),
        ),
        results,
    )


def _against_truth(results: dict[str, Any]) -> list[Table]:
    tables = []
    if "dice" in results:
        dice = results["dice"]
        rows = [("mean", dice["mean_before"], dice["mean_after"])]
        rows += [(str(label), *pair) for label, pair in dice["before_and_after"].items()]
        caption = "Overlap of labels (Dice), by the headers and after"
        texts = tuple((name, f"{before:.4f}", f"{after:.4f}") for name, before, after in rows)
        tables.append(Table(caption, ("label", "before", "after"), texts))
    if "landmarks" in results:
        marks = results["landmarks"]
        caption = (
            f"Distance of {marks['points']} landmarks in {marks['unit']}; {marks['outside']} lie "
            "outside of the fixed image"
        )
        texts = tuple(
            (name, *(f"{marks[f'{name}_{state}']:.3f}" for state in ("before", "after")))
            for name in ("mean", "median")
        )
        tables.append(Table(caption, ("", "before", "after"), texts))
    return tables


def _text(results: dict[str, Any]) -> str:
    residual, moved = results["inverse_residual_voxels"], results["displacement"]
    settings = results["settings"]
    lines = [
        f"Similarity {settings['similarity']}, affine map {settings['affine']}, method "
        f"{settings['method']} and projection {settings['projection']}.",
        f"Largest displacement {moved['max']:.2f} {moved['unit']}; {moved['most']:.2f} or less at "
        "three quarters of the foreground.",
        f"The field after its inverse moves a voxel by {residual['max']:.4f} at most, by "
        f"{residual['percentile_99_9']:.4f} or less at 99.9% (0 for an exact inverse).",
    ]
    if "ants" in results:
        lines.append(
            f"To apply it with ANTs: {results['ants']}. From the moving image to the fixed one: "
            "-t [affine.mat,1] -t inverse.nii.gz."
        )
    lines += [f"{note}." for note in results["notes"]]
    return " ".join(lines)
