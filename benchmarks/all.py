"""All benchmarks, one after another, in one report.

    python benchmarks/all.py [--quick] [--sections ...] [--out FILE]

Each script of this folder runs in a process of its own with its sections; one that fails leaves
a line, and the others run. The last table of the report has every ratio of those before it.
"""

import functools
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness

FOLDER = Path(__file__).parent
SCRIPTS = (
    "multifractal", "registration", "registration_peers", "registration_tools", "backdoor",
    "selftraining", "unlearning", "coreset", "scaling",
)  # fmt: skip
PACKAGES = (
    "jaxml-methods", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "torch", "transformers",
    "MFDFA", "mf-toolkit", "fathon", "neurokit2", "antspyx", "itk-elastix",
)  # fmt: skip


def main() -> int:
    """Run the scripts asked for and print, and write, their Markdown as one report."""
    parser = harness.parser("All benchmarks in one report.", SCRIPTS)
    parser.set_defaults(out=Path("benchmarks.md"))
    options = harness.parsed(parser)
    arguments = ["--quick"] if options.quick else []
    # A process that has seen a GPU keeps its memory from the scripts.
    with harness.child() as child:
        lines = child.submit(head).result()
    chapters = {
        name: functools.partial(chapter, FOLDER / f"{name}.py", arguments) for name in SCRIPTS
    }
    return harness.run(lines, chapters, options, ratios)


def head() -> list[str]:
    """Return the title, and where, when and with which versions all was measured."""
    return list(harness.machine("Benchmarks of jaxml", PACKAGES, "Each part says what it takes."))


def chapter(script: Path, arguments: Sequence[str]) -> Iterator[str]:
    """Yield what a script prints, its headings a level lower, and how it ended.

    Args:
      script: file to run.
      arguments: of its command line.
    """
    yield ""
    start = time.perf_counter()
    command = [sys.executable, str(script), *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        with process:
            for line in process.stdout or ():
                yield ("#" if line.startswith("#") else "") + line.rstrip("\n")
        errors.seek(0)
        told = errors.read().strip().splitlines()
    seconds = f"{time.perf_counter() - start:.0f} s"
    yield ""
    if process.returncode:
        reason = told[-1] if told else "without a message"
        yield f"**{script.stem} failed** after {seconds}, exit code {process.returncode}: {reason}"
    else:
        yield f"{script.stem}: {seconds}."


def ratios(lines: Sequence[str]) -> Iterator[str]:
    """Yield one table of every ratio of jaxml's in the tables of a report.

    Args:
      lines: of the report; a ratio is in a column whose name is "one thing / another", or "of
        PyTorch's" for memory. Where that other is "this", rows of jaxml begin with its name.
    """
    yield "\n## All ratios\n"
    yield "| of | where | row | what | ratio |"
    yield "|---|---|---|---|--:|"
    part = section = ""
    columns: list[str] = []
    for line in "\n".join(lines).splitlines():
        if line.startswith("## "):
            part = line.removeprefix("## ").partition(":")[0]
        elif line.startswith("### "):
            section = line.removeprefix("### ")
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not columns:
            columns = cells
        for name, cell in zip(columns, cells, strict=True):
            of_row = name.endswith("/ this") or name == "of PyTorch's"
            ours = cells[0].startswith("jaxml") if of_row else " / " in name
            if ours and re.fullmatch(r"[\d.,]+", cell):
                yield f"| {part} | {section} | {cells[0]} | {name} | {cell} |"


if __name__ == "__main__":
    sys.exit(main())
