"""`jaxml unfold` on fields of ITK, with SimpleITK as the judge of what is written."""

import gzip
import json

import numpy as np
import pytest
import SimpleITK as sitk

from jaxml.cli import main
from jaxml.commands.unfold_files import SCHEMES
from jaxml.data.field_files import field_bytes
from jaxml.data.transforms import in_voxels, load_transform

SHAPE = (16, 15, 14)


def run(*arguments):
    return main(["unfold", *map(str, arguments)])


def oblique():
    rotation = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.4, -0.3, 0.6).GetMatrix(), (3, 3))
    affine = np.eye(4)
    # Flipped along one axis, with voxels of three sizes.
    affine[:3] = np.c_[rotation * (-1, 2, 3), [20, -5, 11]]
    return affine


def folded(shape):
    """Return a displacement in voxels that folds in the middle, and is at rest at one end."""
    u = np.zeros((*shape, len(shape)))
    middle = tuple(slice(n // 2 - 2, n // 2 + 2) for n in shape)
    u[middle] = 3 * np.random.default_rng(0).normal(size=u[middle].shape)
    return u


def results(out):
    return json.loads((out / "results.json").read_text())["methods"]["unfold"]


def no_folds(counts):
    """Return whether a field has none but for five-point ones, which no simplex bounds."""
    return not any(count for scheme, count in counts.items() if scheme != "five_point")


def determinants(path):
    """Return those of ITK, by central differences in mm, of voxels inside of the field."""
    image = sitk.ReadImage(path, sitk.sitkVectorFloat64)
    # This filter leaves the direction out: its vectors have to be along the axes of the image.
    turned = sitk.GetArrayFromImage(image) @ np.reshape(image.GetDirection(), (3, 3))
    field = sitk.GetImageFromArray(turned, isVector=True)
    field.SetSpacing(image.GetSpacing())
    found = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))
    return found[1:-1, 1:-1, 1:-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_field_of_itk_loses_its_folds(dtype, tmp_path, capsys):
    affine = oblique()
    vectors = (folded(SHAPE) @ affine[:3, :3].T).astype(dtype)
    (tmp_path / "warp.nii.gz").write_bytes(field_bytes(vectors, affine))
    out = tmp_path / "out"
    assert run(tmp_path / "warp.nii.gz", "--out", out) == 0
    found = results(out)
    assert set(found["folds_before"]) == set(found["folds_after"]) == set(SCHEMES)
    assert min(found["folds_before"].values()) > 5
    assert no_folds(found["folds_after"])
    assert found["folded_volume_before"] > 5 and found["folded_volume_after"] == 0
    assert (determinants(tmp_path / "warp.nii.gz") <= 0).sum() == found["folds_before"]["central"]
    assert determinants(out / "unfolded.nii.gz").min() > 0
    (before,), (after,) = (
        load_transform(p) for p in (tmp_path / "warp.nii.gz", out / "unfolded.nii.gz")
    )
    assert after.vectors.dtype == dtype
    np.testing.assert_array_equal(after.affine, before.affine)
    changes = np.linalg.norm(after.vectors.astype(float) - before.vectors, axis=-1)
    np.testing.assert_allclose(found["change_max"], changes.max(), rtol=1e-6)
    np.testing.assert_allclose(found["change_rms"], np.sqrt(np.mean(changes**2)), rtol=1e-6)
    # Far from the folds every number is as it was.
    assert 0 < found["changed_voxels"] == np.count_nonzero(changes) < changes.size
    np.testing.assert_array_equal(after.vectors[:2], before.vectors[:2])
    told = capsys.readouterr().out
    digital = found["folds_before"]["digital"]
    assert f"{digital} -> 0 voxels with folds, change {found['change_rms']:.4g} mm rms" in told
    assert (out / "unfold/deformation.png").read_bytes().startswith(b"\x89PNG")


def test_the_written_inverse_undoes_the_field_in_itk(tmp_path):
    shape, affine = (24, 22, 20), oblique()
    windows = [np.sin(np.pi * np.arange(n) / (n - 1)) ** 2 for n in shape]
    bump = np.prod(np.meshgrid(*windows, indexing="ij"), axis=0)
    u = np.stack([1.5 * bump, -1.5 * bump, bump], axis=-1)
    (tmp_path / "warp.nii.gz").write_bytes(field_bytes(u @ affine[:3, :3].T, affine))
    out = tmp_path / "out"
    assert run(tmp_path / "warp.nii.gz", "--out", out) == 0
    there, back = (
        sitk.DisplacementFieldTransform(sitk.ReadImage(out / name, sitk.sitkVectorFloat64))
        for name in ("unfolded.nii.gz", "inverse.nii.gz")
    )
    index = np.random.default_rng(0).uniform(3, 16, size=(50, 3))
    points = (index @ affine[:3, :3].T + affine[:3, 3]) * (-1, -1, 1)
    moved = [back.TransformPoint(p) for p in points.tolist()]
    found = [there.TransformPoint(p) for p in moved]
    # In voxels, of which the longest side is 3 mm.
    assert np.abs(np.array(moved) - points).max() > 2
    np.testing.assert_allclose(found, points, atol=0.15)
    assert results(out)["inverse_residual_max_voxels"] < 1e-4


def test_a_field_without_folds_stays_as_it_is(tmp_path, capsys):
    affine = oblique()
    vectors = 0.05 * np.random.default_rng(0).normal(size=(*SHAPE, 3)).astype(np.float32)
    (tmp_path / "warp.nii").write_bytes(gzip.decompress(field_bytes(vectors, affine)))
    assert run(tmp_path / "warp.nii", "--out", tmp_path / "out") == 0
    (found,) = load_transform(tmp_path / "out/unfolded.nii.gz")
    np.testing.assert_array_equal(found.vectors, vectors)
    assert results(tmp_path / "out")["changed_voxels"] == 0
    assert "0 -> 0 voxels with folds, change 0 mm rms" in capsys.readouterr().out


def test_fields_in_pixels(tmp_path):
    u = folded((20, 24)).astype(np.float32)
    matrix = np.array([[1.0, 0, 0], [0, 1, 3]])
    np.savez(tmp_path / "fields.npz", displacement=u, inverse=u, affine=matrix)
    assert run(tmp_path / "fields.npz", "--out", tmp_path / "out") == 0
    found = results(tmp_path / "out")
    assert found["unit"] == "voxels" and found["folds_before"]["forward"] > 3
    assert no_folds(found["folds_after"])
    with np.load(tmp_path / "out/unfolded.npz") as arrays:
        np.testing.assert_array_equal(arrays["affine"], matrix)
        assert arrays["inverse"].shape == arrays["displacement"].shape == u.shape
        np.testing.assert_array_equal(arrays["displacement"][:2], u[:2])
    field, _ = load_transform(tmp_path / "out/unfolded.npz")
    np.testing.assert_array_equal(in_voxels(field), field.vectors)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.nii.gz", "missing.nii.gz: no such file"),
        ("affine.tfm", "affine.tfm: an affine, which has no folds; give a displacement field"),
        ("image.nii.gz", "image.nii.gz: not readable as a transform (shape [5, 6, 7]"),
        ("nan.npz", "nan.npz: not readable as a transform (1 numbers are NaN"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(name, message, tmp_path, capsys):
    sitk.WriteTransform(sitk.TranslationTransform(3, (1, 2, 3)), tmp_path / "affine.tfm")
    sitk.WriteImage(sitk.Image((5, 6, 7), sitk.sitkFloat32), tmp_path / "image.nii.gz")
    u = np.zeros((5, 6, 2))
    u[2, 2, 0] = np.nan
    np.savez(tmp_path / "nan.npz", displacement=u)
    assert run(tmp_path / name, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
