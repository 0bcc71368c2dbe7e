"""Pictures and arrays of images as files hold them, for `images` and `image_rows`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxml.files import pictures
from jaxml.files.errors import DataError, unreadable
from jaxml.files.limits import MAX_BYTES, check_memory
from jaxml.files.npz import read_npz

SUFFIXES = (".png", ".jpg", ".jpeg")


def find_pictures(folder: Path, pattern: str) -> list[Path]:
    """Return the files of pictures in a folder, in order of their paths.

    Args:
      folder: to search.
      pattern: of paths within the folder, as for `Path.glob`.

    Returns:
      Paths of files that are not hidden.
    """
    return sorted(
        file
        for file in folder.glob(pattern)
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def read_picture(file: Path, *, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Return the image of a file.

    Args:
      file: png or jpeg.
      max_bytes: most memory that it may take.

    Returns:
      uint8 `[height, width, channel]`, 1 channel for gray and 3 otherwise.

    Raises:
      DataError: it is not readable, too large, or has more than 8 bits a channel.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        accepted = "give a png or jpeg file"
        raise unreadable(file, error, what="not a readable image", accepted=accepted) from error
    return _decoded(content, str(file), max_bytes)


def read_arrays(path: Path, *, layout: str, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """Return what an npz file holds of images.

    Args:
      path: of the file.
      layout: what is accepted, for the message.
      max_bytes: most memory that they may take.

    Returns:
      Those of the arrays jpeg, offset, label, images and labels that it has.

    Raises:
      DataError: it is not readable, too large, or its images have their channels first.
    """
    names = "jpeg", "offset", "label", "images", "labels"
    try:
        arrays = read_npz(path, *names, max_bytes=max_bytes)
    except (OSError, ValueError) as error:
        accepted = f"give {layout}"
        raise unreadable(path, error, what="not readable", accepted=accepted) from error
    # Loaders import no JAX: the processes that download and speak start sooner without.
    from jaxml import checks

    shape = arrays["images"].shape if "images" in arrays else ()
    if checks.is_channel_first(shape):
        turned = "images.transpose(0, 2, 3, 1) is [image, height, width, channel]"
        raise DataError(f"{path}: images {list(shape)} have their channels first; {turned}")
    return arrays


def read_joined(
    path: Path, *, layout: str, rows: int | None = None, max_bytes: int = MAX_BYTES
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the first images of a file of joined JPEGs.

    Args:
      path: npz with `jpeg`, the bytes of all, `offset`, where each starts and the last ends, and
        perhaps `label`.
      layout: what is accepted, for the message.
      rows: number of images at most; all by default.
      max_bytes: most memory that the images may take.

    Returns:
      uint8 `[image, height, width, channel]`, and labels `[image]` if the file has them.

    Raises:
      DataError: the file or an image is not readable or too large, an array is missing or does
        not fit the others, or the images have several sizes.
    """
    arrays = read_arrays(path, layout=layout, max_bytes=max_bytes)
    if missing := [name for name in ("jpeg", "offset") if name not in arrays]:
        raise DataError(f"{path}: no array {missing[0]}; give {layout}")
    blob, offset, label = arrays["jpeg"], arrays["offset"], arrays.get("label")
    count = len(offset) - 1 if offset.ndim == 1 and offset.dtype.kind in "iu" else 0
    if (
        count < 1
        or blob.dtype != np.uint8
        or offset[0] != 0
        or offset[-1] != blob.size
        or (offset[1:] <= offset[:-1]).any()
        or (label is not None and (label.shape != (count,) or label.dtype.kind not in "iu"))
    ):
        raise DataError(f"{path}: its arrays do not describe images; give {layout}")
    count = count if rows is None else min(rows, count)
    images: list[np.ndarray] = []
    for i in range(count):
        content = blob[offset[i] : offset[i + 1]].tobytes()
        images.append(_decoded(content, f"{path}, image {i}", max_bytes))
        check_count(path, images, count, max_bytes=max_bytes)
    return joined(images, path, np.stack), None if label is None else label[:count]


def check_count(
    what: Path, images: list[np.ndarray], count: int, *, value_bytes: int = 2, max_bytes: int
) -> None:
    """Refuse images by the memory of them all, as soon as the first tells their size.

    Args:
      what: file or folder of the images, for the message.
      images: those that have been read.
      count: how many there are, of one size.
      value_bytes: of a channel of a pixel: as it is read, and in the array of all by default.
      max_bytes: most memory that they may take.

    Raises:
      DataError: they take more.
    """
    if len(images) == 1:
        check_memory(value_bytes * count * images[0].size, max_bytes, prefix=f"{what}: ")


def joined(
    images: list[np.ndarray], what: Path, join: Callable[..., Any] = np.concatenate
) -> np.ndarray:
    """Return images in one array, if they have one size.

    Args:
      images: each `[height, width, channel]` for `numpy.stack`, or `[image, height, width,
        channel]`.
      what: file or folder of the images, for the message.
      join: `numpy.concatenate` or `numpy.stack`.

    Returns:
      `[image, height, width, channel]`.

    Raises:
      DataError: they have several sizes.
    """
    if len({image.shape[-3:] for image in images}) != 1:
        raise DataError(f"{what}: images of several sizes; give one size")
    return join(images)


def _decoded(content: bytes, name: str, max_bytes: int) -> np.ndarray:
    try:
        image = pictures.decode(content, max_bytes=max_bytes)
    except ValueError as error:
        what, accepted = "not a readable image", "give an 8-bit png or jpeg"
        raise unreadable(Path(name), error, what=what, accepted=accepted) from error
    if image.mode[0] in "IF":
        raise DataError(f"{name}: pixels of mode {image.mode}; give 8-bit images")
    is_gray = image.mode in ("1", "L", "LA")
    array = np.asarray(image.convert("L" if is_gray else "RGB"))
    return array[..., None] if is_gray else array
