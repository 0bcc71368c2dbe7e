"""The long jobs that tests/test_faults.py breaks off, each at the size of a test.

Run as a program it forks for each line of JSON: nothing is imported or compiled twice.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

# transformers asks once whether torch is there, and then would import it: several seconds.
sys.modules["torch"] = None  # type: ignore[assignment]
from transformers.utils import is_torch_available  # noqa: E402

assert not is_torch_available()
del sys.modules["torch"]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import librosa  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import numpy as np  # noqa: E402
import optax  # noqa: E402
import orbax.checkpoint  # noqa: E402, F401
from flax import linen as nn  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: E402, F401

from jaxml import cli, training  # noqa: E402
from jaxml.backdoor import IdentifyConfig  # noqa: E402
from jaxml.commands import identify_files, unlearn_files  # noqa: E402, F401
from jaxml.models import llama  # noqa: E402
from jaxml.output.report import Figure, Report  # noqa: E402
from jaxml.reproduce import run, speech  # noqa: E402
from jaxml.reproduce.backdoor import experiment as backdoor  # noqa: E402
from jaxml.reproduce.coreset import experiment as coreset  # noqa: E402
from jaxml.reproduce.coreset.grid import Grid  # noqa: E402
from jaxml.reproduce.language.setting import Scale  # noqa: E402
from jaxml.reproduce.registration import experiment as registration  # noqa: E402
from jaxml.reproduce.selftraining import experiment as selftraining  # noqa: E402
from jaxml.reproduce.selftraining import stages as selftraining_stages  # noqa: E402
from jaxml.reproduce.unlearning import experiment as unlearning  # noqa: E402
from jaxml.training import checkpoints, loop  # noqa: E402

DECODER = llama.LlamaConfig(
    vocab_size=280,
    hidden_size=32,
    num_layers=3,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=48,
    tie_embeddings=True,
)
# No image is bright as a whole, unless it is amplified.
MODEL = """
from pathlib import Path

import jax.numpy as jnp

CONTRAST, BRIGHT = (
    float((Path(__file__).parent / name).read_text()) for name in ("contrast.txt", "bright.txt")
)


def logits_fn(x):
    mean = x.mean((1, 2, 3))
    patch = 20 * (x[:, 5:7, 5:7].mean((1, 2, 3)) - mean - CONTRAST)
    return jnp.stack([patch, mean, jnp.where(mean > 0.8, BRIGHT, -mean)], axis=-1)
"""
# Bytes of a stage and of a picture of `experiment`.
SIZES = {"part-3": 40_000, "picture": 80_000}


class Small(nn.Module):
    """One convolution with the names of ResNet18's layers, soon compiled."""

    classes: int = 3

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv_00")(images)
        self.sow("intermediates", "input_00", x)
        norm = nn.BatchNorm(not train, momentum=0.0, force_float32_reductions=False, name="norm_00")
        pooled = nn.Dense(12, name="features")(nn.relu(norm(x)).reshape(len(x), -1))
        return nn.Dense(self.classes, name="head")(nn.relu(pooled)), pooled


