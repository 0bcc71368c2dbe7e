"""Transforms of ITK in its files, and points through them, as SimpleITK has both."""

import dataclasses
import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from jaxml.data.affine_files import matlab_bytes, text_bytes
from jaxml.data.field_files import field_bytes
from jaxml.data.transforms import Affine, Field, inverted, load_transform, map_points
from jaxml.files.errors import DataError

RANDOM = np.random.default_rng(0)
FLIP = np.array([-1, -1, 1])


def near_identity(n, seed=0):
    return np.eye(n) + 0.1 * np.random.default_rng(seed).normal(size=(n, n))


def affine3():
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(near_identity(3).ravel())
    transform.SetTranslation((1, -2, 3))
    transform.SetCenter((10, 20, -30))
    return transform


def affine2():
    transform = sitk.AffineTransform(2)
    transform.SetMatrix(near_identity(2).ravel())
    transform.SetTranslation((1, -2))
    transform.SetCenter((10, 20))
    return transform


def zyx():
    transform = euler()
    transform.SetComputeZYX(True)
    return transform


def euler():
    return sitk.Euler3DTransform((4, 5, 6), 0.3, -0.4, 0.5, (1, 2, 3))


AXIS = (0.36, 0.48, 0.8)
KINDS = {
    "affine": affine3,
    "affine 2-D": affine2,
    "euler": euler,
    "euler zyx": zyx,
    "euler 2-D": lambda: sitk.Euler2DTransform((4, 5), 0.3, (1, 2)),
    "similarity": lambda: sitk.Similarity3DTransform(1.2, AXIS, 0.7, (1, 2, 3), (4, 5, 6)),
    "similarity 2-D": lambda: sitk.Similarity2DTransform(1.2, 0.7, (1, 2), (4, 5)),
    "versor rigid": lambda: sitk.VersorRigid3DTransform(AXIS, 0.7, (1, 2, 3), (4, 5, 6)),
    "versor": lambda: sitk.VersorTransform(AXIS, 0.7, (4, 5, 6)),
    "scale": lambda: sitk.ScaleTransform(3, (1, 2, 3)),
    "translation": lambda: sitk.TranslationTransform(3, (1, 2, 3)),
    "translation 2-D": lambda: sitk.TranslationTransform(2, (1, 2)),
    "identity": lambda: sitk.Transform(3, sitk.sitkIdentity),
}


def random_points(ndim, count=50):
    return RANDOM.normal(size=(count, ndim)) * 40


def by_itk(transform, points):
    """Return RAS points mapped by a transform of SimpleITK, which has them in LPS."""
    flip = FLIP[: points.shape[-1]]
    mapped = [transform.TransformPoint(tuple(point)) for point in (points * flip).tolist()]
    return np.array(mapped) * flip


