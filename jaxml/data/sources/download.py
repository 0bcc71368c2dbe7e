"""Archives that TensorFlow Datasets names, fetched by it without TensorFlow.

TFDS names, fetches, verifies and caches an archive; its builders would need TensorFlow, so the
content is read elsewhere. A download has no time limit of its own in TFDS: it runs in a process
(`python -m jaxml.data.sources.download NAME FOLDER`) that is ended when nothing arrives.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from jaxml.files.errors import DataError
from jaxml.files.paths import expanded


def fetch(name: str, stall_seconds: float) -> Path:
    """Return the archive of a data set of TFDS, from its cache or from its source.

    Args:
      name: of a data set with one archive.
      stall_seconds: end the download when no byte arrives for so long.

    Returns:
      Path of the archive.

    Raises:
      DataError: TFDS is not installed, or the download stalls or fails.
    """
    downloads = expanded(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")) / "downloads"
    before = _unfinished(downloads, name)
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "jaxml.data.sources.download", name, str(downloads)],
        env={**os.environ, "PYTHONPATH": own_paths()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    arrived, since = 0, time.monotonic()
    try:
        while True:
            try:
                out, errors = child.communicate(timeout=min(0.5, stall_seconds))
                break
            except subprocess.TimeoutExpired:
                size = sum(_size(folder) for folder in _unfinished(downloads, name) - before)
                if size != arrived:
                    arrived, since = size, time.monotonic()
                elif time.monotonic() - since > stall_seconds:
                    reason = f"nothing arrived for {stall_seconds:g} s"
                    raise DataError(f"TFDS {name}: {reason}") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
        if child.returncode:
            for folder in _unfinished(downloads, name) - before:
                shutil.rmtree(folder, ignore_errors=True)
    if child.returncode:
        reason = (errors.strip() or f"exit status {child.returncode}").splitlines()[-1]
        raise DataError(f"TFDS {name}: {reason[:200]}")
    return Path(out.strip().splitlines()[-1])


def own_paths() -> str:
    """Return where a child process is to find modules: where this one does, and `-P` no more.

    Else Python would look first where it is started, which may be a folder of anyone's files.
    """
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def _unfinished(downloads: Path, name: str) -> set[Path]:
    """Return the folders that TFDS writes downloads into until they are complete."""
    return set(downloads.glob(f"{name}/*.tmp.*"))


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed meanwhile
            pass
    return total


def _serve(name: str, downloads: Path) -> None:
    """Print the path of the archive, fetched unless TFDS has it."""
    import tensorflow_datasets as tfds

    known = dict(tfds.builder_cls(name).url_infos or {})
    manager = tfds.download.DownloadManager(
        download_dir=downloads, url_infos=known, dataset_name=name
    )
    print(manager.download(*known))


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
