"""Files of transforms as the user lists them, read as one chain."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxml import registration
from jaxml.data.transforms import Field, Transform, axes_of, in_voxels, inverted, load_transform
from jaxml.files.errors import DataError
from jaxml.files.paths import expanded

# Before the name of a file whose inverse is meant.
INVERSE = "inverse:"


@dataclasses.dataclass(frozen=True)
class Chain:
    """Transforms from points of the fixed image to points of the moving one.

    Attributes:
      transforms: in the order in which they are applied.
      files: their names, for messages.
      notes: what the user should know of them.
    """

    transforms: tuple[Transform, ...]
    files: str
    notes: tuple[str, ...] = ()

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return axes_of(self.transforms[0])

    @property
    def in_voxels(self) -> bool:
        """Whether points are in voxels, as for images without an affine."""
        return self.transforms[0].unit == "voxels"


def load_chain(files: Sequence[Path], max_bytes: int) -> Chain:
    """Read transforms, `inverse:FILE` for the inverse of one.

    Args:
      files: in the order of antsApplyTransforms.
      max_bytes: most memory that reading one may take.

    Returns:
      `Chain`, whose inverses are computed.

    Raises:
      DataError: there is none, one cannot be read, or they do not fit together.
    """
    if not files:
        raise DataError("no transform; give one or more before the image")
    parts = [(str(file).startswith(INVERSE), _path(file)) for file in files]
    read = [load_transform(path, max_bytes=max_bytes) for _, path in parts]
    names = ", ".join(map(str, files))
    kinds = {(axes_of(t), t.unit) for transforms in read for t in transforms}
    if len(kinds) > 1:
        kinds_of_axes = " and ".join(f"of {n} axes in {unit}" for n, unit in sorted(kinds))
        raise DataError(f"{names}: transforms {kinds_of_axes}; give ones of the same images")
    notes, chain = [], []
    for (undone, path), transforms in zip(parts, read, strict=True):
        if undone:
            thin = [t for t in transforms if isinstance(t, Field) and min(t.vectors.shape[:-1]) < 3]
            if thin:
                raise DataError(f"{path}: its inverse needs 3 voxels or more an axis")
            notes += [f"{path}: {note}" for note in map(_folds, transforms) if note]
            transforms = inverted(transforms, inverse_of)
        chain += transforms
    return Chain((*chain,), names, (*notes,))


def inverse_of(u: np.ndarray) -> np.ndarray:
    """Return the displacement of the inverse map, both in voxels."""
    return np.asarray(jax.jit(registration.inverse)(jnp.asarray(u, jnp.float32)))


def _path(file: Path) -> Path:
    name = str(file)
    return expanded(name.removeprefix(INVERSE)) if name.startswith(INVERSE) else file


def _folds(transform: Transform) -> str:
    """Return what is to be said of a field whose inverse is wanted."""
    if not isinstance(transform, Field):
        return ""
    u = jnp.asarray(in_voxels(transform), jnp.float32)
    folds = int(registration.count_folds(u, scheme="digital"))
    return f"{folds} voxels are folds, where it has no inverse" if folds else ""
