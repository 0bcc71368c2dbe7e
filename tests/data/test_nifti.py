"""NIfTI files that are written: scales, orientation, fields as ITK applies them."""

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from jaxml import registration
from jaxml.data.grid import Grid, on_file_grid
from jaxml.data.nifti import field_bytes, nifti_bytes
from jaxml.data.volume import as_stored, load_volume

LPS = np.array([[-2.0, 0, 0, 40], [0, -3, 0, 30], [0, 0, 4, -20], [0, 0, 0, 1]])


def grid(shape, affine, code=2):
    return Grid(shape, affine, (*range(len(shape)),), (False,) * len(shape), code)


def test_a_scale_is_written_and_read(tmp_path):
    numbers = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    content = nifti_bytes(numbers, grid((3, 4, 5), LPS), slope=0.25, intercept=-3.0)
    (tmp_path / "a.nii.gz").write_bytes(content)
    volume = load_volume(tmp_path / "a.nii.gz")
    assert (volume.dtype, volume.slope, volume.intercept) == (np.int16, 0.25, -3)
    # From left-posterior to right-anterior axes.
    np.testing.assert_allclose(volume.data, 0.25 * numbers[::-1, ::-1] - 3)
    np.testing.assert_array_equal(as_stored(volume.data, volume), numbers[::-1, ::-1])


def test_both_forms_of_a_header_are_written_unless_axes_are_sheared(tmp_path):
    turn = Rotation.from_euler("xyz", (0.3, -0.5, 0.9)).as_matrix()
    for matrix, sheared in (
        (turn * [1, -2, 3], False),
        (turn @ [[1, 0.1, 0], [0, 1, 0], [0, 0, 1]], True),
    ):
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = matrix, (70, -80, 90)
        numbers = np.zeros((3, 4, 5), np.float32)
        (tmp_path / "a.nii.gz").write_bytes(nifti_bytes(numbers, grid((3, 4, 5), affine, 4)))
        header = nibabel.load(tmp_path / "a.nii.gz").header
        np.testing.assert_allclose(header.get_sform(), affine, rtol=1e-6, atol=1e-7)
        assert int(header["sform_code"]) == 4
        assert int(header["qform_code"]) == (0 if sheared else 4)
        if not sheared:
            np.testing.assert_allclose(header.get_qform(), affine, atol=1e-4)


def smooth_field(shape, size, seed=0):
    """Return a field of a few voxels that is smooth, and 0 at the faces."""
    rng = np.random.default_rng(seed)
    index = np.meshgrid(*(np.linspace(0, np.pi, n) for n in shape), indexing="ij")
    parts = [np.prod([np.sin(i) for i in index], axis=0) * rng.uniform(0.5, 1) for _ in shape]
    return (size * np.stack(parts, axis=-1)).astype(np.float32)


def image(shape):
    index = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return (50 * np.sin(index[0] / 3) * np.cos(index[1] / 4) + 10 * index[-1]).astype(np.float32)


@pytest.mark.parametrize("shape", [(20, 22, 18), (20, 22), (20, 22, 1), (20, 1, 22)])
@pytest.mark.parametrize("turned", ["plain", "flipped", "oblique"])
def test_itk_applies_a_field_as_it_is_meant(shape, turned, tmp_path):
    """SimpleITK reads image and field, and warps as `registration.warp` does."""
    # A slice in the plane of two axes has to lie in that of right and anterior.
    angles = (0, 0) if len(shape) == 2 or shape[2] == 1 else (0.3, -0.5)
    turn = {
        "plain": np.eye(3),
        "flipped": np.diag([-1.0, 1, -1]),
        "oblique": Rotation.from_euler("zyx", (0.9, *angles)).as_matrix(),
    }[turned]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * [1.5, 2, 2.5], (-30, 20, 10)
    data = np.squeeze(image([n for n in shape if n > 1])).reshape(shape)
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "image.nii.gz")
    volume = load_volume(tmp_path / "image.nii.gz")
    u = smooth_field(volume.data.shape, 2)
    ours = np.asarray(jax.jit(registration.warp)(jnp.asarray(volume.data), u))
    (tmp_path / "u.nii.gz").write_bytes(field_bytes(u, volume.grid))
    moved = on_file_grid(ours, volume.grid)
    (tmp_path / "moved.nii.gz").write_bytes(nifti_bytes(moved, volume.grid))

    field = nibabel.load(tmp_path / "u.nii.gz")
    assert field.header["dim"][0] == 5 and int(field.header["intent_code"]) == 1007
    theirs = sitk.ReadImage(tmp_path / "u.nii.gz", sitk.sitkVectorFloat64)
    source, written = (sitk.ReadImage(tmp_path / name) for name in ("image.nii.gz", "moved.nii.gz"))
    if shape[-1] == 1:
        # As ANTs reads a slice: ITK takes a field of one for a field of two axes.
        source, written = source[:, :, 0], written[:, :, 0]
    assert theirs.GetSize() == source.GetSize() and theirs.GetDimension() == source.GetDimension()
    transform = sitk.DisplacementFieldTransform(theirs)
    warped = sitk.Resample(source, source, transform, sitk.sitkLinear, 0.0)
    np.testing.assert_allclose(written.GetDirection(), source.GetDirection(), atol=1e-6)
    apart = np.abs(sitk.GetArrayFromImage(warped) - sitk.GetArrayFromImage(written))
    sides = source.GetSize()[::-1]
    inside = tuple(slice(2, -2) if n > 1 else slice(None) for n in sides)
    assert apart[inside].max() < 1e-5 * np.ptp(data)
    before = np.abs(sitk.GetArrayFromImage(source) - sitk.GetArrayFromImage(written))
    assert before[inside].max() > 0.05 * np.ptp(data)
