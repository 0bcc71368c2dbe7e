"""Identification of backdoor rows: the fast solver, the published one, and the latter in PyTorch.

    python benchmarks/backdoor.py [--quick] [--sections ...] [--data DIR] [--out FILE]

All contenders get the same images, the same trained ResNet-18 and the same number of steps of
the mask. PyTorch runs the loop in the form it was published in: all rows in order, 1000 a step, a
scale at a time, the logits of the images computed anew at each. It runs in a child process, on
one thread or on all, whichever is faster there and then. Rounds are interleaved, so the load of
the machine hits all alike, and the least time of a row counts. Compilation is measured cold and
stated apart.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np

from jaxml import backdoor
from jaxml.data.images import load_images
from jaxml.models.normalise import CIFAR10_MEAN, CIFAR10_STD
from jaxml.models.resnet import ResNet18
from jaxml.reproduce.images.classifier import train_classifier

SECTIONS = ("badnets",)
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What is measured and for how long: `seconds` bounds the rounds of one table row."""

    train_rows: int = 10_000
    epochs: int = 6
    width: int = 8
    rows: int = 300
    # Rounds of the solver, and steps of the mask in each.
    solver_rounds: int = 1
    steps: int = 120
    rounds: int = 3
    seconds: float = 60.0


QUICK = Settings(train_rows=1000, epochs=3, rows=100, steps=3, rounds=2, seconds=3.0)


@dataclass(frozen=True)
class Problem:
    """A poisoned set and the network trained on it.

    Attributes:
      images: `[row, height, width, channel]`, the rows to judge.
      is_poisoned: `[row]`.
      variables: of the network.
      logits_fn: the network.
      mean, std: of its first layer.
      text: one line on the network.
    """

    images: np.ndarray
    is_poisoned: np.ndarray
    variables: Any
    logits_fn: Callable
    mean: tuple[float, ...]
    std: tuple[float, ...]
    text: str


def main() -> int:
    """Run the sections asked for and print, and write where asked, their Markdown."""
    parser = harness.parser("Backdoor identification: jaxml and its peer.", SECTIONS)
    parser.add_argument("--data", type=Path, help="folder of images (default: $JAXML_DATA)")
    options = harness.parsed(parser)
    settings = QUICK if options.quick else Settings()
    head = harness.machine(
        "Backdoor identification: the fast solver, the published one, and PyTorch",
        ("jax", "jaxlib", "flax", "optax", "numpy", "torch"),
        "float32.",
    )
    chapters = {a: functools.partial(table, a, settings, options.data) for a in SECTIONS}
    return harness.run(head, chapters, options)


