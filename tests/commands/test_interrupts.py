"""Ctrl-C ends every command at the first try: status 130, one line, no traceback."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

START = """
import gc, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from jaxml import cli

def work(args):
    {body}

cli._run = work
sys.exit(cli.main(["mfdfa", "x.npy"]))
"""
BODIES = {
    "at once": "signal.raise_signal(signal.SIGINT)",
    "lost in a callback of the garbage collector": """
    def callback(phase, info):
        gc.callbacks.remove(callback)
        signal.raise_signal(signal.SIGINT)
    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(60)""",
    "lost in a finalizer": """
    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)
    Finalized()
    time.sleep(60)""",
    "made another error": """
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError("INTERNAL: CpuCallback error")""",
    "swallowed": """
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass""",
    "while nothing reacts": """
    import os, threading
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(60)""",
    "in an import": """
    import importlib.abc, importlib.machinery, importlib.util
    class Interrupted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path=None, target=None):
            if name == "interrupted":
                return importlib.util.spec_from_loader(name, self)
        def create_module(self, spec):
            return None
        def exec_module(self, module):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                sys.stderr.write("a trace, as of extensions in C")
    sys.meta_path.insert(0, Interrupted())
    import interrupted""",
}
# As `python -m jaxml`, and also where this process is one that Ctrl-C does not reach.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from jaxml.__main__ import run
run()
"""


@pytest.mark.parametrize("case", BODIES)
def test_ctrl_c_is_one_line_wherever_it_comes(case):
    code = START.format(body=BODIES[case])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (run.returncode, run.stderr) == (130, "jaxml mfdfa: interrupted\n")


def test_an_error_without_ctrl_c_is_no_interruption():
    code = START.format(body="raise RuntimeError('a bug')")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1 and "RuntimeError: a bug" in run.stderr


@pytest.mark.study
@pytest.mark.parametrize("command", ["mfdfa", "register", "warp", "unfold", "identify"])
def test_a_command_is_interrupted_at_any_moment(command, tmp_path):
    rng = np.random.default_rng([*command.encode()])
    np.save(tmp_path / "a.npy", rng.normal(size=4096))
    np.save(tmp_path / "b.npy", rng.uniform(size=(64, 64)).astype(np.float32))
    np.savez(tmp_path / "c.npz", images=rng.integers(0, 255, (200, 8, 8, 1), np.uint8))
    np.savez(tmp_path / "d.npz", displacement=rng.normal(size=(60, 60, 60, 3)))
    np.save(tmp_path / "e.npy", np.zeros((60, 60, 60)))
    (tmp_path / "model.py").write_text("logits_fn = lambda x: x.mean((1, 3)) * 9\n")
    arguments = {
        "mfdfa": "a.npy",
        "register": "b.npy b.npy --steps 100000",
        "warp": "inverse:d.npz e.npy",
        "unfold": "d.npz",
        "identify": "--images c.npz --model model.py --rounds 1000",
    }
    place = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    interrupted = 0
    for delay in rng.uniform(0.3, 6, 6):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, command, *arguments[command].split()],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=100)[1]
        # After its results it has nothing to tell of, and ends by the signal.
        if process.returncode in (0, -signal.SIGINT) and "Traceback" not in errors:
            continue
        interrupted += 1
        # Python itself may still be starting.
        assert process.returncode == 130, errors
        assert errors.endswith("interrupted\n") and "Traceback" not in errors, errors
    assert interrupted
