"""What a job of tests/fault_worker.py has left in its folder, to compare with another run of it."""

import json
import re
from pathlib import Path

import numpy as np
from safetensors import safe_open

from jaxml.files.npz import read_npz


def results(out: Path) -> dict[str, object]:
    """Return what a job has found by file and name: all that no clock measured."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if _is_whole(path, out)):
        name = str(path.relative_to(out))
        if path.suffix == ".npz":
            arrays = _unclocked(path.stem, read_npz(path))
            found |= {f"{name}: {key}": value for key, value in arrays.items()}
        elif name == "results.json":
            found[name] = _untimed(json.loads(path.read_text()))
        elif name == "report.md":
            found[name] = _without_seconds(path.read_text())
        elif name != "report.html":
            found[name] = path.read_bytes()
    return found


def _is_whole(path: Path, out: Path) -> bool:
    """Return whether it is a file under its last name, and none of a checkpoint."""
    parts = path.relative_to(out).parts
    is_hidden = any(part.startswith(".") or part.endswith(".partial") for part in parts)
    return (
        path.is_file() and not is_hidden and not any(part.split(".")[0].isdigit() for part in parts)
    )


def _unclocked(stage: str, arrays):
    if stage == "timing":
        return {"fingerprint": arrays["fingerprint"]}
    found = {name: array for name, array in arrays.items() if not name.startswith("seconds/")}
    if "measures" in arrays:
        found["values"] = arrays["values"][:, arrays["measures"] != "seconds"]
    return found


def _untimed(value):
    if isinstance(value, dict):
        return {k: _untimed(v) for k, v in value.items() if k not in ("seconds", "timing")}
    return value


def _without_seconds(report: str) -> list[str]:
    """Return the lines of a report without the columns of seconds."""
    lines, kept = [], None
    for line in report.splitlines():
        cells = line.split(" | ")
        if not line.startswith("|"):
            kept = None
        elif kept is None:
            heads = [cell.strip("| ") for cell in cells]
            kept = [i for i, head in enumerate(heads) if head not in ("s", "seconds")]
        if kept is not None:
            line = " | ".join(cells[i] for i in kept if i < len(cells))
        if not re.fullmatch(r"\d+ s\.", line):
            lines.append(line)
    return lines


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def assert_whole(out: Path) -> None:
    """Every file that is there under its name can be read."""
    for path in (path for path in out.rglob("*") if _is_whole(path, out)):
        if path.suffix == ".npz":
            read_npz(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            safe_open(path, framework="numpy")
        elif path.suffix == ".png" and path.parent.name != "stages":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")


def finished(out: Path) -> dict[Path, tuple[int, int]]:
    """Return the stages that are finished, each with what a second writing would change."""
    found = {path: path.stat() for path in out.rglob("stages/*.npz")}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


def newest_checkpoints(out: Path) -> dict[str, int]:
    """Return the last step of each folder of checkpoints."""
    found: dict[str, int] = {}
    for path in out.rglob("*"):
        if path.is_dir() and path.name.isdigit():
            place = str(path.parent)
            found[place] = max(int(path.name), found.get(place, 0))
    return found