def table(attack: str, settings: Settings, data: Path | None) -> Iterator[str]:
    """Yield a table of time, detection and agreement of masks for one attack."""
    problem = poisoned_problem(attack, settings, data)
    yield f"\n## {attack}, {len(problem.images):,} rows\n"
    yield problem.text
    if not harness.installed("torch"):
        yield "\nPyTorch is not installed, so not measured."
    fast = backdoor.IdentifyConfig(rounds=settings.solver_rounds, steps=settings.steps)
    published = dataclasses.replace(
        backdoor.IdentifyConfig.reference(), rounds=settings.solver_rounds, steps=settings.steps
    )
    jax.clear_caches()
    first, contenders = {}, {}
    with harness.child() as peer:
        if harness.installed("torch"):
            contenders[PEER] = functools.partial(_ask, peer, problem, published)
        for name, config in {PUBLISHED: published, "jaxml, fast": fast}.items():
            # One step of the mask compiles all that more of them run.
            short = dataclasses.replace(config, rounds=1, steps=1)
            first[name] = _jax_identify(problem, short)[0]
            contenders[name] = functools.partial(_jax_identify, problem, config)
        times, results = harness.interleave(
            contenders, rounds=settings.rounds, seconds=settings.seconds
        )
    yield ""
    yield (
        "| | s | median | runs | PyTorch / this | as published / this | AUROC | TPR | FPR | "
        "flagged | sum of mask | mask: correlation, largest difference | first call, s |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for name, seconds in times.items():
        ratio = f"{min(times[PEER]) / min(seconds):.1f}" if PEER in times else ""
        mask = results[name]["mask"]
        own = f"{min(times[PUBLISHED]) / min(seconds):.1f}" if name != PEER else ""
        agreement = _agreement(mask, results[PEER]["mask"]) if PEER in times else ""
        yield (
            f"| {name} | {min(seconds):.1f} | {np.median(seconds):.1f} | {len(seconds)} | "
            f"{ratio} | {own} | {_detection(results[name]['score'], problem)} | {mask.sum():.1f} | "
            f"{agreement} | {_first(first, name)} |"
        )
    images = jnp.asarray(problem.images)
    for name, score in {
        "shift alone, without a mask": backdoor.mspc(
            problem.logits_fn, images, jnp.ones(images.shape[1:3])
        ),
        "SPC": 2 * backdoor.spc(problem.logits_fn, images) - 1,
    }.items():
        yield f"| {name} | | | | | | {_detection(np.asarray(score), problem)} | | | |"
    yield (
        f"\n{settings.solver_rounds} round(s) of {settings.steps} steps of the mask. TPR and FPR: "
        "of the rows with a score above 0 (SPC: the same class at more than half of the scales). "
        "Agreement: of the mask with that of PyTorch. First call: traced and compiled cold, with "
        "one step of the mask and both splits of the rows."
    )


PEER = "PyTorch, as published"
PUBLISHED = "jaxml, as published"


def poisoned_problem(attack: str, settings: Settings, data: Path | None) -> Problem:
    """Return images with a tenth of them poisoned, and a network trained on them."""
    source = load_images(data, rows=settings.train_rows)
    images = jnp.asarray(source.train_images, jnp.float32) / 255
    poisoned = getattr(backdoor.attacks, attack)(
        jax.random.key(0), images, jnp.asarray(source.train_labels), classes=len(source.classes)
    )
    stored = jnp.round(255 * poisoned.images).astype(jnp.uint8)
    is_color = stored.shape[-1] == 3
    mean = CIFAR10_MEAN if is_color else (float(images.mean()),)
    std = CIFAR10_STD if is_color else (float(images.std()),)
    # Reports are published: a folder of data goes by its name.
    name = source.source.rpartition("/")[-1]
    model = ResNet18(classes=len(source.classes), width=settings.width, mean=mean, std=std)
    steps = settings.epochs * (len(stored) // 128)
    variables = train_classifier(jax.random.key(1), model, stored, poisoned.labels, steps=steps)
    logits_fn = lambda x: model.apply(variables, x)[0]
    test = jnp.asarray(source.test_images[:1000], jnp.float32) / 255
    labels = jnp.asarray(source.test_labels[:1000])
    predict = jax.jit(logits_fn)
    accuracy = float(jnp.mean(jnp.argmax(predict(test), axis=1) == labels))
    success = float(backdoor.attacks.attack_success_rate(predict, poisoned.trigger(test), labels))
    return Problem(
        np.asarray(stored[: settings.rows], np.float32) / np.float32(255),
        np.asarray(poisoned.is_poisoned[: settings.rows]),
        jax.tree.map(np.asarray, variables),
        logits_fn,
        mean,
        std,
        f"{name}. ResNet-18 of width {settings.width}, {settings.epochs} epochs on "
        f"{len(stored):,} rows, a tenth of them poisoned: accuracy {accuracy:.2f}, attack success "
        f"{success:.2f}.",
    )


def _jax_identify(problem: Problem, config) -> tuple[float, Arrays]:
    images = jnp.asarray(problem.images)
    start = time.perf_counter()
    result = jax.block_until_ready(backdoor.identify(problem.logits_fn, images, config=config))
    seconds = time.perf_counter() - start
    return seconds, {"score": np.asarray(result.score), "mask": np.asarray(result.mask)}


# The peer -------------------------------------------------------------------------------------


def torch_identify(
    images: np.ndarray, variables: Any, mean: tuple, std: tuple, config: dict, device: str
) -> tuple[float, Arrays]:
    """Time the published loop, its first split by the shift and its last batch not dropped.

    Args:
      images: `[row, height, width, channel]`.
      variables: of `ResNet18`.
      mean, std: of its first layer.
      config: fields of `backdoor.IdentifyConfig`.
      device: of PyTorch.
    """
    import torch

    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    network = torch_resnet18(variables, mean, std, device)
    shift, scales, size = config["shift"], config["scales"], min(config["batch_size"], len(x))
    amplified = lambda x, n, m: torch.clip(n * (x - shift) * m, 0, 1)

    def scores(m):
        votes = []
        with torch.no_grad():
            for start in range(0, len(x), size):
                batch = x[start : start + size]
                own = network(batch).argmax(1)
                same = [network(amplified(batch, n, m)).argmax(1) == own for n in scales]
                votes.append(2 * torch.stack(same).float().mean(0) - 1)
        return torch.cat(votes)

    harness.choose_torch_threads(lambda: network(x[:64]))
    began = time.perf_counter()
    mask = torch.ones(x.shape[2:], device=device, requires_grad=True)
    optimizer = torch.optim.SGD(
        [mask],
        config["learning_rate"],
        momentum=config["momentum"],
        weight_decay=config["weight_decay"],
    )
    score = scores(mask)
    batches = -(-len(x) // size)
    for _ in range(config["rounds"]):
        flagged = (score > 0).float()
        for step in range(config["steps"]):
            rows = slice(step % batches * size, (step % batches + 1) * size)
            batch, weight = x[rows], flagged[rows]
            optimizer.zero_grad()
            for n in scales:
                with torch.no_grad():
                    log_p = torch.log_softmax(network(batch), 1)
                log_q = torch.log_softmax(network(amplified(batch, n, mask)), 1)
                divergence = (log_p.exp() * (log_p - log_q)).sum(1)
                ((weight * divergence).mean() / len(scales)).backward()
            (config["sparsity"] * mask.abs().sum()).backward()
            optimizer.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
        score = scores(mask)
    result = {"score": score.cpu().numpy(), "mask": mask.detach().cpu().numpy()}
    return time.perf_counter() - began, result


def torch_resnet18(variables: Any, mean: tuple, std: tuple, device: str) -> Callable:
    """Return `jaxml.models.resnet.ResNet18` in evaluation mode as a function of PyTorch."""
    import torch
    from torch.nn import functional

    tensor = lambda a: torch.tensor(np.asarray(a), device=device)
    params, stats = variables["params"], variables["batch_stats"]
    kernels: list[Any] = []
    norms: list[Any] = []
    for number in range(sum(name.startswith("conv_") for name in params)):
        kernel = tensor(params[f"conv_{number:02d}"]["kernel"]).permute(3, 2, 0, 1)
        kernels.append(kernel.contiguous(memory_format=torch.channels_last))
        name = f"norm_{number:02d}"
        parts = stats[name]["mean"], stats[name]["var"], params[name]["scale"], params[name]["bias"]
        norms.append([tensor(part) for part in parts])
    head = tensor(params["head"]["kernel"]), tensor(params["head"]["bias"])
    channels = lambda a: tensor(np.array(a, np.float32)).reshape(1, -1, 1, 1)
    centre, width = channels(mean), channels(std)

    def network(x):
        layers = zip(kernels, norms, strict=True)

        def convolve(x, stride):
            kernel, norm = next(layers)
            x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
            return functional.batch_norm(x, *norm, eps=1e-5)

        x = torch.relu(convolve((x - centre) / width, 1))
        for first in (1, 1, 2, 1, 2, 1, 2, 1):
            y = convolve(torch.relu(convolve(x, first)), 1)
            x = torch.relu(y + (convolve(x, first) if first != 1 else x))
        return x.mean((2, 3)) @ head[0] + head[1]

    return network


def _ask(child: ProcessPoolExecutor, problem: Problem, config) -> tuple[float, Arrays]:
    device = harness.torch_device()
    network = problem.variables, problem.mean, problem.std
    settings = dataclasses.asdict(config)
    return child.submit(torch_identify, problem.images, *network, settings, device).result()


# Small things ---------------------------------------------------------------------------------


def _detection(score: np.ndarray, problem: Problem) -> str:
    truth = jnp.asarray(problem.is_poisoned)
    flagged = score > 0
    rates = backdoor.detection_rates(jnp.asarray(flagged), truth)
    area = float(backdoor.auroc(jnp.asarray(score), truth))
    return (
        f"{area:.3f} | {float(rates.true_positive):.3f} | {float(rates.false_positive):.3f} | "
        f"{flagged.sum()}"
    )


def _agreement(mask: np.ndarray, other: np.ndarray) -> str:
    if mask is other:
        return ""
    correlation = np.corrcoef(mask.ravel(), other.ravel())[0, 1]
    return f"{correlation:.3f}, {np.abs(mask - other).max():.1e}"


def _first(first: dict[str, float], name: str) -> str:
    return f"{first[name]:.1f}" if name in first else ""


if __name__ == "__main__":
    sys.exit(main())
