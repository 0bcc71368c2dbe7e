"""What a registration of two files has reached, and whether that can be true."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxml import registration

_BINS = 32
# Shares of the mutual information that interpolation alone, or a field that is fitted to another
# measure, may cost images that are well aligned before.
_BY_ALL, _BY_FIELD = 0.01, 0.05
# A quarter of the foreground that is displaced by more than this share of the image's extent, the
# geometric mean of its sides, is no anatomy: that quarter began at .02 to .044 for brains, heads,
# slices and lungs that were registered well, at .07 where the contrast of a brain was inverted, and
# at .09 for T1 and T2 of a neck by local correlation. The largest tenth or hundredth says less: of
# heads, the necks may move far.
MOST_MOVED = 0.06
_MOVED_PERCENTILE = 75.0


def likeness(
    fixed: Float[np.ndarray, "*volume"],
    moved: Float[np.ndarray, "*volume"],
    counts: Bool[np.ndarray, "*volume"],
) -> dict[str, float]:
    """Return local correlation, mean squared difference and mutual information of two images.

    Args:
      fixed, moved: intensities of 0 to 1.
      counts: which voxels count for the latter two.
    """
    ncc = jax.jit(registration.ncc)(*(jnp.asarray(x, jnp.float32) for x in (fixed, moved)))
    return {
        "ncc": -float(ncc),
        "mse": float(np.mean((fixed[counts] - moved[counts]) ** 2)),
        "mutual_information": mutual_information(fixed[counts], moved[counts]),
    }


def mutual_information(
    first: Float[np.ndarray, " voxel"], second: Float[np.ndarray, " voxel"]
) -> float:
    """Return the mutual information in nats of intensities of 0 to 1, by their joint histogram."""
    joint, _, _ = np.histogram2d(first, second, _BINS, [[0, 1], [0, 1]])
    joint /= joint.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    met = joint > 0
    return float(np.sum(joint[met] * np.log(joint[met] / apart[met])))


def overlaps(
    fixed: Int[np.ndarray, "*volume"], *moved: Int[np.ndarray, "*volume"]
) -> dict[int, list[float]]:
    """Return for each label but 0 the Dice overlap with each of the other volumes."""
    names, numbers = np.unique(np.stack([fixed, *moved]), return_inverse=True)
    ours, *others = numbers.reshape(1 + len(moved), -1)
    count = lambda values: np.bincount(values, minlength=len(names))
    columns = []
    for theirs in others:
        shared = count(ours[ours == theirs])
        columns.append(2 * shared / np.maximum(count(ours) + count(theirs), 1))
    return {
        int(name): [float(column[i]) for column in columns]
        for i, name in enumerate(names)
        if name != 0
    }


def lengths(vectors: Float[np.ndarray, "*volume ndim"]) -> Float[np.ndarray, "*volume"]:
    """Return the lengths of vectors."""
    return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))


def moved_most(in_mm: Float[np.ndarray, "*volume"]) -> float:
    """Return the length of displacement that three voxels in four stay below."""
    return float(np.percentile(in_mm, _MOVED_PERCENTILE))


def implausible(results: dict[str, Any], *, similarity: str, affine: str) -> str | None:
    """Return in one line why a result cannot be true and what to try, None where it may be.

    Args:
      results: with the mutual information of each state, and the lengths of displacement.
      similarity: that was maximized.
      affine: kind of the map before.
    """
    before, middle, after = (
        results["likeness"][state]["mutual_information"] for state in ("before", "affine", "after")
    )
    reasons = []
    if after < (1 - _BY_ALL) * before:
        reasons.append(f"mutual information fell from {before:.4f} (headers) to {after:.4f}")
    if middle < (1 - _BY_ALL) * before:
        reasons.append(
            f"by the affine map mutual information fell from {before:.4f} to {middle:.4f}"
        )
    elif after < (1 - _BY_FIELD) * middle:
        reasons.append(
            f"by the field mutual information fell from {middle:.4f} (affine map) to {after:.4f}"
        )
    share = results["displacement"]["most"] / results["displacement"]["extent"]
    if share > MOST_MOVED:
        reasons.append(
            f"a quarter of the image is displaced by more than {100 * share:.0f}% of its extent"
        )
    if not reasons:
        return None
    tries = [] if similarity == "mi" else ["--similarity mi, for images of other contrast"]
    tries.append("--fixed-mask and --moving-mask")
    tries.append("--affine similarity or rigid" if affine == "affine" else "--affine affine")
    return f"the result is implausible: {'; '.join(reasons)}; try {', '.join(tries)}"
