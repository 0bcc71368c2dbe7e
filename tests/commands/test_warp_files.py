"""`jaxml warp` beside SimpleITK: images, labels and points through transforms of both."""

import csv

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from jaxml.cli import main
from jaxml.data.affine_files import matlab_bytes
from jaxml.data.field_files import field_bytes
from jaxml.data.transforms import Affine

ROTATION = sitk.Euler3DTransform((0, 0, 0), 0.4, -0.3, 0.6).GetMatrix()


def run(*arguments):
    return main(["warp", *map(str, arguments)])


def image_of(shape, spacing, origin, direction=ROTATION, seed=0):
    """Return a volume of noise somewhere in space; its shape in the order of ITK."""
    noise = np.random.default_rng(seed).normal(size=shape[::-1]).astype(np.float32)
    return placed(sitk.GetImageFromArray(100 * noise), spacing, origin, direction)


def placed(image, spacing, origin, direction=ROTATION):
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


FLIPPED = (0.0, 0, -1, 1, 0, 0, 0, -1, 0)


@pytest.fixture
def files(tmp_path):
    """Write an oblique fixed grid, a flipped moving image, an affine and a field of ITK."""
    fixed = image_of((12, 10, 8), (1, 2, 3), (5, -6, 7))
    moving = image_of((14, 13, 12), (2, 2.5, 1.5), (14, -14, 26), FLIPPED, seed=1)
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((np.eye(3) + 0.1 * np.random.default_rng(2).normal(size=(3, 3))).ravel())
    affine.SetTranslation((1, -2, 3))
    affine.SetCenter((10, 5, 20))
    vectors = 2 * np.random.default_rng(3).normal(size=(8, 10, 12, 3))
    field = placed(sitk.GetImageFromArray(vectors, isVector=True), (1, 2, 3), (5, -6, 7))
    for name, image in (("fixed", fixed), ("moving", moving), ("field", field)):
        sitk.WriteImage(image, tmp_path / f"{name}.nii.gz")
    sitk.WriteTransform(affine, tmp_path / "affine.mat")
    composite = sitk.CompositeTransform([affine, sitk.TranslationTransform(3, (3, 2, 1))])
    sitk.WriteTransform(composite, tmp_path / "composite.tfm")
    return tmp_path


def itk(folder, name):
    """Return a transform as SimpleITK reads it; a list of ours is one of ITK's in reverse."""
    if "," in name:
        return sitk.CompositeTransform([itk(folder, each) for each in name.split(",")[::-1]])
    if name.startswith("inverse:"):
        return itk(folder, name.removeprefix("inverse:")).GetInverse()
    if name.endswith(".nii.gz"):
        return sitk.DisplacementFieldTransform(
            sitk.ReadImage(folder / name, sitk.sitkVectorFloat64)
        )
    return sitk.ReadTransform(folder / name)


CHAINS = (
    "affine.mat",
    "field.nii.gz",
    "composite.tfm",
    "field.nii.gz,affine.mat",
    "affine.mat,field.nii.gz",
    "inverse:affine.mat",
    "field.nii.gz,inverse:affine.mat,composite.tfm",
)


def listed(folder, chain):
    """Return the words of a command for a chain."""
    words = [
        (each.rpartition(":")[1] and "inverse:", each.rpartition(":")[2])
        for each in chain.split(",")
    ]
    return [f"{before}{folder / name}" for before, name in words]


