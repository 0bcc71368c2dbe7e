"""Images to classify: the user's, else CIFAR-10 fetched, else handwritten digits.

Images are uint8 `[image, height, width, channel]`, and small enough to lie on a device whole.
"""

import dataclasses
import logging
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from jaxml.data.folder import named_folder
from jaxml.data.image_files import (
    check_count,
    find_pictures,
    joined,
    read_arrays,
    read_joined,
    read_picture,
)
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.files.tar import read_tar

CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
LAYOUT = (
    "cifar10-train-*.npz and cifar10-test-*.npz (jpeg, offset, label), an npz with images "
    "(uint8, [image, height, width, channel]) and labels, or CLASS/*.png|jpg of at least 2 "
    "classes and one size"
)
POOL_LAYOUT = "*-unlabelled-*.npz (jpeg and offset, or images: uint8, 4 axes)"
# Every so many images of a class, one is for the test where nothing says which.
TEST_EVERY = 5
# Each has a name, whatever a file's largest label may be.
MOST_CLASSES = 2**16


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images with classes, for training and test.

    Attributes:
      train_images: uint8, `[image, height, width, channel]`.
      train_labels: index into `classes`, `[image]`, int32.
      test_images: of the same size.
      test_labels: `[image]`, int32.
      classes: names.
      source: one line that says what was used.
    """

    train_images: UInt8[np.ndarray, "train height width channel"]
    train_labels: Int[np.ndarray, " train"]
    test_images: UInt8[np.ndarray, "test height width channel"]
    test_labels: Int[np.ndarray, " test"]
    classes: tuple[str, ...]
    source: str


def load_images(
    folder: Path | str | None,
    *,
    download_seconds: float = 15.0,
    rows: int | None = None,
    test_rows: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> ImageSet:
    """Return the first images there are: folder, TFDS `cifar10`, digits of scikit-learn.

    Args:
      folder: the user's data, else the folder that the variable JAXML_DATA names: an npz file,
        or what `LAYOUT` says, in it or in its folder `cifar10` or `images`. Where nothing says
        which images are for the test, every fifth of a class is.
      download_seconds: a download that stalls for so long is ended; the log says so.
      rows: number of training images at most, the first ones; all by default.
      test_rows: number of test images at most, likewise.
      max_bytes: most memory that reading a file, or the pictures of a folder, may take.

    Returns:
      Images for training and test.

    Raises:
      DataError: a named folder is missing or holds no usable images, one of its files cannot be
        read or is too large; without a folder, no source worked.
      ValueError: `rows` or `test_rows` is below 1.
    """
    # Loaders import no JAX: the processes that download and speak start sooner without.
    from jaxml import checks

    limits = {"rows": rows, "test_rows": test_rows}
    checks.counts(**{name: number for name, number in limits.items() if number is not None})
    named = named_folder(folder)
    if named is not None:
        return _first(_from_folder(named, rows, test_rows, max_bytes), rows, test_rows)
    reasons = []
    for source in (lambda: _fetched(download_seconds), _digits):
        try:
            return _first(source(), rows, test_rows)
        except DataError as error:
            reasons.append(str(error))
            logging.getLogger(__name__).warning("%s: trying the next source of images", error)
    raise DataError(f"no images ({'; '.join(reasons)}); name a folder with {LAYOUT}")


def load_pool(
    folder: Path | str | None, *, max_bytes: int = MAX_BYTES
) -> UInt8[np.ndarray, "image height width channel"]:
    """Return unlabelled images of the user's folder.

    Args:
      folder: as for `load_images`, with what `POOL_LAYOUT` says in it.
      max_bytes: most memory that reading a file may take.

    Returns:
      uint8 `[image, height, width, channel]`.

    Raises:
      DataError: nothing was named, it holds no such file, or one cannot be read or is too large.
    """
    named = named_folder(folder)
    if named is None:
        raise DataError(f"no unlabelled images; name a folder with {POOL_LAYOUT}")
    inner = _inner(named)
    paths = sorted(inner.glob("*-unlabelled-*.npz"))
    if not paths:
        raise DataError(f"{inner}: no unlabelled images; give {POOL_LAYOUT}")
    return joined([_pool_file(path, max_bytes) for path in paths], inner)


def _pool_file(path: Path, max_bytes: int) -> np.ndarray:
    settings = {"layout": POOL_LAYOUT, "max_bytes": max_bytes}
    arrays = read_arrays(path, **settings)
    images = read_joined(path, **settings)[0] if "jpeg" in arrays else arrays.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise DataError(f"{path}: its arrays do not describe images; give {POOL_LAYOUT}")
    return images


def _inner(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give {LAYOUT}")
    inner = (folder / name for name in ("cifar10", "images"))
    return next((path for path in inner if path.is_dir()), folder)


def _from_folder(folder: Path, rows: int | None, test_rows: int | None, max_bytes) -> ImageSet:
    if folder.is_file():
        return _from_npz(folder, max_bytes)
    inner = _inner(folder)
    train, test = (sorted(inner.glob(f"cifar10-{part}-*.npz")) for part in ("train", "test"))
    if train and test:
        return _from_blobs(inner, train, test, rows, test_rows, max_bytes)
    archives = sorted(path for path in inner.glob("*.npz") if "-unlabelled-" not in path.name)
    if len(archives) > 1:
        names = ", ".join(path.name for path in archives)
        raise DataError(f"{inner}: several npz files ({names}); name one of them")
    if archives:
        return _from_npz(archives[0], max_bytes)
    return _from_classes(inner, max_bytes)


def _from_blobs(folder, train: list[Path], test: list[Path], rows, test_rows, max_bytes):
    def read(paths, wanted):
        images, labels, count = [], [], 0
        for path in paths:
            if wanted is None or count < wanted:
                left = None if wanted is None else wanted - count
                limits = {"rows": left, "max_bytes": max_bytes}
                some, label = read_joined(path, layout=LAYOUT, **limits)
                if label is None:
                    raise DataError(f"{path}: no array label; give {LAYOUT}")
                images.append(some)
                labels.append(label)
                count += len(some)
        return joined(images, folder), np.concatenate(labels)

    return _image_set(read(train, rows), read(test, test_rows), CIFAR10, str(folder))


def _from_npz(path: Path, max_bytes: int) -> ImageSet:
    arrays = read_arrays(path, layout=LAYOUT, max_bytes=max_bytes)
    names = {"images", "labels"}
    if not names <= arrays.keys():
        raise DataError(f"{path}: no array {min(names - arrays.keys())}; give {LAYOUT}")
    images, labels = arrays["images"], arrays["labels"]
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or labels.shape != images.shape[:1]
        or labels.dtype.kind not in "iu"
        or not labels.size
        or labels.min() < 0
        or labels.max() >= MOST_CLASSES
    ):
        raise DataError(f"{path}: its arrays do not describe images; give {LAYOUT}")
    names = tuple(str(i) for i in range(int(labels.max()) + 1))
    return _image_set(*_split(images, labels), names, str(path))


def _from_classes(folder: Path, max_bytes: int) -> ImageSet:
    files = find_pictures(folder, "*/*")
    classes = sorted({file.parent.name for file in files})
    if len(classes) < 2:
        raise DataError(f"{folder}: no images of 2 classes or more; give {LAYOUT}")
    images: list[np.ndarray] = []
    for file in files:
        image = read_picture(file, max_bytes=max_bytes)
        images.append(image)
        check_count(folder, images, len(files), max_bytes=max_bytes)
        if image.shape != images[0].shape:
            raise DataError(f"{file}: {image.shape}, but {files[0]}: {images[0].shape}; one size")
    labels = np.array([classes.index(file.parent.name) for file in files])
    return _image_set(*_split(np.stack(images), labels), tuple(classes), str(folder))


def _fetched(download_seconds: float) -> ImageSet:
    from jaxml.data.sources import download

    archive = download.fetch("cifar10", download_seconds)
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    try:
        files = read_tar(archive, r"(?:.*/)?(?:data_batch_\d|test_batch)\.bin")
        for name in sorted(files):
            # Each row is a label, then the planes of red, green and blue.
            batch = np.frombuffer(files[name], np.uint8).reshape(-1, 3073)
            parts["test" if "test_batch" in name else "train"].append(batch)
    except (OSError, ValueError) as error:
        raise DataError(f"{archive}: not the archive of cifar10 ({error}); delete it") from error
    if not all(parts.values()):
        raise DataError(f"{archive}: no images in it; delete it")

    def images(batches):
        batch = np.concatenate(batches)
        planes = batch[:, 1:].reshape(-1, 3, 32, 32)
        return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), batch[:, 0]

    return _image_set(images(parts["train"]), images(parts["test"]), CIFAR10, "TFDS cifar10")


def _digits() -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(f"digits of scikit-learn: {error}") from error
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    # Gray levels from 0 to 16.
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return _image_set(*_split(images, labels), tuple("0123456789"), "digits of scikit-learn")


def _split(images: np.ndarray, labels: np.ndarray):
    """Return training and test images, every fifth of each class for the test.

    Classes take turns in both: files lie class after class, and the first rows are to be of all.
    """
    turn = np.empty(len(labels), int)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        turn[rows] = np.arange(len(rows))
    order = np.lexsort((labels, turn))
    test = turn[order] % TEST_EVERY == TEST_EVERY - 1
    part = lambda rows: (images[rows], labels[rows])
    return part(order[~test]), part(order[test])


def _image_set(train, test, classes, what) -> ImageSet:
    """Return the set of pairs of images and labels, if they fit each other."""
    for _, labels in (train, test):
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise DataError(f"{what}: labels are not 0 to {len(classes) - 1}; give {LAYOUT}")
    if not len(test[1]):
        raise DataError(f"{what}: fewer than {TEST_EVERY} images in each class; give more")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"{what}: training and test images differ in size; give one size")
    train, test = ((images, labels.astype(np.int32)) for images, labels in (train, test))
    return ImageSet(*train, *test, classes, what)


def _first(images: ImageSet, rows: int | None, test_rows: int | None) -> ImageSet:
    """Return the first images of each kind, and the source with their number and size."""
    train, test = images.train_images[:rows], images.test_images[:test_rows]
    counts = f"{len(train)} + {len(test)} images of {' x '.join(map(str, train.shape[1:]))}"
    return dataclasses.replace(
        images,
        train_images=train,
        train_labels=images.train_labels[:rows],
        test_images=test,
        test_labels=images.test_labels[:test_rows],
        source=f"{images.source} ({counts}, {len(images.classes)} classes)",
    )
