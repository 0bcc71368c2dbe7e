import gzip

import nibabel
import numpy as np
import pytest
from damaged_files import limits
from PIL import Image

from jaxml.data import DataError
from jaxml.data.grid import Grid
from jaxml.data.volume import Volume, as_stored, load_volume

SHAPE = (7, 8, 9)
# Left-posterior-superior axes, voxels of 2, 3 and 4 mm, somewhere in the scanner.
LPS = np.array([[-2.0, 0, 0, 40], [0, -3, 0, 30], [0, 0, 4, -20], [0, 0, 0, 1]])


def world(affine, shape):
    """Return the world position `[*volume, 3]` of every voxel."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def ramp(affine, shape):
    """Return a volume that is linear in world positions, and so known on any grid."""
    return world(affine, shape) @ np.array([0.5, -0.25, 0.125]) + 3


def save(path, data, affine):
    nibabel.save(nibabel.Nifti1Image(np.asarray(data, np.float32), affine), path)
    return path


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_nifti_is_turned_to_ras_and_every_voxel_stays_in_place(tmp_path, name):
    volume = load_volume(save(tmp_path / name, ramp(LPS, SHAPE), LPS))
    assert "".join(nibabel.aff2axcodes(volume.affine)) == "RAS"
    assert "LPS" in volume.note
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.data, ramp(volume.affine, SHAPE), rtol=1e-6)
    np.testing.assert_allclose(volume.spacing, (2, 3, 4))


def test_arrays_and_pictures(tmp_path):
    image = np.arange(20, dtype=np.uint8).reshape(4, 5) * 10
    np.save(tmp_path / "a.npy", image)
    np.savez(tmp_path / "b.npz", image)
    np.savez(tmp_path / "c.npz", vol=image, seg=image)
    Image.fromarray(image).save(tmp_path / "d.png")
    Image.fromarray(np.stack([image] * 3, axis=-1)).save(tmp_path / "e.png")
    for name in ("a.npy", "b.npz", "c.npz", "d.png", "e.png"):
        volume = load_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.data, image)
        assert volume.affine is None and volume.spacing == (1.0, 1.0)


def saved(path, image, **settings):
    image.save(path, **settings)
    return load_volume(path)


def test_alpha_is_no_gray_and_no_color(tmp_path):
    gray = np.arange(20, dtype=np.uint8).reshape(4, 5) * 10
    alpha = np.full_like(gray, 255)
    alpha[0] = 0
    opaque = Image.fromarray(gray)
    with_alpha = opaque.copy()
    with_alpha.putalpha(Image.fromarray(alpha))
    for image in (with_alpha, with_alpha.convert("RGBA")):
        volume = saved(tmp_path / "a.png", image)
        np.testing.assert_array_equal(volume.data, gray)
        assert volume.note == "alpha left out" and volume.dtype == np.uint8
    assert saved(tmp_path / "a.png", opaque).note == ""
    volume = saved(tmp_path / "a.png", opaque.convert("P"), transparency=0)
    np.testing.assert_array_equal(volume.data, gray)


def test_colors_are_averaged_and_the_note_says_so(tmp_path):
    colors = np.random.default_rng(0).integers(0, 64, (4, 5, 3), np.uint8) * 4
    image = Image.fromarray(colors)
    palette = image.quantize(256, dither=Image.Dither.NONE)
    for picture, rgb in ((image, colors), (palette, np.asarray(palette.convert("RGB")))):
        volume = saved(tmp_path / "a.png", picture)
        np.testing.assert_allclose(volume.data, rgb.mean(axis=-1), rtol=1e-6)
        assert volume.note == "colors averaged to gray" and volume.dtype == np.uint8


def test_numbers_of_a_file_come_back(tmp_path):
    rng = np.random.default_rng(0)
    for dtype in (bool, np.uint8, ">u2", np.int16, np.int64, np.float16, np.float64):
        image = rng.integers(0, 2 if dtype is bool else 200, (4, 5)).astype(dtype)
        np.save(tmp_path / "a.npy", image)
        volume = load_volume(tmp_path / "a.npy")
        assert volume.data.dtype == np.float32
        found = as_stored(volume.data, volume)
        assert found.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(found, image)
    deep = (rng.integers(0, 65536, (4, 5))).astype(np.uint16)
    volume = saved(tmp_path / "a.png", Image.fromarray(deep))
    assert volume.dtype == np.uint16
    np.testing.assert_array_equal(volume.data, deep)


def test_numbers_are_rounded_and_cut_to_their_type():
    grid = Grid((3, 3), None, (0, 1), (False, False))
    of = lambda dtype, **scale: Volume(np.zeros((3, 3)), None, grid, dtype=np.dtype(dtype), **scale)
    values = np.array([-1e30, -0.6, 0.4, 1.6, 1e30])
    np.testing.assert_array_equal(as_stored(values, of("u1")), [0, 0, 0, 2, 255])
    np.testing.assert_array_equal(as_stored(values, of("?")), [False, False, False, True, True])
    ends = np.iinfo(np.int64)
    found = as_stored(values, of("i8"))
    np.testing.assert_array_equal(found, [ends.min, -1, 0, 2, ends.max - 1023])
    scaled = as_stored(values[1:4], of("i2", slope=0.5, intercept=-1.0))
    np.testing.assert_array_equal(scaled, [1, 3, 5])


def test_a_start_that_is_no_number_of_bytes_is_refused(tmp_path):
    content = bytearray(save(tmp_path / "a.nii", np.zeros(SHAPE), LPS).read_bytes())
    for start in (np.inf, -np.inf, np.nan, 1e38, -8, 2.0**31):
        content[108:112] = np.array(start, "<f4").tobytes()
        (tmp_path / "a.nii").write_bytes(content)
        with limits(), pytest.raises(DataError, match="not readable as NIfTI .*from byte"):
            load_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("sides", [(32767,) * 3, (32767,) * 7, (2000, 2000, 2000), (7, 8, -9)])
def test_a_size_that_a_header_claims_is_not_made_room_for(tmp_path, compressed, sides):
    content = bytearray(save(tmp_path / "a.nii", np.zeros(SHAPE), LPS).read_bytes())
    numbers = [len(sides), *sides, *[1] * (7 - len(sides))]
    content[40:56] = np.array(numbers, "<i2").tobytes()
    path = tmp_path / ("b.nii.gz" if compressed else "b.nii")
    path.write_bytes(gzip.compress(content) if compressed else content)
    with limits(), pytest.raises(DataError, match="not readable as NIfTI"):
        load_volume(path)


def write_bad(folder):
    whole = save(folder / "whole.nii.gz", np.random.default_rng(0).normal(size=SHAPE), LPS)
    (folder / "cut.nii.gz").write_bytes(whole.read_bytes()[:300])
    (folder / "text.nii").write_text("no volume")
    save(folder / "nan.nii", np.full(SHAPE, np.nan), LPS)
    save(folder / "infinite.nii", np.full(SHAPE, np.inf), LPS)
    save(folder / "series.nii", np.zeros((*SHAPE, 2)), LPS)
    np.savez(folder / "two.npz", a=np.zeros((4, 4)), b=np.zeros((4, 4)))
    np.save(folder / "thin.npy", np.zeros((1, 9)))
    np.save(folder / "complex.npy", np.zeros((4, 4), complex))
    np.save(folder / "huge.npy", np.full((4, 4), 1e300))
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n none")
    (folder / "picture.bmp").write_text("x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.nii", "no such file"),
        ("cut.nii.gz", "not readable as NIfTI"),
        ("text.nii", "not readable as NIfTI"),
        ("nan.nii", "every voxel is NaN"),
        ("infinite.nii", "504 voxels are infinite"),
        ("series.nii", "2 images in one file: give volume, .* from 0 to 1 to"),
        ("two.npz", "arrays a, b"),
        ("thin.npy", "2 or 3 axes of more than one voxel"),
        ("complex.npy", "real numbers"),
        ("huge.npy", "16 voxels are infinite"),
        ("broken.npz", "not readable by numpy"),
        ("broken.png", "not readable as a picture"),
        ("picture.bmp", "unknown suffix"),
        ("", "not a file"),
    ],
)
def test_bad_file_is_named(tmp_path, name, message):
    write_bad(tmp_path)
    with pytest.raises(DataError, match=message) as raised:
        load_volume(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