@pytest.mark.parametrize("chain", CHAINS)
def test_a_warped_image_is_that_of_itk(chain, files, capsys):
    arguments = [*listed(files, chain), files / "moving.nii.gz", "--onto", files / "fixed.nii.gz"]
    assert run(*arguments, "--out", files / "out") == 0
    fixed, moving = (sitk.ReadImage(files / f"{name}.nii.gz") for name in ("fixed", "moving"))
    expected = sitk.GetArrayFromImage(
        sitk.Resample(moving, fixed, itk(files, chain), sitk.sitkLinear)
    )
    found = sitk.ReadImage(files / "out/warped.nii.gz")
    np.testing.assert_allclose(found.GetOrigin(), fixed.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(found.GetDirection(), fixed.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(found.GetSpacing(), fixed.GetSpacing(), atol=1e-6)
    within = np.mean(expected != 0)
    assert 0.3 < within < 1
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(found), expected, atol=1e-5 * np.abs(expected).max()
    )
    told = capsys.readouterr().out
    assert f"warped image: {files / 'out/warped.nii.gz'}, 12 x 10 x 8, float32" in told
    assert f"{100 * within:.1f}% of its voxels lie in moving.nii.gz" in told


def test_the_grid_of_a_first_field_is_the_default(files):
    arguments = [files / "field.nii.gz", files / "affine.mat", files / "moving.nii.gz"]
    assert run(*arguments, "--out", files / "own") == 0
    assert run(*arguments, "--onto", files / "fixed.nii.gz", "--out", files / "onto") == 0
    own, onto = (sitk.ReadImage(files / name / "warped.nii.gz") for name in ("own", "onto"))
    np.testing.assert_allclose(own.GetDirection(), onto.GetDirection(), atol=1e-6)
    found, expected = map(sitk.GetArrayFromImage, (own, onto))
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("option", ["--labels", "--vote"])
def test_labels_are_those_of_itk(option, files):
    index = np.indices((12, 13, 14)) // 4
    labels = (index[0] + 5 * index[1] + 20 * index[2] + 300).astype(np.int16)
    geometry = (2, 2.5, 1.5), (14, -14, 26), FLIPPED
    moving = placed(sitk.GetImageFromArray(labels), *geometry)
    sitk.WriteImage(moving, files / "labels.nii.gz")
    names = [files / name for name in ("field.nii.gz", "affine.mat", "labels.nii.gz")]
    assert run(*names, option, "--out", files / "out") == 0
    method = sitk.sitkNearestNeighbor if option == "--labels" else sitk.sitkLabelGaussian
    field = sitk.ReadImage(files / "field.nii.gz", sitk.sitkVectorFloat64)
    moving = sitk.ReadImage(files / "labels.nii.gz")
    transform = itk(files, "field.nii.gz,affine.mat")
    reference = sitk.VectorIndexSelectionCast(field, 0)
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, reference, transform, method))
    found = sitk.GetArrayFromImage(sitk.ReadImage(files / "out/warped.nii.gz"))
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 10


