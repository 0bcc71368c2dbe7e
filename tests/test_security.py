"""The package's source: no code of a file is run, and nothing of one is unpickled."""

import ast
from pathlib import Path

import jaxml

ROOT = Path(jaxml.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Each of these runs what a file says, or can be made to.
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
MODULES |= {"yaml", "runpy", "code", "xml", "pty"}
CALLS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
METHODS = {"os.system", "os.popen", "torch.load", "np.fromfile", "np.memmap", "tempfile.mktemp"}
METHODS |= {"shutil.unpack_archive", "subprocess.getoutput", "subprocess.getstatusoutput"}
# Of an archive: members are read, not written where they say.
EXTRACT = {"extract", "extractall"}
OTHER_EXTRACT = "keywords.extract"
# The user's own model, a Python file that `jaxml identify` is given to run.
RUNS_A_FILE = {"commands/identify_files.py"}


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def literal(call, name):
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def findings(path):
    yield from (f"import {name}" for name in names(path) if name in MODULES)
    for call, name in calls(path):
        last = name.rpartition(".")[2]
        if name in CALLS or name in METHODS or (last in EXTRACT and name != OTHER_EXTRACT):
            yield name
        if last == "load" and name.split(".")[0] in ("np", "numpy", "jnp"):
            if literal(call, "allow_pickle") != "False":
                yield f"{name} without allow_pickle=False"
        if literal(call, "allow_pickle") not in (None, "False"):
            yield f"{name} with allow_pickle"
        if literal(call, "shell") not in (None, "False"):
            yield f"{name} with a shell"
        if last == "from_pretrained" and literal(call, "trust_remote_code") != "False":
            yield f"{name} may run code of a folder"
        if last == "exec_module" and path.relative_to(ROOT).as_posix() not in RUNS_A_FILE:
            yield f"{name} runs a file"


def test_no_file_is_run_or_unpickled():
    assert not [f"{path.relative_to(ROOT)}: {what}" for path in FILES for what in findings(path)]


UNSAFE = [
    "import pickle",
    "from pickle import load",
    "import torch; torch.load(path)",
    "np.load(path)",
    "np.load(path, allow_pickle=True)",
    "np.save(path, x, allow_pickle=True)",
    "eval(text)",
    "exec(text)",
    "subprocess.run(text, shell=True)",
    "files.extractall(folder)",
    "AutoTokenizer.from_pretrained(folder)",
    "loader.exec_module(module)",
]


def test_each_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr("test_security.ROOT", tmp_path)
    overlooked = []
    for line in UNSAFE:
        (tmp_path / "a.py").write_text(line)
        overlooked += [] if list(findings(tmp_path / "a.py")) else [line]
    assert not overlooked


def test_what_is_safe_is_not_found(tmp_path, monkeypatch):
    monkeypatch.setattr("test_security.ROOT", tmp_path)
    lines = (
        "np.load(path, allow_pickle=False)\njson.loads(text)\nre.compile(text)\nlax.scan(load)\n"
    )
    (tmp_path / "a.py").write_text(lines)
    assert not list(findings(tmp_path / "a.py"))


def test_there_is_something_to_look_at():
    assert len(FILES) > 100
