"""The direction of imports, the size of files and what `import jaxml` loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxml

ROOT = Path(jaxml.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
METHODS = {"unlearning", "backdoor", "selftraining", "registration", "multifractal", "speech"}
SMALL = {"bilevel", "sharding", "checks", "tracing", "extras", "ranks", "optimizer"}
GROUND = {"augment", "files", *SMALL}
METHOD_GROUND = GROUND - {"files"}
MAY_IMPORT = {
    **{method: METHOD_GROUND for method in METHODS - {"speech"}},
    "speech": {"multifractal", *METHOD_GROUND},
    "augment": {"checks", "tracing"},
    "files": {"extras"},
    "bilevel": {"checks", "tracing", "optimizer"},
    "sharding": {"checks", "tracing"},
    "checks": {"tracing"},
    "tracing": set(),
    "ranks": set(),
    "optimizer": set(),
    "extras": set(),
    "models": GROUND,
    "data": GROUND,
    "training": GROUND,
    "llm": {*METHODS, "models", "data", "training", *GROUND},
    "output": {*METHODS, "models", "data", "training", *GROUND},
    "reproduce": {"llm", "output", *METHODS, "models", "data", "training", *GROUND},
    "commands": {"reproduce", "llm", "output", *METHODS, "models", "data", "training", *GROUND},
    "cli": {"commands", "files", "extras"},
    "__main__": {"cli"},
    "__init__": set(),
}
HEAVY = {
    "PIL",
    "espeakng_loader",
    "gguf",
    "librosa",
    "matplotlib",
    "orbax",
    "pyarrow",
    "rich",
    "safetensors",
    "sklearn",
    "soundfile",
    "tensorflow_datasets",
    "tokenizers",
    "transformers",
}
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))


def part(path):
    """Return the first name below jaxml: a package or a module."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(node, *, inside_functions=True):
    """Yield the dotted names that a syntax tree imports; those of TYPE_CHECKING are not run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        elif inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(child, inside_functions=inside_functions)


@EVERY_FILE
def test_imports_point_downwards(path):
    own = part(path)
    names = [name.split(".") for name in imports(ast.parse(path.read_text()))]
    found = {name[1] for name in names if name[0] == "jaxml" and len(name) > 1} - {own}
    assert own in MAY_IMPORT, f"{own} has no place in the design"
    assert found <= MAY_IMPORT[own]


@EVERY_FILE
def test_heavy_packages_are_imported_where_used(path):
    names = imports(ast.parse(path.read_text()), inside_functions=False)
    assert not {name.split(".")[0] for name in names} & HEAVY


@pytest.mark.parametrize(
    "path", [p for p in FILES if part(p) == "multifractal"], ids=lambda p: p.stem
)
def test_multifractal_stands_on_jax_and_numpy(path):
    packages = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
    assert packages <= {"jax", "numpy", "jaxtyping", "jaxml", *sys.stdlib_module_names}


@EVERY_FILE
def test_file_has_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def loaded_after(statement):
    """Return the top-level packages in a fresh process."""
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_jaxml_loads_no_jax():
    loaded = loaded_after("import jaxml")
    assert "jaxml" in loaded
    assert not loaded & {"jax", "numpy", *HEAVY}


@pytest.mark.parametrize("name", jaxml.__all__)
def test_import_of_a_package_loads_nothing_heavy(name):
    loaded = loaded_after(f"import jaxml.{name}")
    assert "numpy" in loaded
    # flax imports rich.
    assert not loaded & (HEAVY - {"rich"} if name in ("models", "llm") else HEAVY)


def test_packages_are_reached_by_name():
    assert {"multifractal", "sharding"} <= set(jaxml.__all__)
    for name in jaxml.__all__:
        assert getattr(jaxml, name).__name__ == f"jaxml.{name}"
    with pytest.raises(AttributeError, match="no attribute 'nothing'; it has .*multifractal"):
        _ = jaxml.nothing