@pytest.mark.parametrize("chain", CHAINS)
def test_points_are_those_of_itk(chain, files):
    points = np.random.default_rng(4).uniform((5, -6, 7), (25, 20, 35), size=(20, 3))
    with open(files / "p.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "z", "x", "y", "comment"])
        writer.writerows([i, p[2], p[0], p[1], f"a, {i}"] for i, p in enumerate(points.tolist()))
    assert run(*listed(files, chain), "--points", files / "p.csv", "--out", files / "out") == 0
    with open(files / "out/points.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["label", "z", "x", "y", "comment"]
    assert [(row[0], row[4]) for row in rows] == [(str(i), f"a, {i}") for i in range(20)]
    found = np.array([[float(row[i]) for i in (2, 3, 1)] for row in rows])
    transform = itk(files, chain)
    expected = [transform.TransformPoint(point) for point in points.tolist()]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def smooth_field(shape, amplitude):
    """Return a displacement in voxels without folds, 0 at the border."""
    windows = [np.sin(np.pi * np.arange(n) / (n - 1)) ** 2 for n in shape]
    bump = np.prod(np.meshgrid(*windows, indexing="ij"), axis=0)
    return np.stack([amplitude * bump * s for s in (1, -1, 0.5)[: len(shape)]], axis=-1)


def test_the_inverse_of_a_field_brings_points_back(files):
    affine = np.eye(4)
    affine[:3, :3] = np.array(ROTATION).reshape(3, 3) * (1, 2, 3)
    vectors = smooth_field((20, 22, 18), 1.0) @ affine[:3, :3].T
    (files / "smooth.nii.gz").write_bytes(field_bytes(vectors, affine))
    index = np.random.default_rng(0).uniform(3, 15, size=(30, 3))
    points = index @ affine[:3, :3].T * (-1, -1, 1)
    text = "\n".join(",".join(map(repr, point)) for point in points.tolist())
    (files / "p.csv").write_text(f"x,y,z\n{text}\n")
    chain = [files / "smooth.nii.gz", files / "affine.mat"]
    assert run(*chain, "--points", files / "p.csv", "--out", files / "there") == 0
    back = [f"inverse:{path}" for path in reversed(chain)]
    assert run(*back, "--points", files / "there/points.csv", "--out", files / "back") == 0
    there, found = (
        np.loadtxt(files / name / "points.csv", delimiter=",", skiprows=1)
        for name in ("there", "back")
    )
    assert np.abs(there - points).max() > 2
    np.testing.assert_allclose(found, points, atol=0.05)


def test_what_register_writes_gives_its_moved_image(tmp_path):
    affine = np.eye(4)
    affine[:3] = np.c_[np.array(ROTATION).reshape(3, 3) * (-1, 2, 1.5), [20, -5, 11]]
    grid = np.indices((16, 18, 20))
    for name, center in (("a", 8), ("b", 9)):
        ball = 100 * np.exp(-np.sum((grid - center) ** 2, axis=0) / 20).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(ball, affine), tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out"
    settings = ["--anyway", "--steps", "5", "--out", str(out)]
    assert main(["register", *(str(tmp_path / f"{n}.nii.gz") for n in "ab"), *settings]) == 0
    transforms = [out / "displacement.nii.gz", *out.glob("affine.mat")]
    assert run(*transforms, tmp_path / "b.nii.gz", "--out", out / "warp") == 0
    found, expected = (nibabel.load(p) for p in (out / "warp/warped.nii.gz", out / "moved.nii.gz"))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)
    inner = (slice(3, -3),) * 3
    expected = expected.get_fdata()[inner]
    np.testing.assert_allclose(found.get_fdata()[inner], expected, atol=1e-5 * expected.max())
    assert np.abs(expected - nibabel.load(tmp_path / "b.nii.gz").get_fdata()[inner]).max() > 1


def test_an_inverse_of_a_field_with_folds_is_told(files, capsys):
    arguments = [f"inverse:{files / 'field.nii.gz'}", files / "moving.nii.gz"]
    assert run(*arguments, "--out", files / "out") == 0
    assert "voxels are folds, where it has no inverse" in capsys.readouterr().out


def test_pictures_and_pixels(tmp_path, capsys):
    """A shift by whole pixels: 2 down the rows, 3 along the columns."""
    picture = np.random.default_rng(0).integers(1, 255, (20, 24), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", picture.astype(np.float64))
    u = np.zeros((20, 24, 2), np.float32) + [2, 0]
    matrix = np.array([[1.0, 0, 0], [0, 1, 3]])
    np.savez(tmp_path / "fields.npz", displacement=u.astype(np.float32), inverse=-u, affine=matrix)
    fields, out = tmp_path / "fields.npz", tmp_path / "out"
    expected = np.zeros_like(picture)
    expected[:18, :21] = picture[2:, 3:]
    assert run(fields, tmp_path / "a.png", "--out", out) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(out / "warped.png")), expected)
    assert run(fields, tmp_path / "a.npy", "--out", out) == 0
    found = np.load(out / "warped.npy")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    # The reference has a shape of its own.
    np.save(tmp_path / "onto.npy", np.ones((10, 30)))
    assert run(fields, tmp_path / "a.png", "--onto", tmp_path / "onto.npy", "--out", out) == 0
    found = np.asarray(Image.open(out / "warped.png"))
    np.testing.assert_array_equal(found[:, :21], expected[:10, :21])
    assert found.shape == (10, 30)
    (tmp_path / "p.csv").write_text("x,y\n5,4\n")
    assert run(fields, "--points", tmp_path / "p.csv", "--out", out) == 0
    assert (out / "points.csv").read_text() == "x,y\n8.0,6.0\n"
    capsys.readouterr()


