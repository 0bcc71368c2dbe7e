import io
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxml.data import DataError
from jaxml.data.image_rows import load_rows
from jaxml.data.images import CIFAR10, load_images, load_pool
from jaxml.data.sources import download


@pytest.fixture(autouse=True)
def no_sources(monkeypatch):
    """No variable and no network, unless a test gives one."""
    monkeypatch.delenv("JAXML_DATA", raising=False)

    def fail(*_):
        raise DataError("not in this test")

    monkeypatch.setattr(download, "fetch", fail)


RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 6, 5, 3), np.uint8)
CLASSES = np.arange(20) % 2


def encoded(image, kind="png"):
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, kind)
    return content.getvalue()


def blobs(images, labels=None, **changed):
    """The layout of joined files; PNG here, since it is exact."""
    parts = [encoded(image) for image in images]
    arrays = dict(
        jpeg=np.frombuffer(b"".join(parts), np.uint8),
        offset=np.cumsum([0, *map(len, parts)]),
    )
    return arrays | ({} if labels is None else {"label": labels}) | changed


def save_cifar(folder, **changed):
    folder.mkdir(exist_ok=True)
    for name, rows in {
        "train-00": slice(8),
        "train-01": slice(8, 12),
        "test-00": slice(12, 20),
    }.items():
        labels = (CLASSES[rows] + 3).astype(np.int16)
        np.savez(folder / f"cifar10-{name}.npz", **blobs(PIXELS[rows], labels, **changed))


@pytest.mark.parametrize("inner", ["", "cifar10", "images"])
def test_joined_files_of_cifar10(tmp_path, inner):
    save_cifar(tmp_path / inner)
    found = load_images(tmp_path)
    np.testing.assert_array_equal(found.train_images, PIXELS[:12])
    np.testing.assert_array_equal(found.test_images, PIXELS[12:])
    np.testing.assert_array_equal(found.train_labels, CLASSES[:12] + 3)
    np.testing.assert_array_equal(found.test_labels, CLASSES[12:] + 3)
    assert found.train_labels.dtype == found.test_labels.dtype == np.int32
    assert found.classes == CIFAR10 and found.classes[3] == "cat"
    assert found.source.startswith(str(tmp_path))
    assert found.source.endswith("(12 + 8 images of 6 x 5 x 3, 10 classes)")


def test_jpeg_is_decoded_as_pillow_does(tmp_path):
    content = encoded(PIXELS[0], "jpeg")
    arrays = dict(jpeg=np.frombuffer(content * 2, np.uint8), offset=len(content) * np.arange(3))
    for part in ("train", "test"):
        np.savez(tmp_path / f"cifar10-{part}-0.npz", **arrays, label=np.zeros(2, int))
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(load_images(tmp_path).test_images[1], image)


@pytest.mark.parametrize("rows", [3, 10])
def test_first_rows_only(tmp_path, rows):
    save_cifar(tmp_path)
    # The second file is not read for the first three.
    if rows == 3:
        (tmp_path / "cifar10-train-01.npz").write_bytes(b"")
    found = load_images(tmp_path, rows=rows)
    np.testing.assert_array_equal(found.train_images, PIXELS[:rows])
    assert len(found.train_labels) == rows and len(found.test_images) == 8
    few = load_images(tmp_path, rows=rows, test_rows=5)
    np.testing.assert_array_equal(few.test_images, found.test_images[:5])
    np.testing.assert_array_equal(few.test_labels, found.test_labels[:5])
    assert f"({rows} + 5 images" in few.source


def assert_is_split(found):
    """Every fifth of a class is for the test."""
    test = np.array([8, 9, 18, 19])
    train = np.setdiff1d(np.arange(20), test)
    np.testing.assert_array_equal(found.test_images, PIXELS[test])
    np.testing.assert_array_equal(found.train_images, PIXELS[train])
    np.testing.assert_array_equal(found.test_labels, CLASSES[test])
    np.testing.assert_array_equal(found.train_labels, CLASSES[train])


@pytest.mark.parametrize("named", [True, False])
def test_npz_of_images(tmp_path, named):
    np.savez(tmp_path / "mine.npz", images=PIXELS, labels=CLASSES)
    np.savez(tmp_path / "other-unlabelled-00.npz", **blobs(PIXELS))
    found = load_images(tmp_path / "mine.npz" if named else str(tmp_path))
    assert_is_split(found)
    assert found.classes == ("0", "1")


