"""Finished parts of an experiment on disk, so that an ended run continues where it was."""

import hashlib
import io
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

import jaxml
from jaxml.files.digest import digest
from jaxml.files.npz import read_npz
from jaxml.files.write import write_whole

Arrays = dict[str, np.ndarray]
# Of JAX's settings, those that numbers depend on.
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_disable_most_optimizations",
)
_DIGITS = 16


@dataclass(frozen=True)
class Stages:
    """Finished stages of one experiment.

    A stage is known by the content of all that its result depends on, so that a folder may be
    used again with other data, settings or code: nothing is mixed, and nothing refused. What
    always counts, unsaid, are the package's source, the versions of jax and jaxlib and the
    settings that change numbers. The machine does not: stages of an accelerator are kept where
    a run goes on without one.

    Attributes:
      folder: of their files.
    """

    folder: Path

    def run(self, name: str, depends: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of a stage, from disk if it finished before with the same inputs.

        Args:
          name: of the stage; its file is `name`.npz.
          depends: settings and arrays that the result depends on, all of them, as for
            `jaxml.files.digest.digest`.
          compute: called if there is no such result. When the result is on disk, checkpoints
            of the stage (see `scratch`) are removed, those for other inputs among them.

        Returns:
          Arrays by their names.
        """
        path = self.folder / f"{name}.npz"
        fingerprint = _fingerprint(depends)
        stored = _load(path)
        if stored is not None and str(stored.pop("fingerprint", "")) == fingerprint:
            # Of a run that was ended between both.
            self._remove(self._scratch(name, fingerprint))
            return stored
        arrays = compute()
        buffer = io.BytesIO()
        named = {**arrays, "fingerprint": np.asarray(fingerprint)}
        np.savez_compressed(buffer, **named)  # pyright: ignore[reportArgumentType]
        write_whole(path, buffer.getvalue())
        self._remove(*self._scratches(name))
        return arrays

    def scratch(self, name: str, depends: Mapping[str, Any]) -> Path:
        """Return the folder for checkpoints of a stage.

        Args:
          name: of the stage.
          depends: as for `run`.

        Returns:
          Another path for other inputs or code.
        """
        return self._scratch(name, _fingerprint(depends))

    def _scratch(self, name: str, fingerprint: str) -> Path:
        return self.folder / f"{name}-{fingerprint[:_DIGITS]}"

    def _scratches(self, name: str) -> list[Path]:
        """Return the folders for checkpoints of a stage that are there, whatever the inputs."""
        own = re.compile(rf"{re.escape(name)}-[0-9a-f]{{{_DIGITS}}}")
        return [path for path in self.folder.iterdir() if own.fullmatch(path.name)]

    def _remove(self, *folders: Path) -> None:
        if jax.process_index() == 0:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)


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
        arrays = self.stages.run(self._file(name), self._depends(name), compute)
        self.progress.update(self.bar, advance=1)
        return arrays

    def scratch(self, name: str) -> Path:
        """Return the folder for checkpoints of a stage.

        Args:
          name: of the stage.

        Returns:
          Another path for another seed, other inputs or other code.
        """
        return self.stages.scratch(self._file(name), self._depends(name))

    def _depends(self, name: str) -> dict[str, Any]:
        return {**self.inputs, "run": self.seed, "stage": name}

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
    settings = {name: str(jax.config.values.get(name)) for name in _SETTINGS}
    # A quick run compiles with other optimisations, which round otherwise.
    settings["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")
    return digest({"depends": dict(depends), "settings": settings, "code": _code()})


@lru_cache(maxsize=1)
def _code() -> str:
    """Return a digest of the package's source, and of what runs it, by version."""
    total = hashlib.sha256(f"jax {jax.__version__}, jaxlib {metadata.version('jaxlib')}".encode())
    package = Path(jaxml.__file__).parent
    for file in sorted(package.rglob("*.py")):
        total.update(str(file.relative_to(package)).encode())
        total.update(file.read_bytes())
    return total.hexdigest()
