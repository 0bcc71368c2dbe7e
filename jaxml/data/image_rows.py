"""All images of a folder or an npz as rows, without classes."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxml.data.image_files import (
    check_count,
    find_pictures,
    read_arrays,
    read_joined,
    read_picture,
)
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES, check_memory
from jaxml.files.paths import expanded

LAYOUT = (
    "a folder of png or jpg of one size, in it or in folders of it, or an npz with images "
    "([image, height, width, channel], uint8 or 0 to 1) or with jpeg and offset"
)


@dataclasses.dataclass(frozen=True)
class ImageRows:
    """Images in a fixed order, without classes.

    Attributes:
      images: float32 from 0 to 1, `[image, height, width, channel]`.
      files: path of each image within the folder; None for rows of an npz.
      skipped: one line for each file that was not readable.
    """

    images: Float[np.ndarray, "image height width channel"]
    files: tuple[str, ...] | None
    skipped: tuple[str, ...]


def load_rows(
    path: Path | str, *, skip_unreadable: bool = False, max_bytes: int = MAX_BYTES
) -> ImageRows:
    """Return all images of a folder, in order of their paths, or of an npz.

    Args:
      path: what `LAYOUT` says.
      skip_unreadable: leave out files of a folder that are not readable, and say which.
      max_bytes: most memory that reading the images may take.

    Returns:
      The images, and which files they are of.

    Raises:
      DataError: there is no such path, no image in it, one is not readable or of another size
        than the first, they are too large, or an npz holds something else than images.
    """
    path = expanded(path)
    if path.is_dir():
        return _rows_of_folder(path, skip_unreadable, max_bytes)
    if not path.is_file():
        raise DataError(f"{path}: no such folder or file; give {LAYOUT}")
    settings = {"layout": LAYOUT, "max_bytes": max_bytes}
    arrays = read_arrays(path, **settings)
    images = read_joined(path, **settings)[0] if "jpeg" in arrays else arrays.get("images")
    if images is None:
        raise DataError(f"{path}: no array images; give {LAYOUT}")
    numbers = images.dtype == np.uint8 or images.dtype.kind == "f"
    if not numbers or images.ndim != 4 or 0 in images.shape:
        raise DataError(f"{path}: images is {images.dtype}{list(images.shape)}; give {LAYOUT}")
    if images.dtype.kind == "f" and not ((images >= 0) & (images <= 1)).all():
        raise DataError(f"{path}: images are not all from 0 to 1; give {LAYOUT}")
    check_memory((images.itemsize + 4) * images.size, max_bytes, prefix=f"{path}: ")
    return ImageRows(_unit(images), None, ())


def _rows_of_folder(folder: Path, skip_unreadable: bool, max_bytes: int) -> ImageRows:
    images: list[np.ndarray] = []
    files, skipped = [], []
    paths = sorted([*find_pictures(folder, "*"), *find_pictures(folder, "*/*")])
    for file in paths:
        try:
            image = read_picture(file, max_bytes=max_bytes)
        except DataError as error:
            if not skip_unreadable:
                raise
            skipped.append(str(error))
            continue
        if images and image.shape != images[0].shape:
            other = f"{folder / files[0]}: {images[0].shape}"
            raise DataError(f"{file}: {image.shape}, but {other}; one size")
        images.append(image)
        # As bytes, and as float32.
        check_count(folder, images, len(paths), value_bytes=1 + 4, max_bytes=max_bytes)
        files.append(file.relative_to(folder).as_posix())
    if not images:
        raise DataError(f"{folder}: no readable images; give {LAYOUT}")
    return ImageRows(_unit(np.stack(images)), tuple(files), tuple(skipped))


def _unit(images: np.ndarray) -> np.ndarray:
    single = images.astype(np.float32, order="C")
    return np.divide(single, 255, out=single) if images.dtype == np.uint8 else single
