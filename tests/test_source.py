"""The source of the package: errors in one form, and pytrees registered in one way."""

import ast
import re
from pathlib import Path

import pytest

import jaxml

ROOT = Path(jaxml.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}


def syntax(path):
    return ast.walk(ast.parse(path.read_text()))


def last_name(node):
    """Return `c` for `a.b.c` and for a call of it."""
    node = node.func if isinstance(node, ast.Call) else node
    return ast.unparse(node).rpartition(".")[2] if node is not None else None


def raises_of(name, nodes):
    return [n.lineno for n in nodes if isinstance(n, ast.Raise) and last_name(n.exc) == name]


def partly_registered(nodes):
    """Yield the lines that name `register_dataclass` otherwise than as the whole decorator."""
    nodes = list(nodes)
    bare = {d for n in nodes if isinstance(n, ast.ClassDef) for d in n.decorator_list}
    for node in nodes:
        named = isinstance(node, ast.Attribute) and node.attr == "register_dataclass"
        if (named or getattr(node, "id", None) == "register_dataclass") and node not in bare:
            yield node.lineno


def refusals(nodes):
    """Yield line, name and text of each `refused(name, value, text)`; None for what is computed."""
    for node in nodes:
        if isinstance(node, ast.Call) and last_name(node) == "refused":
            constants = [a.value if isinstance(a, ast.Constant) else None for a in node.args]
            yield node.lineno, constants


def offenders(rule):
    found = {name: list(rule(syntax(path))) for name, path in FILES.items()}
    return [f"{name}:{line}" for name, lines in found.items() for line in lines]


def test_bad_arguments_are_refused_by_the_checks():
    by_hand = offenders(lambda nodes: raises_of("ValueError", nodes))
    assert not [place for place in by_hand if not place.startswith("checks.py:")]


def test_dataclasses_are_registered_by_the_bare_decorator():
    assert not offenders(partly_registered)


def test_every_refusal_has_name_value_and_what_is_accepted():
    calls = {name: list(refusals(syntax(path))) for name, path in FILES.items()}
    assert sum(map(len, calls.values())) > 10
    for path, found in calls.items():
        for line, constants in found:
            assert len(constants) == 3, f"{path}:{line}"
            name, _, accepted = constants
            assert name is None or re.fullmatch(r"[a-z_].*", name), f"{path}:{line}"
            assert accepted is None or re.fullmatch(r"(?!accepted|give).+[^.]", accepted), (
                f"{path}:{line}"
            )


def test_checks_make_their_message_in_one_place():
    nodes = list(syntax(FILES["checks.py"]))
    calls = [n for n in nodes if isinstance(n, ast.Call) and last_name(n) == "ValueError"]
    assert [ast.unparse(call) for call in calls] == [
        "ValueError(f'{name}={what}: accepted is {accepted}')"
    ]
    raised = [n.exc for n in nodes if isinstance(n, ast.Raise)]
    assert len(raised) > 10 and {last_name(error) for error in raised} == {"refused"}


@pytest.mark.parametrize(
    ("rule", "source", "lines"),
    [
        (lambda n: raises_of("ValueError", n), "raise ValueError", [1]),
        (lambda n: raises_of("ValueError", n), "def f():\n  raise ValueError(x) from e", [2]),
        (lambda n: raises_of("ValueError", n), "raise\nraise OSError(1)", []),
        (partly_registered, "@jax.tree_util.register_dataclass\nclass A: pass", []),
        (partly_registered, "@partial(jax.tree_util.register_dataclass, x=1)\nclass A: pass", [1]),
        (partly_registered, "@register_dataclass(x=1)\nclass A: pass", [1]),
        (partly_registered, "tree_util.register_dataclass(A, [], [])", [1]),
    ],
)
def test_what_a_rule_finds(rule, source, lines):
    assert list(rule(ast.walk(ast.parse(source)))) == lines