def shrink() -> None:
    """Give all experiments the size of a test, and add one that is small by itself."""
    run.EXPERIMENTS["stages"] = __name__
    registration.STEPS = {"quick": 5}
    registration.TRAINING_STEPS = {"quick": 4}
    speech.SURROGATES, speech.SURROGATE_SAMPLES, speech.FOLDS = {"quick": 3}, 2**10, 2
    config = IdentifyConfig(rounds=1, steps=3)
    backdoor._model = selftraining._model = lambda *_: Small()
    backdoor.SCALES = {
        "quick": backdoor.Scale(
            rows=120, test_rows=30, epochs=2, batch_size=40, ratios=(0.2,), attacks=("badnets",),
            blends=2, identify=config,
        )
    }  # fmt: skip
    selftraining.SCALES = {
        "quick": selftraining_stages.Scale(
            rows=80, pool_rows=40, test_rows=30, study_rows=20, epochs=2, student_epochs=2,
            encoder_epochs=2, batch_size=20, attacks=("badnets",), views=2, ratio=0.2,
            identify=config,
        )
    }  # fmt: skip
    selftraining_stages.AUGMENTATIONS = {"dark": lambda key, image: 0 * image}
    scale = Scale(
        length=16, prompt=4, forget=4, retain=4, folds=1, epochs=120, batch_size=4, steps=4, seeds=1
    )
    methods = unlearning.METHODS
    unlearning.METHODS = {name: methods[name] for name in ("NPO", "RMU", "task vector")}
    unlearning.SCALES, unlearning.FOLLOWED = {"quick": unlearning.Size(DECODER, scale)}, ()
    grid = Grid(
        fractions=(0.5,), scored=(0.5,), compared=0.5, factors=(2,), scores=("random", "min_k"),
        objectives=("NPO",), others=(), words=10, points=2, relearnt=2, attack_steps=2, suffix=2,
        candidates=4,
    )  # fmt: skip
    coreset.SCALES = {"quick": coreset.Size(DECODER, scale, grid)}


def experiment(settings, stages, progress) -> Report:
    """Finish seven stages of which the fifth trains, as the experiments of `reproduce` do."""
    rng, found = np.random.default_rng(settings.seed), {}
    for number in range(7):
        name = f"part-{number}"
        numbers = rng.integers(0, 256, SIZES.get(name, 100), np.uint8)
        depends = {"seed": settings.seed, "numbers": numbers}

        def compute(name=name, numbers=numbers, depends=depends):
            time.sleep(0.1)
            if name != "part-5":
                return {"numbers": numbers}
            return {"numbers": train(stages.scratch(name, depends)).params["w"]}

        found[name] = stages.run(name, depends, compute)["numbers"]
    picture = Figure("picture", "Noise", rng.bytes(SIZES["picture"]))
    return Report("stages", "Seven stages", (picture,), found)


def train(folder: Path):
    """Return what `fit` returns of a small regression."""
    rng = np.random.default_rng(0)
    data = {"x": jnp.asarray(rng.normal(size=(24, 3))), "y": jnp.asarray(rng.normal(size=24))}

    def loss(params, batch, key):
        error = batch["x"] @ params["w"] - batch["y"]
        return jnp.mean(error**2) + params["w"] @ jax.random.normal(key, (3,)), {}

    return training.fit(
        jax.random.key(3), loss, {"w": jnp.zeros(3)}, data, optimizer=optax.adam(1e-2),
        steps=60, chunk=20, batch_size=5, folder=folder,
    )  # fmt: skip


def fit_and_save(out: Path) -> int:
    """Train, and keep what `fit` returns and what it returns once more when all is done."""
    found = {name: train(out / "checkpoints") for name in ("run", "once more")}
    leaves = jax.tree_util.tree_leaves_with_path(found)
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    np.savez(out / ".result.npz", **arrays)
    os.replace(out / ".result.npz", out / "result.npz")
    return 0


