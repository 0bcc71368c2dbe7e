"""Jobs that are broken off, and then run with something else in the folder of before.

A process that tests/fault_worker.py has forked does all of one job: programs are compiled once.
"""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import fault_worker
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxml.files.npz import read_npz
from jaxml.models import llama
from jaxml.reproduce import speech
from jaxml.reproduce.registration import experiment as registration

Change = Callable[[Path], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is broken off, and how, and what is changed before it is run again.

    Attributes:
      broken: where an exception is raised, a function that has done its work by then.
      data: name -> what is done to the folder of the data.
      options: name -> what is added to the command.
      code: name -> a constant or function of the package, and what comes in its place.
    """

    broken: str
    data: dict[str, Change] = dataclasses.field(default_factory=dict)
    options: dict[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    code: dict[str, tuple[str, object]] = dataclasses.field(default_factory=dict)


def other_array(name: str, key: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Return what changes one array of a file npz."""

    def changed(folder: Path) -> None:
        arrays = read_npz(folder / name)
        np.savez(folder / name, **{**arrays, key: change(arrays[key])})

    return changed


def other_text(name: str, change: Callable[[str], str]) -> Change:
    def changed(folder: Path) -> None:
        text = (folder / name).read_text()
        assert change(text) != text
        (folder / name).write_text(change(text))

    return changed


def other_weights(folder: Path) -> None:
    loaded = llama.load(folder / "model")
    params = jax.jit(llama.init, static_argnums=1)(jax.random.key(1), loaded.config)
    llama.save(folder / "model", params, loaded.config)


def shuffled(text: str) -> str:
    return " ".join(reversed(text.split()))


JOBS = {
    "unlearn": Job(
        broken="jaxml.llm._unlearn.fit",
        data={"weights": other_weights, "data": other_text("forget.txt", shuffled)},
        options={"seed": ["--seed", "1"], "settings": ["--learning-rate", "1e-4"]},
        code={
            "code": ("jaxml.unlearning._optimise.adamw", lambda rate: fault_worker.optax.sgd(rate))
        },
    ),
    "identify": Job(
        broken="jaxml.backdoor.identify_step",
        data={
            "weights": other_text("contrast.txt", lambda text: "0.35"),
            "weights that no image shows": other_text("bright.txt", lambda text: "9.0"),
            "data": other_array("images.npz", "images", lambda images: images[::-1] * 0.9),
            "code": other_text("model.py", lambda text: text.replace("20 *", "18 *")),
        },
        options={"settings": ["--steps", "9"]},
    ),
    "register": Job(
        broken="jaxml.commands.register_files._write",
        data={"data": lambda folder: np.save(folder / "a.npy", np.load(folder / "a.npy").T)},
        options={"settings": ["--smoothness", "9"]},
    ),
    "registration": Job(
        broken="jaxml.reproduce.registration.network.fit",
        data={
            "data": other_array("subject_a_80x96x112.npz", "vol", lambda vol: np.roll(vol, 2, 0)),
            "segmentation": other_array(
                "subject_b_80x96x112.npz", "seg", lambda seg: np.roll(seg, 3, 1)
            ),
        },
        options={"seed": ["--seed", "1"]},
        code={
            "scale": ("jaxml.reproduce.registration.experiment.TRAINING_STEPS", {"quick": 3}),
            "code": ("jaxml.reproduce.registration.network.SMOOTHNESS", 3.0),
        },
    ),
    "speech": Job(
        broken="jaxml.reproduce.speech._folds",
        data={"data": other_array("corpus.npz", "audio", lambda audio: audio[::-1])},
        options={"seed": ["--seed", "1"]},
        code={
            "scale": ("jaxml.reproduce.speech.SURROGATES", {"quick": 2}),
            "code": ("jaxml.reproduce.speech.FOLDS", 3),
        },
    ),
}


class Flow(nn.Module):
    """A network of two images to a displacement: one layer in place of the U-Net."""

    @nn.compact
    def __call__(self, fixed, moving):
        return nn.Dense(3)(jnp.stack([fixed, moving], axis=-1))


def registered(pair, steps) -> dict[str, np.ndarray]:
    """Return measures of fields that cost nothing, by all that `_registered` depends on."""
    shift = np.full((*pair.a.shape, 3), 0.1 * steps, np.float32)
    measure = functools.partial(
        registration._measure, pair.a_labels, pair.b_labels, pair.labels, pair.a, pair.b
    )
    return registration._stacked({"shifted": measure(shift, seconds=0.0)})


def surrogates(key, waveforms, lengths, rate, count) -> dict[str, np.ndarray]:
    """Return numbers of all that `_surrogates` depends on, in arrays as it returns."""
    drawn = np.asarray(jax.random.uniform(key, (len(lengths), 3)))
    own = drawn + np.mean(waveforms, axis=1)[:, None] + lengths[:, None] / rate
    found = {"q": np.arange(3.0), "h": own, "alpha": own, "f": own, "width": own[:, 0]}
    for name in ("shuffled", "IAAFT"):
        found |= {f"{name} h": np.resize(own, (count, 3)), f"{name} width": np.resize(own, count)}
    return found


# What takes long, and is compiled again in each run.
CHEAPER = {
    "jaxml.reproduce.registration.experiment._registered": registered,
    "jaxml.reproduce.registration.network.UNet": lambda: Flow(),
    "jaxml.reproduce.speech._timing": lambda *_: {"multifractal": np.asarray(0.0)},
    "jaxml.reproduce.speech._surrogates": surrogates,
    "jaxml.reproduce.speech._multifractal": functools.cache(speech._multifractal),
    "jaxml.reproduce.speech._cepstral": functools.cache(speech._cepstral),
    "jaxml.reproduce.speech.SETS": {k: speech.SETS[k] for k in ("spectrum", "surface3")},
}


def run_all(job: str, data: Path, out: Path) -> int:
    """Break a job off, and run it with each change in a copy of its folder and in a fresh one.

    Left in `out`: a folder "unchanged" of a run without a change, and for each change "reused"
    and "fresh".
    """
    plan = JOBS[job]
    run = functools.partial(fault_worker.command, job)
    for name, value in CHEAPER.items():
        mock.patch(name, value).start()
    # What is replaced is found at the same place.
    own = data.with_name(f"{job}-again")
    shutil.copytree(data, own)
    with broken_off(plan.broken):
        assert run(own, out / "broken") == 130
    assert run(own, out / "unchanged") == 0
    for name in (*plan.data, *plan.options, *plan.code):
        folder = out / name
        shutil.rmtree(own)
        shutil.copytree(data, own)
        shutil.copytree(out / "broken", folder / "reused")
        plan.data.get(name, lambda folder: None)(own)
        with other_code(*plan.code[name]) if name in plan.code else contextlib.nullcontext():
            for which in ("reused", "fresh"):
                assert run(own, folder / which, *plan.options.get(name, ())) == 0
    return 0


@contextlib.contextmanager
def broken_off(name: str):
    """Raise what Ctrl-C does after a function has done its work."""
    function = _named(name)

    def broken(*args, **settings):
        jax.block_until_ready(function(*args, **settings))
        raise KeyboardInterrupt

    with mock.patch(name, broken):
        yield


@contextlib.contextmanager
def other_code(name: str, value: object):
    """Put something else in the place of a part of the package, as an edit of its file does."""
    with mock.patch(name, value), mock.patch("jaxml.output.stages._code", lambda: name):
        yield


def _named(name: str):
    module, _, attribute = name.rpartition(".")
    return getattr(__import__(module, fromlist=[attribute]), attribute)
