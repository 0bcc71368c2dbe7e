"""The training loop against closed forms and a plain loop, and what stops and breaks it."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml.files.errors import DataError
from jaxml.sharding import data_mesh
from jaxml.training import fit
from jaxml.training.loop import _has_convolution

KEY = jax.random.key(3)


def regression(rows=24, dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3))
    return {"x": jnp.asarray(x, dtype), "y": jnp.asarray(rng.normal(size=rows), dtype)}


def start(dtype=np.float64):
    return {"w": jnp.zeros(3, dtype)}


def loss(params, data, key):
    del key
    error = data["x"] @ params["w"] - data["y"]
    return jnp.mean(error**2), {"worst": jnp.max(jnp.abs(error))}


def noisy_loss(params, data, key):
    value, metrics = loss(params, data, key)
    return value + params["w"] @ jax.random.normal(key, (3,), params["w"].dtype), metrics


ADAM = optax.adam(1e-2)
RATED = optax.inject_hyperparams(optax.sgd)


def run(folder=None, loss=noisy_loss, **changes):
    arguments = dict(optimizer=ADAM, steps=25, chunk=10, batch_size=5, folder=folder)
    data = changes.pop("data", regression())
    params = changes.pop("params", start())
    return fit(changes.pop("key", KEY), loss, params, data, **{**arguments, **changes})


@functools.cache
def unbroken():
    return run()


def assert_equal_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_regression_reaches_the_closed_form():
    data = regression()
    found = fit(KEY, loss, start(), data, optimizer=optax.sgd(0.2), steps=400)
    expected = np.linalg.lstsq(*map(np.asarray, (data["x"], data["y"])), rcond=None)[0]
    np.testing.assert_allclose(found.params["w"], expected, atol=1e-12)
    assert found.step == 400
    residual = np.asarray(data["y"]) - np.asarray(data["x"]) @ expected
    np.testing.assert_allclose(found.history["loss"][-1], np.mean(residual**2), rtol=1e-12)
    np.testing.assert_allclose(found.history["worst"][-1], np.abs(residual).max(), rtol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_equals_a_plain_loop(dtype, tolerance):
    data, params = regression(dtype=dtype), start(dtype)
    state, losses = ADAM.init(params), []
    for i in range(25):
        gradient = jax.value_and_grad(noisy_loss, has_aux=True)
        (value, _), slope = gradient(params, data, jax.random.fold_in(KEY, i))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = ADAM.update(slope, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(value)
    given = start(dtype)
    found = fit(KEY, noisy_loss, given, data, optimizer=ADAM, steps=25, chunk=10)
    assert found.params["w"].dtype == dtype
    np.testing.assert_allclose(found.params["w"], params["w"], rtol=tolerance)
    np.testing.assert_allclose(found.history["loss"], losses, rtol=tolerance)
    assert found.history["worst"].shape == (25,)
    np.testing.assert_array_equal(given["w"], 0)


@pytest.mark.parametrize("stop", [10, 20])
def test_resume_is_bit_equal(tmp_path, stop):
    run(tmp_path, steps=stop)
    assert_equal_bits(run(tmp_path), unbroken())
    restored = run(tmp_path)
    assert_equal_bits(restored, unbroken())
    assert len(list(tmp_path.iterdir())) == 2
    # Bound to a device, each would need its own compilation of all that takes it.
    assert not any(leaf.committed for leaf in jax.tree.leaves(restored.params))


CHILD = """
import sys, time
import jax
sys.path.insert(0, {tests!r})
import test_loop
jax.config.update("jax_enable_x64", True)

def progress(step, loss, rate):
    print(step, flush=True)
    {pause}