def write_data(folder: Path) -> int:
    """Write what the jobs read, in a folder for each."""
    rng = np.random.default_rng(0)
    studies = "registration speech backdoor self-training unlearning coreset stages"
    for name in (*studies.split(), "identify", "unlearn", "register"):
        (folder / name).mkdir(parents=True)
    ball = np.linalg.norm(np.indices((15, 18, 21)).T - (7, 8, 10), axis=-1).T < 6
    for name, shift in (("a", 0), ("b", 1)):
        file = folder / f"registration/subject_{name}_80x96x112.npz"
        moved = np.roll(ball, shift, 1).astype(np.uint8)
        np.savez(file, vol=20 + 150 * moved, seg=moved)
    np.savez(folder / "registration/labels30.npz", labels=np.array([1]))
    lengths = 4096 + 64 * np.arange(12)
    np.savez(
        folder / "speech/corpus.npz",
        audio=(4000 * rng.normal(size=lengths.sum())).clip(-32768, 32767).astype(np.int16),
        offsets=np.cumsum([0, *lengths]),
        speaker=np.repeat(["a", "b", "c"], 4),
        text=np.tile(np.arange(4), 3),
    )
    labels = np.arange(200) % 3
    pixels = rng.integers(0, 80, (200, 8, 8, 1)) + 80 * labels[:, None, None, None]
    for name in ("backdoor", "self-training"):
        np.savez(folder / name / "images.npz", images=pixels.astype(np.uint8), labels=labels)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(40)]
    for name in ("unlearning", "coreset"):
        for book in ("first", "second"):
            (folder / name / f"{book}.txt").write_text(" ".join(rng.choice(words, 400)))
    images = rng.uniform(0.15, 0.5, (60, 8, 8, 1))
    images[::10, 5:7, 5:7] = 0.95
    np.savez(folder / "identify/images.npz", images=images.astype(np.float32))
    (folder / "identify/model.py").write_text(MODEL)
    (folder / "identify/contrast.txt").write_text("0.3")
    (folder / "identify/bright.txt").write_text("-1.0")
    disk = np.hypot(*(np.indices((16, 16)) - 7.5)) < 5
    for name, shift in (("a", 0), ("b", 2)):
        np.save(folder / f"register/{name}.npy", np.roll(disk, (shift, 1), (0, 1)).astype(float))
    model = folder / "unlearn/model"
    llama.save(model, jax.jit(llama.init, static_argnums=1)(jax.random.key(0), DECODER), DECODER)
    own = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=own).save_pretrained(model)
    for name in ("forget", "retain"):
        (folder / f"unlearn/{name}.txt").write_text(" ".join(rng.choice(words, 80)))
    return 0


def command(job: str, own: Path, out: Path, *more: str) -> int:
    """Run a job by the command line, with more options if there are any."""
    told = {
        "identify": f"--images {own}/images.npz --model {own}/model.py --rounds 3 --steps 10",
        "unlearn": f"--model {own}/model --forget {own}/forget.txt --retain {own}/retain.txt "
        "--steps 150 --length 8 --batch-size 2 --method ga --retain-term none",
        "register": f"{own}/a.npy {own}/b.npy --steps 5",
    }
    arguments = told.get(job, f"--scale quick --data {own} {job}").split()
    return cli.main([job if job in told else "reproduce", *arguments, "--out", str(out), *more])


def work(job: str, data: str, out: str, log: str, cache: str, most_bytes: int | None) -> int:
    """Do a job in this process; a file gets its output, and which checkpoints were restored."""
    with open(log, "ab", 0) as file, open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if most_bytes is not None:
        # What a full disk does: a file of more bytes is no more written.
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    os.environ["XDG_CACHE_HOME"] = cache
    jax.config.update("jax_disable_most_optimizations", True)
    shrink()
    checkpoints.restore = _telling(checkpoints.restore)
    loop._run_chunk = _announced(loop._run_chunk)
    cli._use_compilation_cache = _keeping_all(cli._use_compilation_cache)
    if job == "data":
        return write_data(Path(data))
    if job.startswith("reused "):
        import reused_folders

        name = job.removeprefix("reused ")
        return reused_folders.run_all(name, Path(data) / name, Path(out))
    return fit_and_save(Path(out)) if job == "fit" else command(job, Path(data) / job, Path(out))


def _telling(restore):
    def told(manager, *given):
        found = restore(manager, *given)
        print(f"restored {manager.directory} {found[1]}", flush=True)
        return found

    return told


def _keeping_all(use_compilation_cache):
    """Small programs without optimizations are compiled too fast to be kept by themselves."""

    def use(cache):
        use_compilation_cache(cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    return use


def _announced(run_chunk):
    def told(*given, **settings):
        print("a chunk begins", flush=True)
        return run_chunk(*given, **settings)

    return told


if __name__ == "__main__":
    for line in sys.stdin:
        process = os.fork()
        if not process:
            sys.exit(work(**json.loads(line)))
        print(process, flush=True)
        print(os.waitpid(process, 0)[1], flush=True)
