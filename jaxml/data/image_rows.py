"""All images of a folder or an npz as rows, without classes."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxml.data.image_files import find_pictures, read_arrays, read_joined, read_picture
from jaxml.files.errors import DataError
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


def load_rows(path: Path | str, *, skip_unreadable: bool = False) -> ImageRows:
    """Return all images of a folder, in order of their paths, or of an npz.

    Args:
      path: what `LAYOUT` says.
      skip_unreadable: leave out files of a folder that are not readable, and say which.

    Returns:
      The images, and which files they are of.

    Raises:
      DataError: there is no such path, no image in it, one is not readable or of another size
        than the first, or an npz holds something else than images.
    """
    path = expanded(path)
    if path.is_dir():
        return _rows_of_folder(path, skip_unreadable)
    if not path.is_file():
        raise DataError(f"{path}: no such folder or file; give {LAYOUT}")
    arrays = read_arrays(path, layout=LAYOUT)
    is_joined = "jpeg" in arrays
    images = read_joined(path, layout=LAYOUT)[0] if is_joined else arrays.get("images")
    if images is None:
        raise DataError(f"{path}: no array images; give {LAYOUT}")
    numbers = images.dtype == np.uint8 or images.dtype.kind == "f"
    if not numbers or images.ndim != 4 or 0 in images.shape:
        raise DataError(f"{path}: images is {images.dtype}{list(images.shape)}; give {LAYOUT}")
    if images.dtype.kind == "f" and not ((images >= 0) & (images <= 1)).all():
        raise DataError(f"{path}: images are not all from 0 to 1; give {LAYOUT}")
    return ImageRows(_unit(images), None, ())


def _rows_of_folder(folder: Path, skip_unreadable: bool) -> ImageRows:
    images, files, skipped = [], [], []
    for file in sorted([*find_pictures(folder, "*"), *find_pictures(folder, "*/*")]):
        try:
            image = read_picture(file)
        except DataError as error:
            if not skip_unreadable:
                raise
            skipped.append(str(error))
            continue
        if images and image.shape != images[0].shape:
            other = f"{folder / files[0]}: {images[0].shape}"
            raise DataError(f"{file}: {image.shape}, but {other}; one size")
        images.append(image)
        files.append(file.relative_to(folder).as_posix())
    if not images:
        raise DataError(f"{folder}: no readable images; give {LAYOUT}")
    return ImageRows(_unit(np.stack(images)), tuple(files), tuple(skipped))


def _unit(images: np.ndarray) -> np.ndarray:
    single = images.astype(np.float32, order="C")
    return single / np.float32(255) if images.dtype == np.uint8 else single
