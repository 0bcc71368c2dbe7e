"""What the documentation takes for public: the names that a package imports as themselves."""

import ast

import griffe


class Exports(griffe.Extension):
    """Mark what `from a._b import c as c` names in package a as public."""

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        """Change a package that has been read whole."""
        for package in _packages(pkg):
            for name in _exports(package):
                package.members[name].public = True


def _packages(package):
    yield package
    for module in package.modules.values():
        if module.is_init_module and not module.is_alias:
            yield from _packages(module)


def _exports(package):
    for node in ast.parse(package.filepath.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield from (name.name for name in node.names if name.name == name.asname)