test_loop.run({folder!r}, progress=progress)
print("finished")
"""


def child(folder, pause):
    tests = str(Path(__file__).parent)
    code = textwrap.dedent(CHILD).format(tests=tests, folder=str(folder), pause=pause)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_resume_after_kill_is_bit_equal(tmp_path):
    with child(tmp_path, "time.sleep(60 if step == 20 else 0)") as process:
        while process.stdout.readline().strip() != "20":
            assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert_equal_bits(run(tmp_path), unbroken())


def test_sigterm_saves_and_ends_the_process(tmp_path):
    with child(tmp_path, "import os; os.kill(os.getpid(), 15) if step == 10 else None") as process:
        out = process.stdout.read()
    assert process.returncode == -signal.SIGTERM
    assert out.split() == ["10"]
    assert (tmp_path / "10").is_dir()
    assert_equal_bits(run(tmp_path), unbroken())


def test_sigterm_goes_to_the_handler_that_was_there(tmp_path):
    came = []
    previous = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        with pytest.raises(SystemExit):
            run(tmp_path, progress=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert came == [True]
    assert (tmp_path / "10").is_dir()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_damaged_checkpoint_is_left_out(tmp_path, unchecked, caplog):
    run(tmp_path)
    (tmp_path / "25" / "settings" / "metadata").write_text('{"key')
    assert_equal_bits(run(tmp_path), unbroken())
    assert "25: damaged" in caplog.text
    caplog.clear()
    for file in (tmp_path / "25" / "state").rglob("d/*"):
        os.truncate(file, file.stat().st_size // 2)
    assert_equal_bits(run(tmp_path), unbroken())
    assert "25: damaged" in caplog.text
    for step in ("20", "25"):
        (tmp_path / step / "settings" / "metadata").write_text("")
    with pytest.raises(DataError, match="no checkpoint in it can be read; remove it"):
        run(tmp_path)


def test_half_written_checkpoint_does_not_count(tmp_path):
    run(tmp_path)
    half = tmp_path / "25.orbax-checkpoint-tmp-1"
    (tmp_path / "25").rename(half)
    assert_equal_bits(run(tmp_path), unbroken())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20", "25"]


def test_checkpoint_of_other_settings(tmp_path, unchecked):
    run(tmp_path, steps=10)
    rated = functools.partial(run, tmp_path / "rated", steps=10)
    rated(optimizer=RATED(learning_rate=0.1))
    with pytest.raises(DataError, match=r"optimizer.hyperparams\['learning_rate'\] was"):
        rated(optimizer=RATED(learning_rate=0.2))
    cases = {
        "batch_size was 5 and is 6": dict(batch_size=6),
        r"data\['x'\] was float64\[24, 3\] .* and is float64\[25, 3\]": dict(data=regression(25)),
        r"optimizer\[0\].count was int32\[\] .* and is None": dict(optimizer=optax.sgd(0.1)),
        # What has other values alone.
        r"data\['y'\] was float64\[24\] of content \w+ and is float64\[24\] of content": dict(
            data={**regression(), "y": regression()["y"].at[7].add(1e-12)}
        ),
        r"params\['w'\] was float64\[3\] of content": dict(params={"w": jnp.ones(3)}),
        "key was": dict(key=jax.random.key(4)),
        "metricsworst was": dict(loss=lambda p, d, k: (noisy_loss(p, d, k)[0], {})),
    }
    for message, change in cases.items():
        with pytest.raises(DataError, match=f"{tmp_path}: .* other settings: {message}"):
            run(tmp_path, **change)
    with pytest.raises(ValueError, match="steps=5: accepted is 10 or more: .* has done 10"):
        run(tmp_path, steps=5)


def test_a_run_is_known_by_what_it_is_said_to_depend_on(tmp_path, unchecked):
    """Where data is computed anew and rounded otherwise, and so its content does not count."""
    known = functools.partial(run, tmp_path, steps=10)
    depends = {"rate": 0.1, "files": ["a", "b"], "reference": None}
    known(depends=depends)
    rounded = {**regression(), "y": regression()["y"].at[7].add(1e-12)}
    assert known(depends=depends, data=rounded, steps=20).step == 20
    for name, value in {"rate": 0.2, "files": ["a"], "more": 1}.items():
        told = rf"depends\['{name}'\] was .* and is {re.escape(json.dumps(value))}"
        with pytest.raises(DataError, match=told):
            known(depends={**depends, name: value})
    with pytest.raises(DataError, match="holds a run with other settings"):
        known()


def falling(params, data, key):
    """Fall by 0.1 a step of SGD at rate 0.1, to the root of a negative number at step 8."""
    w = params["w"][0]
    return w + 0 * jnp.sqrt(0.75 + w), {}


def test_loss_that_is_not_finite(tmp_path, unchecked):
    fall = functools.partial(run, loss=falling, optimizer=optax.sgd(0.1), batch_size=None, chunk=3)
    with pytest.raises(FloatingPointError, match="loss is nan at step 8$"):
        fall()
    with pytest.raises(FloatingPointError, match="loss is nan at step 8; .* up to step 6"):
        fall(tmp_path)
    kept = fall(tmp_path, steps=6).history["loss"]
    np.testing.assert_allclose(kept, -0.1 * np.arange(6), atol=1e-12)


def test_parameters_that_are_not_finite(unchecked):
    root = lambda params, data, key: (jnp.sum(jnp.sqrt(params["w"])), {})
    with pytest.raises(FloatingPointError, match="parameters are not finite after step 0"):
        run(loss=root, steps=1)


def test_a_batch_is_split_as_the_rows_are():
    rows = jax.device_put(regression(), NamedSharding(data_mesh(), P("data")))
    splits = []

    def seen(params, data, key):
        jax.debug.inspect_array_sharding(data["x"], callback=splits.append)
        return loss(params, data, key)

    for size in (16, 12):
        split = run(loss=seen, data=rows, batch_size=size)
        whole = run(loss=loss, batch_size=size)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), split, whole)
    # 8 devices do not divide 12 rows.
    assert any(split.shard_shape((16, 3)) == (2, 3) for split in splits)
    assert rows["x"].sharding.device_set == split.params["w"].sharding.device_set


def test_bad_input_is_named(tmp_path, unchecked):
    file = tmp_path / "file"
    file.write_text("")
    wrong = {
        "steps=0": dict(steps=0),
        "steps=2.5: accepted is a whole number": dict(steps=2.5),
        "chunk=0": dict(chunk=0),
        "batch_size=0": dict(batch_size=0),
        r"batch_size=25: .* have \[24\]": dict(batch_size=25),
        r"loss\(.*\)=.*: accepted is \(scalar, dict": dict(loss=lambda p, d, k: jnp.sum(p["w"])),
        r"loss\(.*\)\[0\]=float64\[3\]: .* scalar": dict(loss=lambda p, d, k: (p["w"], {})),
        r"\)\[1\]\['m'\]=float64\[3\]: .* scalar": dict(
            loss=lambda p, d, k: (jnp.sum(p["w"]), {"m": p["w"]})
        ),
        "other names than 'loss'": dict(
            loss=lambda p, d, k: (jnp.sum(p["w"]), {"loss": jnp.sum(p["w"])})
        ),
        "is a file": dict(folder=file),
    }
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=message):
            run(**change)


def test_progress_is_told_after_every_chunk():
    seen = []
    run(progress=lambda *report: seen.append(report))
    assert [step for step, _, _ in seen] == [10, 20, 25]
    assert seen[-1][1] == unbroken().history["loss"][-1]
    assert all(rate > 0 for _, _, rate in seen)


def convolution(x):
    return lax.conv_general_dilated(x, x, (1,), "SAME")


def conditional(x):
    return lax.cond(jnp.sum(x) > 0, jnp.sin, convolution, x)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (convolution, True),
        (jax.jit(convolution), True),
        (conditional, True),
        (jax.grad(lambda x: jnp.sum(jax.checkpoint(convolution)(x))), True),
        (lambda x: lax.fori_loop(0, 3, lambda i, x: convolution(x), x), True),
        (lambda x: lax.scan(lambda x, _: (conditional(x), 0), x, length=2)[0], True),
        (jnp.sin, False),
        (jax.jit(lambda conv_general_dilated: jnp.cos(conv_general_dilated)), False),
    ],
)
def test_convolutions_are_found_wherever_they_are(function, expected):
    program = jax.make_jaxpr(function)(jnp.ones((3, 3, 3)))
    assert _has_convolution(program.jaxpr) == expected


def test_a_function_that_is_called_often_is_looked_through_once():
    double = jax.jit(lambda x: 2 * x)
    for _ in range(60):
        double = jax.jit(lambda x, inner=double: inner(x) + inner(x))
    assert not _has_convolution(jax.make_jaxpr(double)(1.0).jaxpr)
