"""`jaxml register` on small files of every kind."""

import itertools
import json
from typing import get_args

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from jaxml.cli import main
from jaxml.commands import register_measures
from jaxml.commands.register import AFFINES, METHODS, PROJECTIONS, SIMILARITIES
from jaxml.data import load_volume
from jaxml.registration._affine import Kind
from jaxml.registration._inputs import Projection
from jaxml.registration._register import _MEASURES, _STEPS


def blob(shape, center, radius):
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm((index - np.array(center)) / np.array(radius), axis=-1)
    ripple = 0.3 * np.sin(index.sum(axis=-1))
    return (100 * np.exp(-(distance**2)) * (1 + ripple)).astype(np.float32)


def run(*arguments):
    return main(["register", *map(str, arguments)])


def results(out):
    return json.loads((out / "results.json").read_text())["methods"]["register"]


def test_pictures(tmp_path, capsys):
    for name, center in (("a", (15, 17)), ("b", (17, 15))):
        image = blob((32, 34), center, (8, 8)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    # Landmarks of a picture: x along the rows, y down.
    (tmp_path / "a.csv").write_text(",X,Y\n0,17,15\n1,20,14\n")
    (tmp_path / "b.csv").write_text(",X,Y\n0,15,17\n1,18,16\n")
    out = tmp_path / "out"
    marks = "--landmarks", tmp_path / "a.csv", tmp_path / "b.csv"
    files = tmp_path / "a.png", tmp_path / "b.png"
    assert run(*files, "--out", out, "--steps", 60, "--affine", "none", "--anyway", *marks) == 0
    assert "0 folds" in capsys.readouterr().out
    found = results(out)
    before, after = found["likeness"]["before"], found["likeness"]["after"]
    assert after["mse"] < before["mse"] / 4
    assert after["mutual_information"] > before["mutual_information"]
    assert found["digital_folds"] == 0
    assert set(found["fold_percent"].values()) == {0.0}
    assert found["inverse_residual_voxels"]["percentile_99_9"] < 0.2
    with np.load(out / "fields.npz") as fields:
        assert fields["displacement"].shape == fields["inverse"].shape == (32, 34, 2)
        np.testing.assert_allclose(fields["affine"], np.eye(3)[:2], atol=1e-6)
    moved, fixed = (load_volume(p).data for p in (out / "moved.png", tmp_path / "a.png"))
    assert np.abs(moved - fixed).mean() < np.abs(fixed).mean() / 10
    for name in ("images", "deformation"):
        assert (out / f"register/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert found["landmarks"]["mean_before"] == pytest.approx(8**0.5)
    assert found["landmarks"]["mean_after"] < 1 and found["landmarks"]["unit"] == "voxels"
    assert not [*out.glob("*.nii.gz"), *out.glob("*.mat")]


TURN = Rotation.from_euler("zyx", (0.15, -0.1, 0.2)).as_matrix()
# Left-posterior-superior axes, and others in another order, of other sizes and directions.
FIXED = (TURN @ np.diag([-2.0, -2.0, 3.0]), (18, 22, -10), (20, 20, 14))
MOVING = (np.array([[0, -2.5, 0], [0, 0, 2.0], [2.0, 0, 0]]), (-14, 20, -20), (22, 18, 22))


def placed(matrix, center, shape):
    """Return an affine that lays the middle of an image at a point."""
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = center - matrix @ ((np.array(shape) - 1) / 2)
    return affine


def lumps(affine, shape, shift):
    """Return a few balls, which lie displaced in space, and their labels."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3] - shift
    image, labels = np.zeros(shape), np.zeros(shape, np.int16)
    for label, (center, height) in enumerate(
        (((0, 0, 0), 1.0), ((9, 4, 3), 0.6), ((-8, 6, -6), 0.8)), 1
    ):
        distance = np.linalg.norm(world - center, axis=-1)
        image += height * np.exp(-((distance / 7) ** 2))
        labels[distance < 5] = 10 * label
    return (1000 * image).astype(np.float32), labels


def write_pair(folder):
    """Write two volumes of other grids, the second one displaced by 4 mm, with their labels."""
    for name, (matrix, _, shape), shift in (
        ("a", FIXED, (0, 0, 0)),
        ("b", MOVING, (3, -2, 2)),
    ):
        affine = placed(matrix, 0, shape)
        image, labels = lumps(affine, shape, shift)
        nibabel.save(nibabel.Nifti1Image(image, affine), folder / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine), folder / f"{name}_labels.nii.gz")
    # LPS mm, as ANTs writes them.
    (folder / "a.csv").write_text("x,y,z,t\n0,0,0,0\n-9,-4,3,0\n")
    (folder / "b.csv").write_text("x,y,z,t\n-3,2,2,0\n-12,-2,5,0\n")
    return folder / "a.nii.gz", folder / "b.nii.gz"


def itk_map(out, ndim=3):
    """Return the transform of the written files, as SimpleITK applies it."""
    field = sitk.ReadImage(out / "displacement.nii.gz", sitk.sitkVectorFloat64)
    affine = sitk.ReadTransform(str(out / "affine.mat"))
    # The last one is applied first.
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])


def in_plane(path):
    """Return an image of two axes or of one slice as one of two axes."""
    image = sitk.ReadImage(path)
    return image if image.GetDimension() == 2 else image[:, :, 0]


def inner(image):
    """Return an array without the voxels near its faces, where interpolation may differ."""
    return image[tuple(slice(2, -2) if n > 4 else slice(None) for n in image.shape)]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    files = write_pair(folder)
    labels = "--labels-fixed", folder / "a_labels.nii.gz", "--labels-moving"
    marks = "--landmarks", folder / "a.csv", folder / "b.csv"
    settings = "--steps", 30, "--out", folder / "out", "--affine", "none", "--anyway"
    assert run(*files, *settings, *labels, folder / "b_labels.nii.gz", *marks) == 0
    return folder


def test_results_lie_on_the_voxels_of_the_fixed_file(volumes):
    fixed = nibabel.load(volumes / "a.nii.gz")
    out = volumes / "out"
    for name in ("moved", "moved_labels", "displacement", "inverse", "jacobian"):
        image = nibabel.load(out / f"{name}.nii.gz")
        assert image.shape[:3] == fixed.shape
        np.testing.assert_allclose(image.affine, fixed.affine, atol=1e-5)
    moved = nibabel.load(out / "moved.nii.gz").get_fdata()
    truth = fixed.get_fdata()
    before = lumps(fixed.affine, fixed.shape, (3, -2, 2))[0]
    assert np.abs(moved - truth).mean() < np.abs(before - truth).mean() / 2


def test_itk_applies_the_files_to_the_same_image_and_labels(volumes):
    fixed, moving = (sitk.ReadImage(volumes / name) for name in ("a.nii.gz", "b.nii.gz"))
    whole = itk_map(volumes / "out")
    theirs = sitk.Resample(moving, fixed, whole, sitk.sitkLinear, 0.0, sitk.sitkFloat64)
    ours = sitk.ReadImage(volumes / "out/moved.nii.gz", sitk.sitkFloat64)
    apart = sitk.GetArrayFromImage(theirs) - sitk.GetArrayFromImage(ours)
    assert np.abs(apart).max() < 1e-5 * 1000
    labels = sitk.ReadImage(volumes / "b_labels.nii.gz")
    theirs = sitk.Resample(labels, fixed, whole, sitk.sitkNearestNeighbor)
    ours = sitk.ReadImage(volumes / "out/moved_labels.nii.gz")
    theirs, ours = (sitk.GetArrayFromImage(image) for image in (theirs, ours))
    assert np.mean(theirs != ours) < 1e-3
    truth = nibabel.load(volumes / "a_labels.nii.gz").get_fdata().T
    dice = results(volumes / "out")["dice"]
    each = [
        2 * np.sum((ours == k) & (truth == k)) / np.sum((ours == k) + (truth == k) * 1)
        for k in (10, 20, 30)
    ]
    assert [after for _, after in dice["before_and_after"].values()] == pytest.approx(each)
    assert dice["mean_after"] == pytest.approx(np.mean(each))
    assert dice["mean_after"] > dice["mean_before"] + 0.1


def test_landmarks_are_mapped_as_itk_maps_them(volumes):
    whole = itk_map(volumes / "out")
    partners = np.array([[-3, 2, 2], [-12, -2, 5]])
    mapped = np.array([whole.TransformPoint(p) for p in ((0.0, 0, 0), (-9.0, -4, 3))])
    distances = np.linalg.norm(mapped - partners, axis=1)
    found = results(volumes / "out")["landmarks"]
    assert found["mean_after"] == pytest.approx(distances.mean(), abs=1e-3)
    assert found["mean_before"] == pytest.approx(17**0.5, abs=1e-3)
    assert (
        found["mean_after"] < found["mean_before"]
        and found["outside"] == 0
        and found["unit"] == "mm"
    )


def test_the_inverse_leads_back_and_the_jacobian_is_that_of_the_field(volumes):
    out = volumes / "out"
    forth, back = (
        sitk.DisplacementFieldTransform(
            sitk.ReadImage(out / f"{name}.nii.gz", sitk.sitkVectorFloat64)
        )
        for name in ("displacement", "inverse")
    )
    fixed = sitk.ReadImage(volumes / "a.nii.gz")
    residual = []
    for index in itertools.product((6, 9, 12), (6, 9, 12), (5, 8)):
        point = fixed.TransformIndexToPhysicalPoint(index)
        there = forth.TransformPoint(back.TransformPoint(point))
        residual.append(np.linalg.norm(np.subtract(there, point)))
    assert max(residual) < 0.2
    # ITK's own filter takes no account of oblique axes.
    image = nibabel.load(out / "displacement.nii.gz")
    vectors = image.get_fdata()[..., 0, :] * [-1, -1, 1]
    slopes = np.stack([np.gradient(vectors, axis=axis) for axis in range(3)], axis=-1)
    expected = np.linalg.det(np.eye(3) + slopes @ np.linalg.inv(image.affine[:3, :3]))
    ours = nibabel.load(out / "jacobian.nii.gz").get_fdata()
    np.testing.assert_allclose(inner(ours), inner(expected), atol=1e-4)


def test_fields_in_voxels_are_those_of_the_files(volumes):
    moving = nibabel.load(volumes / "b.nii.gz").get_fdata()
    with np.load(volumes / "out/fields.npz") as fields:
        u, affine = fields["displacement"], fields["affine"]
    voxels = np.stack(np.meshgrid(*map(np.arange, u.shape[:-1]), indexing="ij"), axis=-1) + u
    places = np.moveaxis(voxels @ affine[:, :-1].T + affine[:, -1], -1, 0)
    expected = map_coordinates(moving, places, order=1)
    moved = nibabel.load(volumes / "out/moved.nii.gz").get_fdata()
    np.testing.assert_allclose(inner(moved), inner(expected), atol=0.05)


def test_one_slice_and_flat_files_give_such_files(tmp_path):
    affine = placed(np.diag([-2.0, -2, 5]), 0, (24, 26, 1))
    fixed, moving = (volume.astype(np.float32) for volume in pair(np.int16, 0, 1000))
    for shape in ((24, 26), (24, 26, 1)):
        for name, image in (("a.nii", fixed), ("b.nii", moving)):
            nibabel.save(nibabel.Nifti1Image(image.reshape(shape), affine), tmp_path / name)
        out = tmp_path / "out"
        assert run(tmp_path / "a.nii", tmp_path / "b.nii", "--out", out, "--steps", 5) == 0
        assert nibabel.load(out / "moved.nii.gz").shape == shape
        assert nibabel.load(out / "displacement.nii.gz").shape == (24, 26, 1, 1, 2)
        a, b, ours = (
            in_plane(p) for p in (tmp_path / "a.nii", tmp_path / "b.nii", out / "moved.nii.gz")
        )
        theirs = sitk.Resample(b, a, itk_map(out), sitk.sitkLinear, 0.0)
        apart = sitk.GetArrayFromImage(theirs) - sitk.GetArrayFromImage(ours)
        assert np.abs(apart).max() < 1e-5 * 1000


def test_masks_channels_and_voxels_outside(tmp_path):
    """What is spoilt in the moving image, and masked or NaN, does not change the result."""
    names = ("a", (16, 17)), ("b", (17, 16)), ("a2", (12, 20)), ("b2", (13, 19))
    for name, center in names:
        np.save(tmp_path / f"{name}.npy", blob((32, 34), center, (8, 8)))
    image = np.load(tmp_path / "b.npy")
    mask = np.ones_like(image)
    mask[14:19, 20:25] = 0
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "spoilt.npy", np.where(mask == 0, 300, image).astype(np.float32))
    np.save(tmp_path / "nan.npy", np.where(mask == 0, np.nan, image).astype(np.float32))
    settings = "--affine", "none", "--steps", 20, "--anyway"
    found = {}
    for name in ("b", "spoilt", "nan"):
        out = tmp_path / name
        files = tmp_path / "a.npy", tmp_path / f"{name}.npy", "--out", out
        masks = "--moving-mask", tmp_path / "mask.npy"
        channels = "--channel", tmp_path / "a2.npy", tmp_path / "b2.npy"
        assert run(*files, *settings, *channels, *(() if name == "nan" else masks)) == 0
        found[name] = np.load(out / "fields.npz")["displacement"]
    np.testing.assert_allclose(found["spoilt"], found["b"], atol=0.05)
    np.testing.assert_allclose(found["nan"], found["b"], atol=0.05)
    notes = results(tmp_path / "nan")["notes"]
    assert notes == ["nan.npy: 25 voxels are NaN: they count as outside of the image"]
    assert np.isnan(np.load(tmp_path / "nan/moved.npy")).sum() > 4


def test_a_result_that_cannot_be_true_ends_with_3(tmp_path, capsys, monkeypatch):
    for name, center in (("a", (16, 17)), ("b", (17, 16))):
        np.save(tmp_path / f"{name}.npy", blob((32, 34), center, (8, 8)))
    out = tmp_path / "out"
    settings = "--out", out, "--affine", "none", "--steps", 60
    settings = tmp_path / "a.npy", tmp_path / "b.npy", *settings
    assert run(*settings) == 0 and not capsys.readouterr().err
    monkeypatch.setattr(register_measures, "MOST_MOVED", 0.01)
    assert run(*settings) == 3
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "the result is implausible: " in said.err
    assert "try --similarity mi" in said.err and "of its extent" in said.err
    assert (out / "moved.npy").exists() and results(out)["implausible"] in said.err
    assert run(*settings, "--anyway") == 0
    assert "the result is implausible: " in capsys.readouterr().err


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
    # A blob of one value can be turned about.
    settings = "--steps", 5, "--affine", "none", "--anyway"
    assert run(tmp_path / fixed, tmp_path / moving, "--out", out, *settings) == 0
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
    settings = "--steps", 5, "--affine", "none", "--anyway"
    assert run(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--out", out, *settings) == 0
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


BAD = {
    "missing": (("a.npy", "missing.npy"), "missing.npy: no such file"),
    "flat": (("a.npy", "flat.npy"), "flat.npy: the same value everywhere"),
    "nan": (("a.npy", "nan.npy"), "nan.npy: every voxel is NaN"),
    "thin": (("a.npy", "thin.npy"), "thin.npy: shape (3, 20); a registration takes 4 voxels"),
    "axes": (("a.npy", "solid.npy"), "images of 2 and 3 axes; give two of the same number"),
    "half placed": (("solid.nii", "solid.npy"), "one of them does not say where it lies"),
    "across": (("axial.nii", "coronal.nii"), "planes across each other"),
    "several": (("a.npy", "series.nii"), "2 images in one file: give volume, in a terminal --vol"),
    "mask shape": (("a.npy", "a.npy", "--fixed-mask", "thin.npy"), "shapes (3, 20) and (20, 20)"),
    "empty mask": (("a.npy", "a.npy", "--moving-mask", "zero.npy"), "zero.npy: no voxel is above"),
    "mask elsewhere": (
        ("axial.nii", "axial.nii", "--fixed-mask", "shifted.nii"),
        "they lie in other places",
    ),
    "labels": (
        ("a.npy", "a.npy", "--labels-fixed", "a.npy", "--labels-moving", "a.npy"),
        "voxels are no labels",
    ),
    "labels of one": (("a.npy", "a.npy", "--labels-fixed", "zero.npy"), "labels='those of one"),
    "landmarks": (
        ("a.npy", "a.npy", "--landmarks", "two.csv", "three.csv"),
        "2 and 3 points; give the same ones of both",
    ),
    "channel": (("a.npy", "a.npy", "--channel", "flat.npy", "a.npy"), "flat.npy: the same value"),
    "projection": (("a.npy", "a.npy", "--projection", "magic"), "one of 'fold_free', 'layer'"),
    "similarity": (("a.npy", "a.npy", "--similarity", "magic"), "one of 'ncc', 'mi', 'mse'"),
    "affine": (("a.npy", "a.npy", "--affine", "magic"), "one of 'affine', 'similarity', 'rigid'"),
    "steps": (("a.npy", "a.npy", "--steps", 0), "steps"),
}


def write_bad(folder):
    image = blob((20, 20), (9, 9), (5, 5))
    arrays = {
        "a": image,
        "flat": np.ones((20, 20)),
        "nan": np.full((20, 20), np.nan),
        "thin": image[:3],
        "solid": np.stack([image] * 5),
        "zero": np.zeros((20, 20)),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    save = lambda name, data, affine: nibabel.save(nibabel.Nifti1Image(data, affine), folder / name)
    axial, coronal = np.eye(4), np.eye(4)[[0, 2, 1, 3]]
    shifted = np.eye(4)
    shifted[0, 3] = 3
    save("solid.nii", np.stack([image] * 6), axial)
    save("series.nii", np.stack([image] * 2, axis=-1)[:, :, None], axial)
    save("axial.nii", image[..., None], axial)
    save("coronal.nii", image[..., None], coronal)
    save("shifted.nii", image[..., None], shifted)
    (folder / "two.csv").write_text("x,y\n1,2\n3,4\n")
    (folder / "three.csv").write_text("x,y\n1,2\n3,4\n5,6\n")


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bad(tmp_path)
    arguments, message = BAD[name]
    assert run(*arguments, "--out", "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_says_what_the_library_takes(capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert {name.replace("none", "") or None for name in PROJECTIONS} == {*get_args(Projection)}
    assert {name.replace("none", "") or None for name in AFFINES} == {*get_args(Kind), None}
    for names in (PROJECTIONS, METHODS, AFFINES, SIMILARITIES):
        assert f"{', '.join(names[:-1])} or {names[-1]} (default: {names[0]})" in text
    assert {*SIMILARITIES} == {*_MEASURES}
    weights = {name: weight for name, (*_, weight) in _MEASURES.items()}
    default = "roughness (default: {ncc}, for mi {mi}, mse {mse})".format(**weights)
    assert default in text
    assert f"(default: {_STEPS['both'][0]}, fewer on fine ones)" in text
