"""Rows of images from folders and npz files, and what is not taken for one."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxml.data import DataError
from jaxml.data.image_rows import load_rows

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)


def encoded(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "png")
    return content.getvalue()


def test_a_folder_is_read_in_order_of_its_paths(tmp_path):
    for name, image in zip(("b.png", "a/2.png", "a/1.PNG", ".hidden.png"), PIXELS, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(image))
    rows = load_rows(tmp_path)
    assert rows.files == ("a/1.PNG", "a/2.png", "b.png") and rows.skipped == ()
    np.testing.assert_array_equal(rows.images, PIXELS[[2, 1, 0]] / np.float32(255))
    assert rows.images.dtype == np.float32


def test_files_that_are_not_readable_are_named_or_left_out(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(PIXELS[0]))
    (tmp_path / "b.jpg").write_bytes(b"text")
    with pytest.raises(DataError, match=r"b\.jpg: not a readable image"):
        load_rows(tmp_path)
    rows = load_rows(tmp_path, skip_unreadable=True)
    assert rows.files == ("a.png",) and rows.skipped[0].startswith(f"{tmp_path}/b.jpg: ")


def test_an_npz_has_bytes_numbers_or_joined_pictures(tmp_path):
    parts = [encoded(image) for image in PIXELS]
    joined = {
        "jpeg": np.frombuffer(b"".join(parts), np.uint8),
        "offset": np.cumsum([0, *map(len, parts)]),
    }
    for arrays in ({"images": PIXELS}, {"images": PIXELS / 255}, joined):
        np.savez(tmp_path / "a.npz", **arrays)
        rows = load_rows(tmp_path / "a.npz")
        np.testing.assert_allclose(rows.images, PIXELS / 255, rtol=1e-6)
        assert rows.files is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.arange(3)}, "no array images; give a folder of png"),
        ({"images": PIXELS.astype(int)}, r"images is int64\[4, 6, 5, 3\]; give"),
        ({"images": PIXELS[0]}, r"images is uint8\[6, 5, 3\]; give"),
        ({"images": PIXELS[:0]}, r"images is uint8\[0, 6, 5, 3\]; give"),
        ({"images": PIXELS / 128}, "not all from 0 to 1; give"),
        ({"images": PIXELS * np.nan}, "not all from 0 to 1; give"),
        ({"jpeg": np.zeros(3, np.uint8)}, "no array offset; give a folder of png"),
        ({"jpeg": np.zeros(3, np.uint8), "offset": np.arange(2)}, "do not describe images; give"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=rf"a\.npz: .*{message}"):
        load_rows(tmp_path / "a.npz")


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder or file; give"):
        load_rows(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no readable images; give"):
        load_rows(tmp_path)
    (tmp_path / "a.png").write_bytes(encoded(PIXELS[0]))
    (tmp_path / "b.png").write_bytes(encoded(PIXELS[0, :4]))
    with pytest.raises(DataError, match=r"b\.png: \(4, 5, 3\), but .*a\.png: \(6, 5, 3\)"):
        load_rows(tmp_path)