@pytest.mark.parametrize("suffix", ["mat", "tfm", "txt"])
@pytest.mark.parametrize("kind", KINDS)
def test_affines_of_itk(kind, suffix, tmp_path):
    transform = KINDS[kind]()
    sitk.WriteTransform(transform, tmp_path / f"a.{suffix}")
    points = random_points(transform.GetDimension())
    found = map_points(load_transform(tmp_path / f"a.{suffix}"), points)
    np.testing.assert_allclose(found, by_itk(transform, points), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("order", ["<f8", "<f4", ">f8", ">f4"])
def test_numbers_of_other_sizes_and_orders(order, tmp_path):
    """As ITK of single precision and of other machines writes them."""
    transform = affine3()
    kind = {"f8": 0, "f4": 10}[order[1:]] + 1000 * (order[0] == ">")
    content = b""
    names = "MatrixOffsetTransformBase_float_3_3", "fixed"
    columns = transform.GetParameters(), transform.GetFixedParameters()
    for name, column in zip(names, columns, strict=True):
        head = np.array([kind, len(column), 1, 0, len(name) + 1], f"{order[0]}i4")
        content += head.tobytes() + name.encode() + b"\0" + np.array(column, order).tobytes()
    (tmp_path / "a.mat").write_bytes(content)
    points = random_points(3)
    found = map_points(load_transform(tmp_path / "a.mat"), points)
    np.testing.assert_allclose(found, by_itk(transform, points), atol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
def test_itk_reads_our_affines(ndim, tmp_path):
    matrix = np.eye(ndim + 1)
    matrix[:-1] += 0.2 * RANDOM.normal(size=(ndim, ndim + 1))
    affine, points = Affine(matrix), random_points(ndim)
    expected = points @ matrix[:-1, :-1].T + matrix[:-1, -1]
    for name, content in (("a.mat", matlab_bytes(affine)), ("a.txt", text_bytes(affine))):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_allclose(by_itk(sitk.ReadTransform(tmp_path / name), points), expected)
        (again,) = load_transform(tmp_path / name)
        np.testing.assert_array_equal(again.matrix, matrix)


GRIDS = {
    "plain": np.diag([2.0, 2, 2, 1]),
    "flipped": np.diag([-1.5, -2, 3, 1]),
    "permuted": np.array([[0, 0, 2.5, -5], [-1, 0, 0, 6], [0, -2, 0, 7], [0, 0, 0, 1]]),
}


def oblique(spacing=(1.0, 2.0, 3.0)):
    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), 0.4, -0.3, 0.6).GetMatrix()).reshape(3, 3)
    affine = np.eye(4)
    affine[:3] = np.c_[rotation * spacing, [-20, 3, -11]]
    return affine


GRIDS["oblique"] = oblique()


def field_of(grid, shape=(7, 6, 8), dtype=np.float64, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(*shape, len(shape))) * 3
    return Field(vectors.astype(dtype), GRIDS[grid])


def itk_field(path):
    """Return the transform of SimpleITK for a file of a field."""
    return sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("grid", GRIDS)
