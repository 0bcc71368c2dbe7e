"""The 500,000 unlabelled Tiny Images, from the user's own copy of the pickle they came as.

Carmon et al., "Unlabeled data improves adversarial robustness" (NeurIPS 2019), chose them from
80 Million Tiny Images, which its authors have withdrawn; nothing is fetched here.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxml.files.errors import DataError, unreadable
from jaxml.files.paths import expanded
from jaxml.files.pickled import array_of, read_pickle

LAYOUT = (
    "the file ti_500K_pseudo_labeled.pickle: a dict with 'data', uint8 [image, height, width, 3]"
)


def load_tiny_images(path: Path | str) -> UInt8[np.ndarray, "image height width 3"]:
    """Return the images of the user's pickle; its labels are left.

    A pickle can run any code. This one is not run: only what makes arrays is followed, and all
    else refused. To use the images as a pool, save them:
    `np.savez("tiny-unlabelled-00.npz", images=images)`.

    Args:
      path: what `LAYOUT` says.

    Returns:
      uint8 `[image, height, width, 3]`.

    Raises:
      DataError: there is no such file, it names anything else than arrays, it is damaged, or it
        does not hold such images.
    """
    path = expanded(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give {LAYOUT}")
    try:
        content = read_pickle(path)
    except (OSError, ValueError) as error:
        accepted = f"give {LAYOUT}"
        raise unreadable(path, error, what="not readable", accepted=accepted) from error
    images = array_of(content.get("data")) if isinstance(content, dict) else None
    if images is None or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise DataError(f"{path}: holds no such images; give {LAYOUT}")
    return images
