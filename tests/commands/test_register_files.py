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
            np.testing.assert_allclose(in_mm, voxels[name] * [2, 2, 3], rtol=1e-5, atol=1e-6)
        # The ball is found 6 mm to the right; local correlation leaves its exact place open.
        assert 2 < 2 * voxels["displacement"][10, 10, 7, 0] < 8
        assert -8 < 2 * voxels["inverse"][12, 10, 7, 0] < -2
        assert np.abs(voxels["displacement"][10, 10, 7, 1:]).max() < 0.5
    notes = json.loads((out / "results.json").read_text())["methods"]["register"]["notes"]
    assert any("resampled" in note for note in notes)


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
        ("nan.npy", "nan.npy: 400 voxels are NaN"),
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
