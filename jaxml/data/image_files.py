"""Pictures and arrays of images as files hold them, for `images` and `image_rows`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxml.files import pictures
from jaxml.files.errors import DataError
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


def read_picture(file: Path) -> np.ndarray:
    """Return the image of a file.

    Args:
      file: png or jpeg.

    Returns:
      uint8 `[height, width, channel]`, 1 channel for gray and 3 otherwise.

    Raises:
      DataError: it is not readable, or has more than 8 bits a channel.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: not a readable image ({error})") from error
    return _decoded(content, str(file))


def read_arrays(path: Path, *, layout: str) -> dict[str, np.ndarray]:
    """Return what an npz file holds of images.

    Args:
      path: of the file.
      layout: what is accepted, for the message.

    Returns:
      Those of the arrays jpeg, offset, label, images and labels that it has.

    Raises:
      DataError: it is not readable.
    """
    try:
        return read_npz(path, "jpeg", "offset", "label", "images", "labels")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); give {layout}") from error


def read_joined(
    path: Path, *, layout: str, rows: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the first images of a file of joined JPEGs.

    Args:
      path: npz with `jpeg`, the bytes of all, `offset`, where each starts and the last ends, and
        perhaps `label`.
      layout: what is accepted, for the message.
      rows: number of images at most; all by default.

    Returns:
      uint8 `[image, height, width, channel]`, and labels `[image]` if the file has them.

    Raises:
      DataError: the file or an image is not readable, an array is missing or does not fit the
        others, or the images have several sizes.
    """
    arrays = read_arrays(path, layout=layout)
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
    images = [
        _decoded(blob[offset[i] : offset[i + 1]].tobytes(), f"{path}, image {i}")
        for i in range(count)
    ]
    return joined(images, path, np.stack), None if label is None else label[:count]


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


def _decoded(content: bytes, name: str) -> np.ndarray:
    try:
        image = pictures.decode(content)
    except ValueError as error:
        raise DataError(f"{name}: not a readable image ({error})") from error
    if image.mode[0] in "IF":
        raise DataError(f"{name}: pixels of mode {image.mode}; give 8-bit images")
    is_gray = image.mode in ("1", "L", "LA")
    array = np.asarray(image.convert("L" if is_gray else "RGB"))
    return array[..., None] if is_gray else array