def test_itk_reads_our_fields(grid, dtype, tmp_path):
    field = field_of(grid, dtype=dtype)
    (tmp_path / "a.nii.gz").write_bytes(field_bytes(field.vectors, field.affine))
    (again,) = load_transform(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(again.vectors, field.vectors)
    assert again.vectors.dtype == dtype
    np.testing.assert_allclose(again.affine, field.affine, atol=1e-6)
    # In the grid, around it, and beyond it.
    index = RANDOM.uniform(-2, 9, size=(500, 3))
    index = index[(abs(index % 1 - 0.5) > 1e-3).all(axis=1)]
    points = index @ field.affine[:3, :3].T + field.affine[:3, 3]
    expected = by_itk(itk_field(tmp_path / "a.nii.gz"), points)
    np.testing.assert_allclose(map_points([field], points), expected, atol=2e-5)
    moved = np.abs(expected - points).max(axis=1) > 1e-9
    assert 50 < moved.sum() < len(points) - 50


def test_fields_of_itk(tmp_path):
    image = sitk.GetImageFromArray(RANDOM.normal(size=(4, 5, 6, 3)), isVector=True)
    image.SetDirection((1, 0, 0, 0, 0, -1, 0, 1, 0))
    image.SetSpacing((1, 2, 3))
    image.SetOrigin((5, 6, 7))
    flat = sitk.GetImageFromArray(RANDOM.normal(size=(5, 6, 2)), isVector=True)
    flat.SetSpacing((1, 2))
    flat.SetOrigin((5, 6))
    for each in (image, flat):
        sitk.WriteImage(each, tmp_path / "a.nii.gz")
        ndim = each.GetDimension()
        index = RANDOM.uniform(0, 4, size=(50, ndim)).tolist()
        points = [each.TransformContinuousIndexToPhysicalPoint(i) for i in index]
        points = np.array(points) * FLIP[:ndim]
        expected = by_itk(itk_field(tmp_path / "a.nii.gz"), points)
        found = map_points(load_transform(tmp_path / "a.nii.gz"), points)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_fields_of_other_formats(name, tmp_path):
    image = sitk.GetImageFromArray(RANDOM.normal(size=(4, 5, 6, 3)), isVector=True)
    image.SetDirection((1, 0, 0, 0, 0, -1, 0, 1, 0))
    image.SetSpacing((1, 2, 3))
    image.SetOrigin((5, 6, 7))
    sitk.WriteImage(image, tmp_path / name)
    index = RANDOM.uniform(0, 3, size=(50, 3)).tolist()
    points = [image.TransformContinuousIndexToPhysicalPoint(i) for i in index]
    points = np.array(points) * FLIP
    expected = by_itk(itk_field(tmp_path / name), points)
    np.testing.assert_allclose(map_points(load_transform(tmp_path / name), points), expected)
    other = "no vectors of 3 components"
    for channels in (None, 4):
        voxels = RANDOM.normal(size=(4, 5, 6, channels) if channels else (4, 5, 6))
        sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=bool(channels)), tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: .*{other}"):
            load_transform(tmp_path / name)
    two = sitk.GetImageFromArray(RANDOM.normal(size=(4, 5, 6, 2)), isVector=True)
    sitk.WriteImage(two, tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: .*2 images in one file"):
        load_transform(tmp_path / name)


def test_flat_fields_are_read_by_itk(tmp_path):
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, 6], [0, 0, 1, 0], [0, 0, 0, 1]])
    field = Field(RANDOM.normal(size=(7, 6, 2)), affine)
    (tmp_path / "a.nii").write_bytes(gzip.decompress(field_bytes(field.vectors, affine)))
    points = RANDOM.uniform(0, 5, size=(50, 2)) @ affine[:2, :2].T + affine[:2, 3]
    expected = by_itk(itk_field(tmp_path / "a.nii"), points)
    np.testing.assert_allclose(map_points([field], points), expected, atol=1e-6)
    np.testing.assert_allclose(map_points(load_transform(tmp_path / "a.nii"), points), expected)


def test_the_border_of_a_field_is_half_a_voxel_beyond_its_centers():
    x = np.array([-0.501, -0.5, -0.2, 0, 1.3, 4.3, 4.499, 4.5])
    ones = np.ones((5, 4))
    vectors = np.stack([ones * np.arange(1, 6)[:, None], 0 * ones], axis=-1)
    image = sitk.GetImageFromArray(vectors.swapaxes(0, 1).copy(), isVector=True)
    itk = sitk.DisplacementFieldTransform(sitk.Image(image))
    points = np.stack([x, np.ones_like(x)], axis=-1)
    expected = np.array([itk.TransformPoint(p) for p in points.tolist()])
    np.testing.assert_allclose(map_points([Field(vectors, np.eye(4))], points), expected)
    np.testing.assert_allclose(expected[:, 0] - x, [0, 1, 1, 1, 2.3, 5, 5, 0])


def test_a_composite_is_applied_in_the_order_of_itk(tmp_path):
    parts = [affine3(), euler(), sitk.TranslationTransform(3, (1, 2, 3))]
    composite = sitk.CompositeTransform(parts)
    sitk.WriteTransform(composite, tmp_path / "a.tfm")
    points = random_points(3)
    found = map_points(load_transform(tmp_path / "a.tfm"), points)
    np.testing.assert_allclose(found, by_itk(composite, points), atol=1e-10)
    # A list of ours, as that of ANTs, is one of ITK's in reverse.
    files = [tmp_path / f"{i}.mat" for i in range(3)]
    for part, file in zip(parts, files, strict=True):
        sitk.WriteTransform(part, file)
    listed = [each for file in reversed(files) for each in load_transform(file)]
    np.testing.assert_allclose(map_points(listed, points), found, atol=1e-10)