@pytest.mark.parametrize("channels", [1, 3])
def test_folders_of_classes(tmp_path, channels):
    for i, image in enumerate(PIXELS):
        path = tmp_path / ("bee", "ant")[i % 2] / f"{i:02d}.{'PNG' if i else 'png'}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(image[..., :channels]))
    (tmp_path / "bee" / "notes.txt").write_text("no image")
    found = load_images(tmp_path)
    assert found.classes == ("ant", "bee")
    # Classes take turns: odd files and even ones.
    expected = np.stack([PIXELS[1::2], PIXELS[::2]], axis=1)
    fifth = np.arange(10) % 5 == 4
    for images, chosen in ((found.train_images, ~fifth), (found.test_images, fifth)):
        together = np.concatenate(expected[chosen])
        np.testing.assert_array_equal(images, together[..., :channels])
    assert found.test_labels.tolist() == [0, 1, 0, 1]


def test_variable_names_the_folder_and_the_argument_goes_first(tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", images=PIXELS, labels=CLASSES)
    monkeypatch.setenv("JAXML_DATA", str(tmp_path))
    assert_is_split(load_images(None))
    with pytest.raises(DataError, match="elsewhere: no such folder"):
        load_images(tmp_path / "elsewhere")


def test_digits_where_nothing_is_fetched(caplog):
    found = load_images(None)
    assert found.train_images.shape[1:] == (8, 8, 1) and found.train_images.max() == 255
    assert len(found.train_images) + len(found.test_images) == 1797
    assert set(found.test_labels.tolist()) == set(range(10))
    assert found.source == "digits of scikit-learn (1442 + 355 images of 8 x 8 x 1, 10 classes)"
    assert caplog.messages == ["not in this test: trying the next source of images"]


def archive(path, names):
    """The binary layout: each row a label and the planes of red, green and blue."""
    image = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
    rows = np.concatenate([[[4], [9]], image.transpose(0, 3, 1, 2).reshape(2, -1)], axis=1)
    with tarfile.open(path, "w:gz") as files:
        for name in names:
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = rows.size
            files.addfile(entry, io.BytesIO(rows.astype(np.uint8).tobytes()))
    return image


def test_fetched_comes_before_digits(tmp_path, monkeypatch):
    path = tmp_path / "a.tar.gz"
    image = archive(path, ["data_batch_1.bin", "data_batch_2.bin", "test_batch.bin", "readme.html"])
    asked = []
    monkeypatch.setattr(download, "fetch", lambda *call: asked.append(call) or path)
    found = load_images(None, download_seconds=9.0)
    assert asked == [("cifar10", 9.0)]
    np.testing.assert_array_equal(found.train_images, np.concatenate([image, image]))
    np.testing.assert_array_equal(found.test_images, image)
    assert found.train_labels.tolist() == [4, 9, 4, 9]
    assert found.classes == CIFAR10 and "TFDS cifar10" in found.source


@pytest.mark.parametrize("write", [lambda p: p.write_bytes(b"x"), lambda p: archive(p, ["a.bin"])])
def test_bad_archive_is_named_and_the_next_source_taken(tmp_path, monkeypatch, caplog, write):
    path = tmp_path / "a.tar.gz"
    write(path)
    monkeypatch.setattr(download, "fetch", lambda *_: path)
    assert "digits" in load_images(None).source
    assert caplog.messages[0].startswith(str(path)) and "delete it" in caplog.messages[0]


def test_no_source_at_all_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="no images .*name a folder with .*CLASS/"):
        load_images(None)


