"""The documentation has every public name and every notebook; mkdocs itself is not needed."""

import ast
import re
from pathlib import Path

import jaxml

ROOT = Path(__file__).parents[1]
NAVIGATION = re.findall(r"^ +- (\S+\.(?:md|py))$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}
SHOWN = [name for text in PAGES.values() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]


def source(name):
    """Return the file of a package or module, None for the name of anything else."""
    path = ROOT.joinpath(*name.split("."))
    found = [p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()]
    return found[0] if found else None


def exports(package):
    """Yield the public names of a package, each with the name of what it stands for."""
    if source(package).name != "__init__.py":
        return
    for node in ast.parse(source(package).read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                if name.name == name.asname:
                    yield f"{package}.{name.name}", f"{node.module}.{name.name}"


def is_module(name, target):
    return name == target and source(target) is not None


def public_modules(package):
    yield package
    for name, target in exports(package):
        if is_module(name, target):
            yield from public_modules(name)


PUBLIC = [m for part in jaxml.__all__ for m in public_modules(f"jaxml.{part}")]


def is_told(target):
    """Tell whether a name has a docstring where it is defined: without, no page shows it."""
    module, _, name = target.rpartition(".")
    body = ast.parse(source(module).read_text()).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return bool(ast.get_docstring(node))
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if targets[0] is not None and ast.unparse(targets[0]) == name:
            text = after.value if isinstance(after, ast.Expr) else None
            return isinstance(text, ast.Constant) and isinstance(text.value, str)
    return False


def test_every_public_module_is_on_one_page():
    assert {"jaxml.multifractal", "jaxml.unlearning.coreset", "jaxml.training"} <= set(PUBLIC)
    assert sorted(SHOWN) == sorted([*PUBLIC, "jaxml.data.sources.tiny_images"])


def test_every_name_of_a_package_is_told():
    names = {name: target for package in PUBLIC for name, target in exports(package)}
    assert not [
        name for name, target in names.items() if not (is_module(name, target) or is_told(target))
    ]


def test_navigation_has_every_page_and_notebook():
    notebooks = [f"notebooks/{path.name}" for path in ROOT.joinpath("notebooks").glob("*.py")]
    assert len(notebooks) >= 6
    assert sorted(NAVIGATION) == sorted([*PAGES, *notebooks])


def test_pictures_that_are_shown_are_there_and_no_others():
    pictures = lambda text: re.findall(r"^!\[.+\]\((\S+)\)$", text, re.MULTILINE)
    readme = pictures((ROOT / "README.md").read_text())
    pages = [f"docs/{path}" for text in PAGES.values() for path in pictures(text)]
    there = [str(path.relative_to(ROOT)) for path in ROOT.joinpath("docs/pictures").iterdir()]
    assert len(readme) >= 5 and pages
    assert sorted({*readme, *pages}) == sorted(there)


def test_pages_link_to_notebooks_that_exist():
    links = [link for text in PAGES.values() for link in re.findall(r"\]\((\S+\.py)\)", text)]
    assert links and all(ROOT.joinpath("docs", link).is_file() for link in links)