def test_a_slice_is_an_image_of_two_axes_as_in_itk(tmp_path):
    values = np.random.default_rng(0).normal(size=(9, 10, 1)).astype(np.float32)
    affine = np.array([[-2.0, 0, 0, 5], [0, 1.5, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "slice.nii.gz")
    u = np.zeros((9, 10, 2)) + [2, 3]
    (tmp_path / "f.nii.gz").write_bytes(field_bytes(u @ affine[:2, :2].T, affine))
    arguments = [tmp_path / "f.nii.gz", tmp_path / "slice.nii.gz"]
    onto = ["--onto", tmp_path / "slice.nii.gz"]
    for more, shape in (([], (9, 10)), (onto, (9, 10, 1))):
        assert run(*arguments, *more, "--out", tmp_path / "out") == 0
        found = nibabel.load(tmp_path / "out/warped.nii.gz")
        assert found.shape == shape
        np.testing.assert_allclose(found.affine, affine)
        expected = np.zeros(shape).reshape(9, 10)
        expected[:7, :7] = values[2:, 3:, 0]
        np.testing.assert_allclose(found.get_fdata().reshape(9, 10), expected, atol=1e-5)


def test_type_and_scale_of_the_image_stay(files):
    values = np.random.default_rng(0).integers(-900, 900, (9, 9, 9)).astype(np.int16)
    moving = nibabel.Nifti1Image(values, np.eye(4))
    moving.header.set_slope_inter(0.125, -20)
    nibabel.save(moving, files / "scaled.nii")
    (files / "identity.mat").write_bytes(matlab_bytes(Affine(np.eye(4))))
    arguments = [files / "identity.mat", files / "scaled.nii", "--onto", files / "scaled.nii"]
    assert run(*arguments, "--out", files / "out") == 0
    found = nibabel.load(files / "out/warped.nii.gz")
    assert found.get_data_dtype() == np.int16
    assert (found.dataobj.slope, found.dataobj.inter) == (0.125, -20)
    np.testing.assert_array_equal(found.get_fdata(), 0.125 * values - 20)


def test_voxels_that_are_nan_have_no_weight(tmp_path):
    values = np.arange(30.0).reshape(5, 6)
    values[2, 2] = np.nan
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "f.npz", displacement=np.zeros((5, 6, 2)) + [0.25, 0.0])
    assert run(tmp_path / "f.npz", tmp_path / "a.npy", "--out", tmp_path / "out") == 0
    found = np.load(tmp_path / "out/warped.npy")
    assert np.isnan(found[2, 2]) and np.isnan(found).sum() == 1
    # What is known alone counts beside it.
    assert found[1, 2] == values[1, 2]
    np.testing.assert_allclose(found[1, 3], 0.75 * values[1, 3] + 0.25 * values[2, 3])


def test_an_image_elsewhere_is_told(files, capsys):
    far = sitk.TranslationTransform(3, (1000, 0, 0))
    sitk.WriteTransform(far, files / "far.tfm")
    arguments = [files / "far.tfm", files / "moving.nii.gz", "--onto", files / "fixed.nii.gz"]
    assert run(*arguments, "--out", files / "out") == 0
    assert "no voxel of the grid lies in the image" in capsys.readouterr().out


BAD = [
    ("moving.nii.gz", "no transform; give one or more before the image"),
    ("missing.mat moving.nii.gz", "missing.mat: no such file"),
    ("affine.mat missing.nii.gz", "missing.nii.gz: no such file"),
    ("affine.mat moving.nii.gz", "has no grid; give --onto FILE"),
    ("moving.nii.gz moving.nii.gz", "moving.nii.gz: not readable as a transform (shape [14, 13"),
    ("fields.npz moving.nii.gz", "moving.nii.gz: an image of 3 axes, and transforms of 2"),
    ("volume.npz moving.nii.gz", "an image with an affine, and transforms in voxels"),
    ("field.nii.gz volume.npy", "volume.npy: an image with no affine, and transforms in mm"),
    ("field.nii.gz fields.npz moving.nii.gz", "transforms of 2 axes in voxels and of 3 axes in mm"),
    ("field.nii.gz moving.nii.gz --onto volume.npy", "volume.npy: an image with no affine"),
    ("field.nii.gz moving.nii.gz --labels --vote", "labels or vote, one of the two"),
    ("field.nii.gz moving.nii.gz --labels", "voxels are no labels"),
    ("field.nii.gz --points flat.csv", "flat.csv: columns 'x, y'"),
    ("field.nii.gz moving.nii.gz --points p.csv", "moving.nii.gz: not readable as a transform"),
    ("inverse:thin.nii.gz moving.nii.gz", "thin.nii.gz: its inverse needs 3 voxels or more an"),
    ("inverse:missing.mat moving.nii.gz", "missing.mat: no such file"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_input_is_one_line_and_writes_nothing(words, message, files, capsys, monkeypatch):
    np.savez(files / "fields.npz", displacement=np.zeros((5, 6, 2)))
    np.savez(files / "volume.npz", displacement=np.zeros((5, 6, 7, 3)))
    (files / "thin.nii.gz").write_bytes(field_bytes(np.zeros((9, 2, 9, 3)), np.eye(4)))
    np.save(files / "volume.npy", np.zeros((5, 6, 7)))
    (files / "flat.csv").write_text("x,y\n1,2\n")
    (files / "p.csv").write_text("x,y,z\n1,2,3\n")
    monkeypatch.chdir(files)
    assert run(*words.split(), "--out", "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (files / "out").exists()
