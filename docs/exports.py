"""What the documentation takes for public: the names that a package imports as themselves.

Griffe reads the sources for mkdocs. Where a function has the name of its file, such as
`multifractal.mfdfa`, Python finds the function and griffe the file; this keeps the function.
"""

import ast

import griffe


class Exports(griffe.Extension):
    """Put what `from a.b import c as c` names in the place of c in package a."""

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        """Change a package that has been read whole."""
        # All are found before one is put in: afterwards the path of a file may be a function's.
        found = [
            (package, name, pkg[source.removeprefix(f"{pkg.name}.")])
            for package in _packages(pkg)
            for name, source in _exports(package)
        ]
        for package, name, value in found:
            if not value.is_module:
                alias = griffe.Alias(name, value, parent=package)
                alias.public = True
                package.set_member(name, alias)


def _packages(package):
    yield package
    for module in package.modules.values():
        if module.is_init_module and not module.is_alias:
            yield from _packages(module)


def _exports(package):
    for node in ast.parse(package.filepath.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                if name.name == name.asname:
                    yield name.name, f"{node.module}.{name.name}"
