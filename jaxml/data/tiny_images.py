"""The 500,000 unlabelled Tiny Images, from the user's own copy of the pickle they came as.

Carmon et al., "Unlabeled data improves adversarial robustness" (NeurIPS 2019), chose them from
80 Million Tiny Images, which its authors have withdrawn; nothing is fetched here.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxml.data.errors import DataError

LAYOUT = (
    "the file ti_500K_pseudo_labeled.pickle: a dict with 'data', uint8 [image, height, width, 3]"
)
# What the pickle of a dict of arrays names, under its places in numpy 1 and 2.
_ALLOWED = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in (
        (f"{core}.multiarray", "_reconstruct"),
        (f"{core}.multiarray", "scalar"),
        (f"{core}.numeric", "_frombuffer"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    )
}


def load_tiny_images(path: Path | str) -> UInt8[np.ndarray, "image height width 3"]:
    """Return the images of the user's pickle, `[image, height, width, 3]`; its labels are left.

    A pickle can run any code. This one is read by a reader that knows the parts of numpy arrays
    and refuses all else, before anything is called. Nothing else in the package reads pickles;
    to use the images as a pool, save them: `np.savez("tiny-unlabelled-00.npz", images=images)`.

    Args:
      path: what `LAYOUT` says.

    Raises:
      DataError: there is no such file, it names anything else than arrays, it is damaged, or it
        does not hold such images.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: no such file; give {LAYOUT}")
    try:
        with path.open("rb") as file:
            # Written by Python 2 or 3: latin1 is the encoding that numpy's bytes survive.
            found = _ArraysOnly(file, encoding="latin1").load()
    except DataError:
        raise
    # A damaged pickle fails in its opcodes and in numpy, each with errors of its own.
    except Exception as error:
        raise DataError(f"{path}: not readable ({error}); give {LAYOUT}") from error
    images: Any = found.get("data") if isinstance(found, dict) else None
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[-1] != 3
        or 0 in images.shape
    ):
        raise DataError(f"{path}: holds no such images; give {LAYOUT}")
    return images


class _ArraysOnly(pickle.Unpickler):
    """Reads dicts, lists, numbers, texts and numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(f"refused: it asks for {module}.{name}; give {LAYOUT}")
        return super().find_class(module, name)
