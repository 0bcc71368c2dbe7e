"""Finished parts of an experiment on disk, so that an ended run continues where it was."""

import hashlib
import io
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

import jaxml
from jaxml.files.npz import read_npz
from jaxml.files.write import write_whole

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Stages:
    """Finished stages of one experiment.

    Attributes:
      folder: of their files.
    """

    folder: Path

    def run(self, name: str, depends: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of a stage, from disk if it finished before with the same inputs.

        Args:
          name: of the stage; its file is `name`.npz.
          depends: settings and arrays that the result depends on; the code always counts.
          compute: called if there is no such result.

        Returns:
          Arrays by their names.
        """
        path = self.folder / f"{name}.npz"
        fingerprint = _fingerprint(depends)
        stored = _load(path)
        if stored is not None and str(stored.pop("fingerprint", "")) == fingerprint:
            return stored
        arrays = compute()
        buffer = io.BytesIO()
        named = {**arrays, "fingerprint": np.asarray(fingerprint)}
        np.savez_compressed(buffer, allow_pickle=False, **named)
        write_whole(path, buffer.getvalue())
        return arrays

    def scratch(self, name: str, depends: Mapping[str, Any]) -> Path:
        """Return the folder for checkpoints of a stage.

        Args:
          name: of the stage.
          depends: settings and arrays that the result depends on; the code always counts.

        Returns:
          Another path for other inputs or code.
        """
        return self.folder / f"{name}-{_fingerprint(depends)[:16]}"


@dataclass(frozen=True)
class SeedStages:
    """Stages of one seed of a study, by what a stage is called, with their progress.

    Attributes:
      stages: of the study.
      inputs: settings and arrays that all seeds depend on.
      seed: number of the seed, from 0.
      progress: of rich.
      bar: task of `progress` that shows which stage runs and how many have.
      title: of the bar, with the name of the stage behind it.
      front: of the names of the files.
    """

    stages: Stages
    inputs: Mapping[str, Any]
    seed: int
    progress: Any
    bar: Any
    title: str
    front: str = ""

    def run(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of a stage, as `Stages.run` does.

        Args:
          name: of the stage.
          compute: called if there is no such result.

        Returns:
          Arrays by their names.
        """
        self.progress.update(self.bar, description=f"{self.title}, {name}")
        arrays = self.stages.run(self._file(name), {**self._depends(), "stage": name}, compute)
        self.progress.update(self.bar, advance=1)
        return arrays

    def scratch(self, name: str) -> Path:
        """Return the folder for checkpoints of a stage.

        Args:
          name: of the stage.

        Returns:
          Another path for another seed, other inputs or other code.
        """
        return self.stages.scratch(self._file(f"training-{name}"), self._depends())

    def _depends(self) -> dict[str, Any]:
        return {**self.inputs, "run": self.seed}

    def _file(self, name: str) -> str:
        plain = name.replace(",", "").replace(":", "").replace(" ", "-")
        return f"{self.front}{plain}-{self.seed}"


def flat_arrays(prefix: str, tree: PyTree) -> Arrays:
    """Return the leaves of nested dicts as arrays of a stage.

    Args:
      prefix: of their names.
      tree: nested dicts of arrays.

    Returns:
      Arrays by "prefix/name/name".
    """
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {f"{prefix}/{name}": np.asarray(value) for name, value in flat.items()}


def tree_of(prefix: str, arrays: Arrays) -> PyTree:
    """Return the nested dicts that `flat_arrays` took apart.

    Args:
      prefix: of the names of their arrays.
      arrays: of a stage, others among them.

    Returns:
      Nested dicts of JAX arrays.
    """
    flat = {
        name.removeprefix(f"{prefix}/"): jnp.asarray(value)
        for name, value in arrays.items()
        if name.startswith(f"{prefix}/")
    }
    return traverse_util.unflatten_dict(flat, sep="/")


def _load(path: Path) -> Arrays | None:
    if not path.exists():
        return None
    try:
        # Written by this library: its size is what the run took before.
        return read_npz(path, max_bytes=sys.maxsize)
    except (OSError, ValueError) as error:
        logging.getLogger(__name__).warning("%s: damaged (%s), computed again", path, error)
        return None


def _fingerprint(depends: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(_code())
    for name, value in sorted(depends.items()):
        digest.update(name.encode())
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        else:
            digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _code() -> bytes:
    """Return a digest of the package's source: results of other code are not reused."""
    digest = hashlib.sha256()
    package = Path(jaxml.__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode())
        digest.update(file.read_bytes())
    return digest.digest()
