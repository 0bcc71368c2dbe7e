"""The precision of norms, softmax and logits where parameters are of half precision."""

import numpy as np


def at_least_single(dtype: np.dtype) -> np.dtype:
    """Return the dtype, or float32 for those of half precision."""
    return np.dtype("float32") if dtype.itemsize < 4 else dtype
