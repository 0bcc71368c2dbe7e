"""What tests/test_processes.py runs in two processes, and in one to compare with."""

import functools
import os
import signal
import sys
from pathlib import Path

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")


def language_model(mesh, tokens, folder=None, *, steps=12, progress=None):
    """Train a decoder on rows of tokens, its parameters split over a mesh, if there is one."""
    return fit(
        jax.random.key(0),
        log_loss,
        parameters(mesh),
        tokens,
        optimizer=ADAM,
        steps=steps,
        chunk=4,
        batch_size=4,
        folder=folder,
        progress=progress,
    )


@functools.cache
def parameters(mesh):
    places = None if mesh is None else llama.parameter_shardings(CONFIG, mesh)
    init = jax.jit(lambda key: llama.init(key, CONFIG), out_shardings=places)
    return init(jax.random.key(0))


def log_loss(params, tokens, key):
    del key
    found = llama.log_prob(params, tokens, CONFIG)
    return -jnp.mean(found), {"worst": -jnp.min(found)}


def regression(x, folder=None, *, steps=12):
    """Train a vector on rows, which lie on one device or on several."""

    def loss(params, x, key):
        return jnp.mean((x @ params["w"] - 1) ** 2), {"worst": jnp.max(x)}

    params = {"w": jnp.zeros(x.shape[1])}
    more = dict(optimizer=ADAM, steps=steps, chunk=4, batch_size=4, folder=folder)
    return fit(jax.random.key(1), loss, params, x, **more)


def over_rows(place, mesh):
    """Return what the methods find in rows that `place` has put on the devices of a mesh."""
    rng = np.random.default_rng(0)
    series, images = rng.normal(size=(8, 200)), rng.uniform(size=(8, 6, 6, 1))
    fields = rng.normal(size=(8, 6, 5, 4, 3))
    weight = rng.normal(size=(36, 3))
    analyse = lambda row: mfdfa(row, scales=(16, 32, 64), q=(-2.0, 2.0)).h
    surface = lambda row: speech.utterance_features(row, 3000, q=(-2.0, 1.0, 2.0)).surface
    logits = lambda images: images.reshape(len(images), -1) @ weight
    retain = unlearning.Sequences(jnp.asarray(TOKENS), jnp.ones(TOKENS.shape, bool))
    keys = jax.random.split(jax.random.key(2))
    return {
        "mfdfa": sharding.map_rows(analyse, mesh=mesh)(place(series)),
        "speech": sharding.map_rows(surface, mesh=mesh)(place(series)),
        "spc": backdoor.spc(logits, place(images)),
        "mspc": backdoor.mspc(logits, place(images), jnp.ones((6, 6))),
        "self-training": selftraining.pseudo_label(keys[0], logits, horizontal_flip, place(images)),
        "pairs": sharding.map_rows(diffeomorphic_layer, mesh=mesh)(place(fields)),
        "slabs of one volume": diffeomorphic_layer(place(fields[:, 0]), mesh=mesh),
        "unlearning": unlearning.unlearn(
            keys[1], bigrams, weight, place(retain), retain, config=NPO
        ),
        "7 rows": sharding.map_rows(jnp.sum, mesh=mesh)(series[:7]),
        "pmap": sharding.pmap(jnp.sum, mesh)(place(series)),
    }


def bigrams(weight, tokens):
    """Return the logits of the next token from the last one alone."""
    return (weight @ weight.T)[:32, :32][tokens]


def spread(rows):
    """Put the half of the rows that is of this process on the devices of all."""
    mine = jax.tree.map(lambda leaf: np.split(leaf, jax.process_count())[jax.process_index()], rows)
    return sharding.from_processes(mine, sharding.data_mesh())


def main(folder: Path) -> None:
    """Train, go on from checkpoints, map rows and write, beside one other process."""
    me = jax.process_index()
    mesh, found = llama.decoder_mesh(), {}
    tokens = spread(TOKENS)
    whole = language_model(mesh, tokens)
    gate = whole.params["layers"]["gate"]
    assert not gate.is_fully_addressable
    assert gate.addressable_shards[0].data.size == gate.size // 4
    found["unbroken"] = whole
    found["every process has all rows"] = regression(ROWS)
    found["one, then two"] = language_model(mesh, tokens, folder / "one")

    # Process 1 alone is told to end; both do, at one step, and the step is saved.
    signal.signal(signal.SIGTERM, lambda *_: None)
    stop = lambda step, *_: os.kill(os.getpid(), signal.SIGTERM) if me and step == 8 else None
    try:
        language_model(mesh, tokens, folder / "two", progress=stop)
    except SystemExit as end:
        found["code"] = end.code

    found["rows"] = over_rows(spread, sharding.data_mesh())
    leaves = jax.tree_util.tree_leaves_with_path(sharding.to_numpy(found))
    np.savez(folder / f"{me}.npz", **{jax.tree_util.keystr(path): leaf for path, leaf in leaves})

    for wrong in (TOKENS[: 2 + 2 * me], TOKENS[:3], (TOKENS[:2], TOKENS[: 2 + 2 * me])):
        try:
            sharding.from_processes(wrong, mesh)
        except ValueError as error:
            print("ValueError:", error, flush=True)
    write_whole(folder / f"written by {me}" / "file", b"")
    with progress_bar(f"bar of {me}", 1) as progress:
        progress(1, 0.0, 1.0)


if __name__ == "__main__":
    exec(Path(sys.argv[1]).read_text())

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from jaxml import backdoor, selftraining, sharding, speech, unlearning  # noqa: E402
from jaxml.augment import horizontal_flip  # noqa: E402
from jaxml.models import llama  # noqa: E402
from jaxml.multifractal import mfdfa  # noqa: E402
from jaxml.output.stages import write_whole  # noqa: E402
from jaxml.registration import diffeomorphic_layer  # noqa: E402
from jaxml.training import fit, progress_bar  # noqa: E402

CONFIG = llama.LlamaConfig(32, 8, 1, 2, 1, 4, 16)
TOKENS = np.random.default_rng(0).integers(0, 32, (8, 6)).astype("int32")
ROWS = np.random.default_rng(1).normal(size=(8, 3))
ADAM = optax.adam(1e-2)
NPO = unlearning.UnlearnConfig(method="npo", steps=4, batch_size=4)

if __name__ == "__main__":
    main(Path(sys.argv[2]))
