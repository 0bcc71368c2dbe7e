"""`jaxml register` on small files of every kind."""

import inspect
import json
from typing import get_args

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxml import registration
from jaxml.cli import main
from jaxml.commands.register import PROJECTIONS
from jaxml.data import load_volume
from jaxml.registration._inputs import Projection
from jaxml.registration._register import _STEPS


def blob(shape, center, radius):
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm((index - np.array(center)) / np.array(radius), axis=-1)
    ripple = 0.3 * np.sin(index.sum(axis=-1))
    return (100 * np.exp(-(distance**2)) * (1 + ripple)).astype(np.float32)


def run(*arguments):
    return main(["register", *map(str, arguments)])


def test_pictures(tmp_path, capsys):
    for name, center in (("a", (15, 17)), ("b", (17, 15))):
        image = blob((32, 34), center, (8, 8)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    assert run(tmp_path / "a.png", tmp_path / "b.png", "--out", out, "--steps", 60) == 0
    assert "0 folds" in capsys.readouterr().out
    found = json.loads((out / "results.json").read_text())["methods"]["register"]
    assert found["mse_after"] < found["mse_before"] / 4
    assert found["digital_folds"] == 0
    assert set(found["fold_percent"].values()) == {0.0}
    assert found["inverse_residual_voxels"] < 0.1
    with np.load(out / "fields.npz") as fields:
        assert fields["displacement"].shape == fields["inverse"].shape == (32, 34, 2)
    moved, fixed = (load_volume(p).data for p in (out / "moved.png", tmp_path / "a.png"))
    assert np.abs(moved - fixed).mean() < np.abs(fixed).mean() / 10
    for name in ("images", "deformation"):
        assert (out / f"register/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_volumes_of_other_orientation_and_voxel_size(tmp_path):
    """A ball displaced by 6 mm to the right, in voxels of other sizes and directions."""
    fixed_affine = np.diag([2.0, 2.0, 3.0, 1.0])
    moving_affine = np.diag([-2.5, 2.0, 2.0, 1.0])
    moving_affine[0, 3] = 40

    def ball(shape, affine, center):
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        return np.exp(-np.sum((world - center) ** 2, axis=-1) / 2 / 8**2).astype(np.float32)

    fixed = ball((20, 20, 14), fixed_affine, np.array([20.0, 20, 20]))
    moving = ball((18, 22, 22), moving_affine, np.array([26.0, 20, 20]))
    nibabel.save(nibabel.Nifti1Image(fixed, fixed_affine), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(moving, moving_affine), tmp_path / "b.nii")
    out = tmp_path / "out"
    settings = ("--out", out, "--steps", 60, "--smoothness", 0.1)
    assert run(tmp_path / "a.nii.gz", tmp_path / "b.nii", *settings) == 0
    moved = nibabel.load(out / "moved.nii.gz")
    np.testing.assert_allclose(moved.affine, fixed_affine)
    assert moved.shape == fixed.shape
    before = np.abs(fixed - ball(fixed.shape, fixed_affine, np.array([26.0, 20, 20]))).mean()
    assert np.abs(np.asarray(moved.dataobj) - fixed).mean() < before / 3
    with np.load(out / "fields.npz") as voxels:
        for name in ("displacement", "inverse"):
            image = nibabel.load(out / f"{name}.nii.gz")
            in_mm = np.asarray(image.dataobj)[:, :, :, 0]
            np.testing.assert_allclose(in_mm, voxels[name] * [-2, -2, 3], rtol=1e-5, atol=1e-6)
        # The ball is found 6 mm to the right; local correlation leaves its exact place open.
        assert 2 < 2 * voxels["displacement"][10, 10, 7, 0] < 8
        assert -8 < 2 * voxels["inverse"][12, 10, 7, 0] < -2
        assert np.abs(voxels["displacement"][10, 10, 7, 1:]).max() < 0.5
    notes = json.loads((out / "results.json").read_text())["methods"]["register"]["notes"]
    assert any("resampled" in note for note in notes)


def pair(dtype, low, high, shape=(24, 26)):
    """Return two images of a type whose values are from `low` to `high`."""
    center = np.array(shape) // 2
    images = [blob(shape, center + d, (6,) * len(shape)) for d in (0, 1)]
    if dtype is bool:
        return [image > image.max() / 3 for image in images]
    return [(low + (high - low) * image / image.max()).astype(dtype) for image in images]


def picture(path, image):
    Image.fromarray(image).save(path)


def volume(path, image, slope=1.0, intercept=0.0):
    nifti = nibabel.Nifti1Image(image, np.diag([1.0, 2, 2, 1]), dtype=image.dtype)
    nifti.header.set_slope_inter(slope, intercept)
    nibabel.save(nifti, path)


def stored(path):
    """Return the numbers of a file as they stand there, without a scale."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    return np.load(path) if path.suffix == ".npy" else nibabel.load(path).dataobj.get_unscaled()


# Files of fixed and moving image, type and range of the moving one, file and type of the moved.
KINDS = {
    "16-bit png": ("a.png", "b.png", np.uint16, 300, 60000, "moved.png", np.uint16),
    "8-bit png": ("a.png", "b.png", np.uint8, 3, 200, "moved.png", np.uint8),
    "1-bit png": ("a.png", "b.png", bool, 0, 1, "moved.png", bool),
    "unit array for a png": ("a.png", "b.npy", np.float64, 0, 1, "moved.npy", np.float64),
    "signed array for a png": ("a.png", "b.npy", np.int16, -900, 900, "moved.npy", np.int16),
    "bytes for a png": ("a.png", "b.npy", np.uint8, 0, 250, "moved.png", np.uint8),
    "png for an array": ("a.npy", "b.png", np.uint16, 0, 65535, "moved.npy", np.uint16),
    "half precision": ("a.npy", "b.npy", np.float16, -2, 2, "moved.npy", np.float16),
    "64 bits": ("a.npy", "b.npy", np.int64, 0, 2**62, "moved.npy", np.int64),
    "other order": ("a.npy", "b.npy", np.dtype(">u2"), 0, 999, "moved.npy", np.uint16),
    "flat nifti": ("a.nii", "b.nii", np.int16, -900, 900, "moved.nii.gz", np.int16),
    "array for a nifti": ("a.nii", "b.npy", bool, 0, 1, "moved.nii.gz", np.uint8),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_moved_image_has_range_and_type_of_the_moving_one(name, tmp_path, capsys):
    fixed, moving, dtype, low, high, written, written_dtype = KINDS[name]
    images = pair(np.float64, 0, 255)[0].astype(np.uint8), pair(dtype, low, high)[1]
    for file, image in zip((fixed, moving), images, strict=True):
        write = {".png": picture, ".npy": np.save, ".nii": volume}[file[file.index(".") :]]
        write(tmp_path / file, image)
    out = tmp_path / "out"
    assert run(tmp_path / fixed, tmp_path / moving, "--out", out, "--steps", 5) == 0
    assert f"moved image: {out / written}, {np.dtype(written_dtype)}" in capsys.readouterr().out
    found = stored(out / written)
    assert found.dtype == written_dtype
    # It was moved by a voxel at most: nearly all is as it was, the brightest among it.
    expected = images[1].astype(float)
    assert np.abs(found.astype(float) - expected).mean() < 0.1 * (high - low)
    assert found.max() > low + 0.9 * (expected.max() - low)
    assert len(list(out.glob("moved*"))) == 1


def test_the_moved_image_has_the_scale_of_a_nifti(tmp_path):
    fixed, moving = pair(np.int16, 0, 1000, shape=(14, 12, 12))
    volume(tmp_path / "a.nii.gz", fixed)
    volume(tmp_path / "b.nii.gz", moving, 0.125, -20)
    out = tmp_path / "out"
    assert run(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--out", out, "--steps", 5) == 0
    found = nibabel.load(out / "moved.nii.gz")
    assert found.get_data_dtype() == np.int16
    assert (found.dataobj.slope, found.dataobj.inter) == (0.125, -20)
    values = load_volume(out / "moved.nii.gz").data
    assert np.abs(values - (0.125 * moving - 20)).mean() < 10
    assert values.max() > 0.9 * 125 - 20 and stored(out / "moved.nii.gz").max() > 900


def test_a_scale_is_not_lost_where_a_file_has_none(tmp_path):
    fixed, moving = pair(np.int16, 0, 1000)
    np.save(tmp_path / "a.npy", fixed)
    volume(tmp_path / "b.nii", moving, 0.125, -20)
    out = tmp_path / "out"
    assert run(tmp_path / "a.npy", tmp_path / "b.nii", "--out", out, "--steps", 5) == 0
    found = np.load(out / "moved.npy")
    assert found.dtype == np.float32 and 0.9 * 125 - 20 < found.max() <= 105


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys):
    np.save(tmp_path / "a.npy", blob((20, 20), (9, 9), (5, 5)))
    np.save(tmp_path / "other.npy", np.ones((20, 21)))
    np.save(tmp_path / "flat.npy", np.ones((20, 20)))
    np.save(tmp_path / "nan.npy", np.full((20, 20), np.nan))
    out = tmp_path / "out"
    for moving, message in (
        ("missing.npy", "no such file"),
        ("other.npy", "shapes (20, 20) and (20, 21)"),
        ("flat.npy", "flat.npy: the same value everywhere"),
        ("nan.npy", "nan.npy: every voxel is NaN"),
    ):
        assert run(tmp_path / "a.npy", tmp_path / moving, "--out", out) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert run(tmp_path / "a.npy", tmp_path / "a.npy", "--projection", "magic", "--out", out) == 2
    assert "one of 'fold_free', 'layer', 'none'" in capsys.readouterr().err
    assert run(tmp_path / "a.npy", tmp_path / "a.npy", "--steps", 0, "--out", out) == 2
    assert "steps" in capsys.readouterr().err
    assert not out.exists()


def test_help_says_what_the_library_takes(capsys):
    defaults = inspect.signature(registration.register).parameters
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert {name.replace("none", "") or None for name in PROJECTIONS} == {*get_args(Projection)}
    assert f"{', '.join(PROJECTIONS[:-1])} or none (default: {PROJECTIONS[0]})" in text
    assert f"roughness (default: {defaults['smoothness'].default})" in text
    assert f"(default: {_STEPS}, on fine ones {_STEPS // 10})" in text