def test_the_inverse_of_a_chain_undoes_it(tmp_path):
    affine = oblique()
    index = np.stack(np.meshgrid(*map(np.arange, (8, 9, 10)), indexing="ij"), axis=-1)
    shift = np.array([0.5, -0.25, 0.75])
    # A shift in voxels that is the same everywhere has itself, negated, as its inverse.
    field = Field(np.broadcast_to(affine[:3, :3] @ shift, index.shape).copy(), affine)
    moved = Affine(np.block([[near_identity(3), np.ones((3, 1))], [np.zeros((1, 3)), 1.0]]))
    seen = []

    def inverse(u):
        seen.append(u)
        return -u

    points = np.array([[3.0, 4, 5], [2, 2, 2]]) @ affine[:3, :3].T + affine[:3, 3]
    chain = (field, moved)
    there = map_points(chain, points)
    np.testing.assert_allclose(map_points(inverted(chain, inverse), there), points, atol=1e-9)
    np.testing.assert_allclose(seen[0], np.broadcast_to(shift, index.shape), atol=1e-12)


def test_fields_npz_are_in_voxels(tmp_path):
    u = RANDOM.normal(size=(5, 6, 2)).astype(np.float32)
    matrix = np.array([[1.0, 0.5, 2], [0, 1, -1]])
    np.savez(tmp_path / "fields.npz", displacement=u, inverse=-u, affine=matrix)
    chain = load_transform(tmp_path / "fields.npz")
    assert [each.unit for each in chain] == ["voxels", "voxels"]
    found = map_points(chain, np.array([2.0, 3.0]))
    np.testing.assert_allclose(found, matrix[:, :2] @ ([2, 3] + u[2, 3]) + matrix[:, 2])
    np.savez(tmp_path / "fields.npz", displacement=u)
    assert len(load_transform(tmp_path / "fields.npz")) == 1


def text(kind="AffineTransform_double_3_3", parameters="1 0 0 0 1 0 0 0 1 0 0 0"):
    head = "#Insight Transform File V1.0\n#Transform 0\n"
    return f"{head}Transform: {kind}\nParameters: {parameters}\nFixedParameters: 0 0 0\n".encode()


def nifti(shape, value=0.0, **header):
    image = nibabel.Nifti1Image(np.full(shape, value, np.float32), np.eye(4))
    for name, each in header.items():
        image.header[name] = each
    return image.to_bytes()


def claims(content):
    """Return a file of NIfTI whose header claims 50 times as many voxels."""
    changed = bytearray(content)
    changed[42:44] = np.array([500], "<i2").tobytes()
    return bytes(changed)


def without_depth(content):
    """Return a file of NIfTI whose affine has a row of zeros."""
    return content[:312] + bytes(16) + content[328:]


