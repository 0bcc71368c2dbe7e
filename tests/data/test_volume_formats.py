"""Every format of volumes against SimpleITK and nibabel, on oblique and flipped grids."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from jaxml.data import DataError
from jaxml.data.grid import on_file_grid
from jaxml.data.nifti import nifti_bytes
from jaxml.data.volume import load_labels, load_volume

SHAPE = (7, 8, 9)
# What an image of ITK has along left, posterior, superior, and this library along the others.
TO_RAS = np.array([-1.0, -1.0, 1.0])
OBLIQUE = Rotation.from_euler("xyz", (0.3, -0.5, 0.9)).as_matrix()
DIRECTIONS = {
    "plain": np.eye(3),
    "flipped": np.diag([-1.0, 1, -1]),
    "permuted": np.eye(3)[[2, 0, 1]],
    "oblique": OBLIQUE,
    "oblique, permuted and flipped": OBLIQUE[:, [1, 2, 0]] * [1, -1, -1],
}
NAMES = ("a.nii", "a.nii.gz", "a.hdr", "a.img", "a.nrrd", "a.nhdr", "a.mha", "a.mhd")


def itk_image(directions, dtype=np.float32, shape=SHAPE):
    data = np.random.default_rng(0).integers(0, 200, shape[::-1]).astype(dtype)
    image = sitk.GetImageFromArray(data)
    ndim = len(shape)
    image.SetSpacing((1.5, 2.0, 0.75)[:ndim])
    image.SetOrigin((-12.5, 31.0, 7.25)[:ndim])
    image.SetDirection(directions[:ndim, :ndim].ravel())
    return image


def check_places(volume, image):
    """Check that every voxel lies at the place and has the value that SimpleITK says."""
    ndim = volume.data.ndim
    for index in itertools.product(*((0, 2, n - 1) for n in volume.data.shape)):
        place = (volume.affine @ [*index, *[0] * (3 - ndim), 1])[:3] * TO_RAS
        there = image.TransformPhysicalPointToContinuousIndex(place[: image.GetDimension()])
        np.testing.assert_allclose(there, np.rint(there), atol=2e-4)
        expected = image.GetPixel(*(int(i) for i in np.rint(there)))
        assert volume.data[index] == expected


@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_voxel_lies_where_itk_has_it(name, directions, tmp_path):
    image = itk_image(DIRECTIONS[directions])
    sitk.WriteImage(image, tmp_path / name.replace(".hdr", ".img"))
    volume = load_volume(tmp_path / name)
    assert sorted(volume.data.shape) == sorted(SHAPE)
    assert "".join(nibabel.aff2axcodes(volume.affine)) == "RAS"
    check_places(volume, image)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
@pytest.mark.parametrize("name", ["a.nii", "a.nrrd", "a.mha", "packed.nrrd", "packed.mha"])
def test_numbers_of_every_type_are_those_of_itk(name, dtype, tmp_path):
    image = itk_image(np.eye(3), dtype)
    sitk.WriteImage(image, tmp_path / name, useCompression=name.startswith("packed"))
    volume = load_volume(tmp_path / name)
    assert volume.dtype == dtype
    on_file = on_file_grid(volume.data, volume.grid)
    np.testing.assert_array_equal(on_file, sitk.GetArrayFromImage(image).T)
    labels = load_labels(tmp_path / name)
    assert labels.data.dtype == np.int32
    np.testing.assert_array_equal(labels.data, volume.data)


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd", "a.mha", "a.nii.gz"])
def test_images_of_two_axes_lie_where_itk_has_them(name, tmp_path):
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    for directions in (np.eye(3), np.diag([-1.0, 1, 1]), turn, turn[:, [1, 0, 2]]):
        image = itk_image(directions, shape=(7, 8))
        sitk.WriteImage(image, tmp_path / name)
        volume = load_volume(tmp_path / name)
        assert volume.data.ndim == len(volume.grid.shape) == 2
        assert "".join(nibabel.aff2axcodes(volume.affine)[:2]) == "RA"
        check_places(volume, image)


def test_mgh_and_mgz_lie_where_nibabel_has_them(tmp_path):
    affine = np.eye(4)
    affine[:3, :3] = OBLIQUE[:, [2, 0, 1]] * [1.5, -2, 0.75]
    affine[:3, 3] = 3, -40, 20
    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    image = nibabel.MGHImage(data, affine)
    canonical = nibabel.as_closest_canonical(image)
    for name in ("a.mgh", "a.mgz"):
        nibabel.save(image, tmp_path / name)
        volume = load_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.data, canonical.get_fdata())
        np.testing.assert_allclose(volume.affine, canonical.affine, atol=1e-5)
        np.testing.assert_allclose(volume.grid.affine, affine, atol=1e-5)
    several = np.stack([data, data + 1], axis=-1)
    nibabel.save(nibabel.MGHImage(several, affine), tmp_path / "b.mgz")
    np.testing.assert_array_equal(load_volume(tmp_path / "b.mgz", volume=1).data, volume.data + 1)


def test_analyze_has_no_orientation_and_the_note_says_so(tmp_path):
    affine = np.diag([-2.0, 3, 4, 1])
    image = nibabel.AnalyzeImage(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine)
    nibabel.save(image, tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        volume = load_volume(tmp_path / name)
        assert "no orientation" in volume.note
        assert volume.spacing == (2, 3, 4)
        np.testing.assert_array_equal(volume.data, image.get_fdata()[::-1])
    (tmp_path / "a.hdr").unlink()
    with pytest.raises(DataError, match=r"a.img: .*there is no a.hdr beside it"):
        load_volume(tmp_path / "a.img")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_slice_is_an_image_of_two_axes_and_goes_back(axis, tmp_path):
    shape = tuple(1 if a == axis else n for a, n in enumerate(SHAPE))
    image = itk_image(OBLIQUE * [1, -1, 1], shape=shape)
    sitk.WriteImage(image, tmp_path / "a.nii.gz")
    volume = load_volume(tmp_path / "a.nii.gz")
    assert volume.data.ndim == 2 and volume.grid.shape == shape
    check_places(volume, image)
    content = nifti_bytes(on_file_grid(volume.data, volume.grid), volume.grid)
    (tmp_path / "b.nii.gz").write_bytes(content)
    again = sitk.ReadImage(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(image))
    assert again.GetSize() == image.GetSize()
    np.testing.assert_allclose(again.GetDirection(), image.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(again.GetOrigin(), image.GetOrigin(), atol=1e-4)


def test_two_axes_out_of_the_plane_of_right_and_anterior_are_a_slice(tmp_path):
    affine = np.array([[2.0, 0, 0, 5], [0, 0, 1, 6], [0, 3, 0, 7], [0, 0, 0, 1]])
    data = np.arange(20, dtype=np.float32).reshape(4, 5)
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.data, data)
    assert volume.grid.shape == (4, 5, 1)
    np.testing.assert_allclose(volume.affine, affine)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd"])
def test_of_several_images_one_is_read(name, tmp_path):
    data = np.random.default_rng(0).normal(size=(*SHAPE, 3)).astype(np.float32)
    if name == "a.nii.gz":
        nibabel.save(nibabel.Nifti1Image(data, np.diag([-2.0, 2, 2, 1])), tmp_path / name)
        data = data[::-1]
    else:
        image = sitk.GetImageFromArray(data.transpose(2, 1, 0, 3), isVector=True)
        sitk.WriteImage(image, tmp_path / name)
        # ITK's axes point left and posterior.
        data = data[::-1, ::-1]
    with pytest.raises(DataError, match="3 images in one file: .*a number from 0 to 2"):
        load_volume(tmp_path / name)
    with pytest.raises(DataError, match="none is number 3"):
        load_volume(tmp_path / name, volume=3)
    for number in range(3):
        volume = load_volume(tmp_path / name, volume=number)
        np.testing.assert_array_equal(volume.data, data[..., number])


def test_spaces_of_nrrd(tmp_path):
    numbers = np.arange(60, dtype=np.int16)
    for space, signs in (
        ("right-anterior-superior", (1, 1, 1)),
        ("LAS", (-1, 1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
        ("scanner-xyz", (-1, -1, 1)),
    ):
        head = (
            "NRRD0004\n# said by hand\ntype: short\ndimension: 3\n"
            f"space: {space}\nsizes: 3 4 5\nspace directions: (2,0,0) (0,3,0) (0,0,4)\n"
            "space origin: (5,6,7)\nendian: little\nencoding: raw\nkey:=value\n\n"
        )
        (tmp_path / "a.nrrd").write_bytes(head.encode() + numbers.tobytes())
        volume = load_volume(tmp_path / "a.nrrd")
        steps = np.array([2, 3, 4]) * signs
        expected = np.diag([*steps, 1.0])
        expected[:3, 3] = np.array([5, 6, 7]) * signs
        np.testing.assert_allclose(volume.grid.affine, expected)
        on_file = on_file_grid(volume.data, volume.grid)
        np.testing.assert_array_equal(on_file.ravel(order="F"), numbers)
        assert ("taken along left" in volume.note) == (space == "scanner-xyz")


def test_nrrd_and_mhd_with_numbers_elsewhere(tmp_path):
    numbers = np.arange(60, dtype=">i2")
    places = {
        "a.raw": numbers.tobytes(),
        "headed.raw": bytes(100) + numbers.tobytes(),
        "a.raw.gz": gzip.compress(numbers.tobytes()[:50]) + gzip.compress(numbers.tobytes()[50:]),
    }
    for name, content in places.items():
        (tmp_path / name).write_bytes(content)
    nrrd = (
        "NRRD0001\r\ntype: short\r\ndimension: 3\r\nsizes: 3 4 5\r\nendian: big\r\n"
        "encoding: {}\r\nbyte skip: {}\r\ndata file: {}\r\n\r\n"
    )
    meta = (
        "ObjectType = Image\nNDims = 3\nDimSize = 3 4 5\nElementType = MET_SHORT\n"
        "BinaryDataByteOrderMSB = True\nHeaderSize = {}\nElementDataFile = {}\n"
    )
    cases = {
        "a.nhdr": [("raw", 0, "a.raw"), ("raw", -1, "headed.raw"), ("gzip", 0, "a.raw.gz")],
        "a.mhd": [(0, "a.raw"), (-1, "headed.raw"), (100, "headed.raw")],
    }
    for name, values in cases.items():
        for fields in values:
            text = (nrrd if name == "a.nhdr" else meta).format(*fields)
            (tmp_path / name).write_text(text, newline="")
            volume = load_volume(tmp_path / name)
            on_file = on_file_grid(volume.data, volume.grid)
            np.testing.assert_array_equal(on_file.ravel(order="F"), numbers)
        for place, message in (("../a.raw", "beside it"), ("none.raw", "no such file")):
            (tmp_path / name).write_text(text.replace(fields[-1], place), newline="")
            with pytest.raises(DataError, match=message):
                load_volume(tmp_path / name)


def test_labels_are_whole_numbers_of_32_bits(tmp_path):
    large = np.array([[0, 2**24 + 1, -5], [3, 2**31 - 1, 1]])
    for data in (large, large.astype(float), large == 3):
        np.save(tmp_path / "a.npy", data)
        labels = load_labels(tmp_path / "a.npy")
        assert labels.data.dtype == np.int32
        np.testing.assert_array_equal(labels.data, data)
    for data in (large + 0.5, large * 1e9, np.where(large == 3, np.nan, large), large * 2**20):
        np.save(tmp_path / "a.npy", data)
        with pytest.raises(DataError, match="voxels are no labels; give labels, which are whole"):
            load_labels(tmp_path / "a.npy")


def test_voxels_that_are_nan_are_kept_and_counted(tmp_path):
    data = np.ones(SHAPE, np.float32)
    data[:2, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    assert volume.note == "2 voxels are NaN: they count as outside of the image"
    np.testing.assert_array_equal(volume.data, data)


def test_forms_of_a_header_that_differ_are_told(tmp_path):
    image = nibabel.Nifti1Image(np.ones(SHAPE, np.float32), np.eye(4))
    image.set_sform(np.diag([2.0, 2, 2, 1]), 4)
    image.set_qform(np.diag([3.0, 3, 3, 1]), 1)
    nibabel.save(image, tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    assert "sform and qform" in volume.note and volume.spacing == (2, 2, 2)
    assert volume.grid.code == 4
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "a.nii")
    assert "says no orientation" in load_volume(tmp_path / "a.nii").note
