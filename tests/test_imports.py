"""The direction of imports, the size of files and packages, and what `import jaxml` loads."""

import ast
import collections
import subprocess
import sys
from pathlib import Path

import pytest

import jaxml

ROOT = Path(jaxml.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
METHODS = {"unlearning", "backdoor", "selftraining", "registration", "multifractal", "speech"}
SMALL = {"bilevel", "sharding", "checks", "tracing", "extras", "ranks", "optimizer", "precision"}
GROUND = {"augment", "files", *SMALL}
METHOD_GROUND = GROUND - {"files"}
MAY_IMPORT = {
    **{method: METHOD_GROUND for method in METHODS - {"speech"}},
    "speech": {"multifractal", *METHOD_GROUND},
    "augment": {"checks", "tracing", "precision"},
    "files": {"extras"},
    "bilevel": {"checks", "tracing", "optimizer"},
    "sharding": {"checks", "tracing"},
    "checks": {"tracing"},
    "tracing": set(),
    "precision": set(),
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


def place(path):
    return path.relative_to(ROOT).as_posix()


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


def packages(path, *, inside_functions=True):
    """Return the top-level packages that a file imports."""
    names = imports(ast.parse(path.read_text()), inside_functions=inside_functions)
    return {name.split(".")[0] for name in names}


def test_imports_point_downwards():
    offenders = []
    for path in FILES:
        own = part(path)
        assert own in MAY_IMPORT, f"{own} has no place in the design"
        names = [name.split(".") for name in imports(ast.parse(path.read_text()))]
        parts = {name[1] for name in names if name[0] == "jaxml" and len(name) > 1} - {own}
        offenders += [f"{place(path)}: {name}" for name in parts - MAY_IMPORT[own]]
    assert not offenders


def test_heavy_packages_are_imported_where_used():
    at_import = {place(path): packages(path, inside_functions=False) & HEAVY for path in FILES}
    assert not {path: names for path, names in at_import.items() if names}


def test_multifractal_stands_on_jax_and_numpy():
    accepted = {"jax", "numpy", "jaxtyping", "jaxml", *sys.stdlib_module_names}
    files = [path for path in FILES if part(path) == "multifractal"]
    assert len(files) > 10
    assert not [place(path) for path in files if packages(path) - accepted]


def test_file_has_at_most_400_lines():
    assert not [place(path) for path in FILES if len(path.read_text().splitlines()) > 400]


def code_lines(path):
    """Return how many lines of a file hold code: no comment, no docstring, no empty line."""
    tree = ast.parse(path.read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    texts = [text for text in texts if isinstance(text, ast.Constant) and text.value is not ...]
    told = {line for text in texts for line in range(text.lineno, text.end_lineno + 1)}
    lines = enumerate(path.read_text().splitlines(), 1)
    return sum(1 for n, line in lines if line.strip() and line.strip()[0] != "#" and n not in told)


def test_no_package_is_a_warehouse():
    sizes = collections.Counter()
    for path in FILES:
        sizes[part(path)] += code_lines(path)
    (name, largest), *_ = sizes.most_common()
    assert largest <= sizes.total() / 4, f"{name}: {largest / sizes.total():.1%}"


def test_no_public_name_hides_a_module():
    offenders = []
    for path in FILES:
        if path.name != "__init__.py":
            continue
        modules = {p.stem for p in path.parent.iterdir() if p.is_dir() or p.suffix == ".py"}
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                bound = [(a.asname or a.name, f"{node.module}.{a.name}") for a in node.names]
            else:
                bound = [(getattr(node, "name", None), "")]
            package = ".".join(("jaxml", *path.parent.relative_to(ROOT).parts))
            offenders += [
                f"{package}.{name}"
                for name, target in bound
                if name in modules and target != f"{package}.{name}"
            ]
    assert not offenders


# In the order of import: what the first of them loads, none of the later is seen to load.
IMPORTS = """
import importlib, sys

def show(name):
    print(name, *{name.split(".")[0] for name in sys.modules})

import jaxml
show("jaxml")
for name in sys.argv[1:]:
    importlib.import_module(f"jaxml.{name}")
    show(name)
"""


def test_imports_load_nothing_heavy():
    # flax imports rich, and those that stand on models import flax.
    names = sorted(jaxml.__all__, key=lambda name: (name == "llm", name == "models"))
    run = subprocess.run(
        [sys.executable, "-c", IMPORTS, *names], capture_output=True, text=True, check=True
    )
    loaded = {line.split()[0]: set(line.split()[1:]) for line in run.stdout.splitlines()}
    assert [*loaded] == ["jaxml", *names]
    assert "jaxml" in loaded["jaxml"] and not loaded["jaxml"] & {"jax", "numpy", *HEAVY}
    for name in names:
        assert not loaded[name] & (HEAVY - {"rich"} if name in ("models", "llm") else HEAVY), name


def test_packages_are_reached_by_name():
    assert {*jaxml.__all__, "__version__"} == set(dir(jaxml))
    assert {"multifractal", "sharding"} <= set(jaxml.__all__)
    for name in jaxml.__all__:
        assert getattr(jaxml, name).__name__ == f"jaxml.{name}"
    with pytest.raises(AttributeError, match="no attribute 'nothing'; it has .*multifractal"):
        _ = jaxml.nothing