VECTORS = (10, 4, 4, 1, 3)
BAD = {
    "a.mat": [
        (b"", "arrays none in place of parameters"),
        (matlab_bytes(Affine(np.eye(4)))[:-1], "truncated"),
        (matlab_bytes(Affine(np.eye(4)))[:50], "truncated"),
        (b"\0" * 30, "an array of type 0, 0 by 0"),
        (b"\0\0\0\0" + b"\xff\xff\xff\x7f" * 2 + b"\0\0\0\0\5\0\0\0abcd\0", "truncated"),
        (matlab_bytes(Affine(np.full((4, 4), np.nan))), "12 parameters .* where 12 finite ones"),
        (matlab_bytes(Affine(np.diag([1.0, 1, 0, 1]))), "its matrix has no inverse"),
        (bytes(2**21), "more than 1048576 bytes"),
    ],
    "a.tfm": [
        (b"", "the first line is not '#Insight"),
        (b"\xff\xfe", "can't decode byte"),
        (b"(Transform EulerTransform)\n", "the first line is not"),
        (
            text("BSplineTransform_double_3_3"),
            "'BSplineTransform_double_3_3', where these are accepted: Affine",
        ),
        (
            text("Euler3DTransform_double_2_2"),
            "'Euler3DTransform_double_2_2', where these are accepted: Affine",
        ),
        (text(parameters="1 2"), "2 parameters of AffineTransform_double_3_3, where 12 finite"),
        (text(parameters="1 x"), "could not convert string to float: 'x'"),
        (text(parameters="1 0 0 0 1 0 0 0 0 0 0 0"), "its matrix has no inverse"),
        (text() + text().split(b"\n", 1)[1], "2 transforms, where one or a Composite"),
        (b"#Insight Transform File V1.0\n", "0 transforms"),
        (text() + b"?\n", "a line '\\?'"),
    ],
    "a.nii": [
        (b"", "no NIfTI image"),
        (nifti((4, 4, 4)), r"shape \[4, 4, 4\], where ITK's fields"),
        (nifti((4, 4, 4, 3)), r"shape \[4, 4, 4, 3\], where ITK's fields"),
        (nifti((4, 4, 4, 2, 3)), r"shape \[4, 4, 4, 2, 3\], where ITK's fields"),
        (nifti((4, 4, 2, 1, 2)), r"shape \[4, 4, 2, 1, 2\], where ITK's fields"),
        (nifti(VECTORS, np.nan), "480 numbers are NaN or infinite"),
        (nifti(VECTORS)[:-1], r"float32\[10, 4, 4, 1, 3\] from byte 352"),
        (without_depth(nifti(VECTORS)), "its affine has no inverse"),
        (nifti(VECTORS, intent_name=b"NREG_TRANS"), "a transform of NiftyReg"),
        (claims(nifti(VECTORS)), r"float32\[500, 4, 4, 1, 3\] from"),
    ],
    "a.h5": [(b"\x89HDF\r\n", "CompositeTransformUtil --disassemble")],
    "a.npz": [(b"", "no readable npz")],
    "a.xyz": [(b"", r"\(unknown suffix\); give an affine \(.mat")],
}


@pytest.mark.parametrize(
    ("name", "content", "message"), [(n, *case) for n, cases in BAD.items() for case in cases]
)
def test_files_that_are_no_transform_are_refused_in_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*{message}") as error:
        load_transform(tmp_path / name)
    assert "\n" not in str(error.value)


def test_other_arrays_and_missing_files_are_refused(tmp_path):
    u = np.zeros((5, 6, 2))
    for arrays, message in (
        ({"vol": u}, "no array displacement"),
        ({"displacement": u[..., :1]}, "no array displacement"),
        ({"displacement": u.astype(int)}, "no array displacement"),
        ({"displacement": u + np.inf}, "60 numbers are NaN or infinite"),
        ({"displacement": u, "affine": np.eye(2)}, r"affine of shape \[2, 2\], not \[2, 3\]"),
        ({"displacement": u, "affine": np.zeros((2, 3))}, "no inverse"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(DataError, match=f"a.npz: .*{message}"):
            load_transform(tmp_path / "a.npz")
    with pytest.raises(DataError, match="b.mat: no such file; give an affine"):
        load_transform(tmp_path / "b.mat")
    with pytest.raises(DataError, match="not a file"):
        load_transform(tmp_path)


def test_a_field_that_would_take_much_memory_is_refused(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti(VECTORS))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(nifti((100, 100, 100, 1, 3))))
    assert len(load_transform(tmp_path / "a.nii", max_bytes=10**5)) == 1
    with pytest.raises(DataError, match=r"b.nii.gz: would take .* of memory"):
        load_transform(tmp_path / "b.nii.gz", max_bytes=10**5)


def test_points_of_other_axes_are_refused():
    chain = (field_of("plain"), Affine(np.eye(4)))
    with pytest.raises(ValueError, match=r"points=.*\[5, 2\].*: accepted is \[..., 3\]"):
        map_points(chain, np.zeros((5, 2)))


def test_transforms_are_frozen():
    for transform in (Affine(np.eye(4)), field_of("plain")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            transform.unit = "voxels"