def test_pool_is_read_from_all_its_files(tmp_path):
    (tmp_path / "cifar10").mkdir()
    for i, rows in enumerate((slice(15), slice(15, 20))):
        np.savez(tmp_path / "cifar10" / f"any-unlabelled-{i}.npz", **blobs(PIXELS[rows]))
    np.testing.assert_array_equal(load_pool(tmp_path), PIXELS)
    np.savez(tmp_path / "cifar10" / "any-unlabelled-2.npz", images=PIXELS[:3])
    np.testing.assert_array_equal(load_pool(tmp_path)[20:], PIXELS[:3])
    np.savez(tmp_path / "cifar10" / "any-unlabelled-3.npz", images=PIXELS[:3] / 255)
    with pytest.raises(DataError, match="unlabelled-3.npz: its arrays do not describe images"):
        load_pool(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no unlabelled images; give"):
        load_pool(empty)
    with pytest.raises(DataError, match="name a folder"):
        load_pool(None)


@pytest.mark.parametrize(
    "changed",
    [
        {"images": PIXELS / 255},
        {"images": PIXELS[..., 0]},
        {"labels": CLASSES[:3]},
        {"labels": CLASSES / 2},
        {"labels": CLASSES - 1},
        {"labels": np.arange(20)},
        {"labels": np.where(CLASSES, 2**40, 0)},
    ],
)
def test_npz_of_another_layout(tmp_path, changed):
    np.savez(tmp_path / "a.npz", **{"images": PIXELS, "labels": CLASSES} | changed)
    with pytest.raises(DataError, match=r"a\.npz: .*; give ") as caught:
        load_images(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"jpeg": np.zeros(5, np.int16)},
        {"offset": np.array([0, 5])},
        {"offset": np.array(3)},
        {"offset": np.array([0, 300, 100] + [400] * 6, np.uint64)},
        {"label": np.zeros(3, int)},
        {"label": np.full(8, 10)},
    ],
)
def test_joined_files_of_another_layout(tmp_path, changed):
    save_cifar(tmp_path)
    arrays = blobs(PIXELS[:8], CLASSES[:8]) | changed
    np.savez(tmp_path / "cifar10-train-00.npz", **arrays)
    with pytest.raises(DataError, match="give "):
        load_images(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged"])
def test_corrupt_npz_is_named(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not readable"):
        load_images(tmp_path)


def test_unreadable_image_is_named(tmp_path):
    save_cifar(tmp_path)
    arrays = blobs(PIXELS[:8], CLASSES[:8])
    arrays["jpeg"] = arrays["jpeg"].copy()
    arrays["jpeg"][arrays["offset"][2] :] = 0
    np.savez(tmp_path / "cifar10-train-00.npz", **arrays)
    with pytest.raises(DataError, match=r"train-00\.npz, image 2: not a readable image"):
        load_images(tmp_path)
    for name, content in {"a/1.png": encoded(PIXELS[0]), "b/2.jpg": b"text"}.items():
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"2\.jpg: not a readable image"):
        load_images(tmp_path / "own")
    path.write_bytes(encoded(PIXELS[0, :4]))
    with pytest.raises(DataError, match=r"2\.jpg: \(4, 5, 3\), but .*1\.png: \(6, 5, 3\)"):
        load_images(tmp_path / "own")


def test_unusable_folders_and_arguments(tmp_path, unchecked):
    with pytest.raises(DataError, match="no images of 2 classes"):
        load_images(tmp_path)
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", images=PIXELS, labels=CLASSES)
    with pytest.raises(DataError, match=r"several npz files \(a\.npz, b\.npz\)"):
        load_images(tmp_path)
    with pytest.raises(DataError, match=r"a\.npz: no array images"):
        np.savez(tmp_path / "a.npz", labels=CLASSES)
        load_images(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="rows=0"):
        load_images(tmp_path, rows=0)
    with pytest.raises(ValueError, match="test_rows=-1"):
        load_images(tmp_path, test_rows=-1)


def test_pixels_of_more_than_eight_bits_are_named(tmp_path):
    deep = np.full((4, 4), 40_000, np.uint16)
    for i, name in enumerate(("ant", "bee")):
        path = tmp_path / name / f"{i}.png"
        path.parent.mkdir()
        Image.fromarray(deep).save(path)
    with pytest.raises(DataError, match="pixels of mode I;16; give 8-bit images"):
        load_images(tmp_path)


def test_any_first_rows_are_of_all_classes(tmp_path):
    labels = np.repeat(np.arange(2), 10)
    np.savez(tmp_path / "sorted.npz", images=PIXELS, labels=labels)
    found = load_images(tmp_path, rows=4)
    assert found.train_labels.tolist() == [0, 1, 0, 1]
    assert found.test_labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("load", [load_images, load_rows, load_pool])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_that_come_first_are_refused(tmp_path, load, channels):
    images = np.zeros((20, channels, 12, 10), np.uint8)
    path = tmp_path / ("x-unlabelled-0.npz" if load is load_pool else "a.npz")
    np.savez(path, images=images, labels=np.arange(20) % 2)
    named = path if load is load_rows else tmp_path
    message = rf"{path.name}: images \[20, {channels}, 12, 10\] have their channels first; "
    with pytest.raises(DataError, match=message + r"images.transpose\(0, 2, 3, 1\)"):
        load(named)
    np.savez(path, images=images.transpose(0, 2, 3, 1), labels=np.arange(20) % 2)
    load(named)
