"""Augmentation against torchvision, and a training step of ResNet-18 against PyTorch.

    python benchmarks/selftraining.py [--quick] [--sections ...] [--out FILE]

Both get the same images of 32 by 32 in float32. torchvision draws anew for every image, as in a
data loader, which on one core is one image after the other; jaxml maps over a batch. The peer runs
in a child process, on one thread or on all, whichever is faster there and then, and trains on the
GPU where JAX does. Rounds are interleaved, so the load of the machine hits all alike, and the
least time of a row counts. Compilation is measured cold and stated apart.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxml import augment
from jaxml.models.classifier import classification_loss
from jaxml.models.resnet import ResNet18

SECTIONS = ("augmentation", "training")
POLICIES = {
    "flip and crop": augment.flip_crop,
    "SimCLR": augment.simclr_view,
    "RandAugment(2, 9)": augment.rand_augment,
}


@dataclass(frozen=True)
class Settings:
    """What is measured and for how long: `seconds` bounds the rounds of one table row."""

    images: int = 512
    batch: int = 128
    width: int = 16
    # Steps of training in one run.
    steps: int = 10
    rounds: int = 7
    seconds: float = 60.0


QUICK = Settings(images=256, steps=2, rounds=3, seconds=5.0)


def main() -> int:
    """Run the sections asked for and print, and write where asked, their Markdown."""
    parser = harness.parser("Augmentation and training: jaxml and its peers.", SECTIONS)
    options = harness.parsed(parser)
    settings = QUICK if options.quick else Settings()
    head = harness.machine(
        "Augmentation and training: jaxml, torchvision and PyTorch",
        ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "torchvision"),
        "float32.",
    )
    chapters = {
        "augmentation": functools.partial(augmentation, settings),
        "training": functools.partial(training, settings),
    }
    return harness.run(head, chapters, options)


def augmentation(settings: Settings) -> Iterator[str]:
    """Yield a table of images a second for each policy."""
    images = np.random.default_rng(0).uniform(size=(settings.images, 32, 32, 3)).astype("float32")
    yield f"\n## Augmentation, {settings.images} images a call\n"
    peer = harness.installed("torchvision")
    if not peer:
        yield "torchvision is not installed, so not measured.\n"
    yield "| policy | jaxml, images/s | torchvision, images/s | jaxml / torchvision | compiled, s |"
    yield "|---|--:|--:|--:|--:|"
    for name, policy in POLICIES.items():
        run = jax.jit(jax.vmap(policy))
        contenders: dict[str, Callable] = {"jaxml": functools.partial(_jax_augment, run, images)}
        first, _ = contenders["jaxml"]()
        with harness.child() as child:
            if peer:
                ask = lambda: child.submit(torch_augment, name, images).result()  # noqa: B023
                ask()
                contenders["torchvision"] = ask
            times, _ = harness.interleave(
                contenders, rounds=settings.rounds, seconds=settings.seconds
            )
        yield f"| {name} | {_row(times, 'torchvision', settings.images)} | {first:.1f} |"


def training(settings: Settings) -> Iterator[str]:
    """Yield a table of images a second of a step of SGD on ResNet-18."""
    rows = settings.batch
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(rows, 32, 32, 3)).astype("float32")
    labels = generator.integers(0, 10, rows)
    yield f"\n## Training step, ResNet-18 of width {settings.width}, batch {rows}\n"
    peer = harness.installed("torch")
    if not peer:
        yield "PyTorch is not installed, so not measured.\n"
    yield "| step | jaxml, images/s | PyTorch, images/s | jaxml / PyTorch | compiled, s |"
    yield "|---|--:|--:|--:|--:|"
    step = _jax_step(settings)
    contenders: dict[str, Callable] = {"jaxml": functools.partial(step, images, labels)}
    first, _ = contenders["jaxml"]()
    arguments = images, labels, settings.width, settings.steps, harness.torch_device()
    with harness.child() as child:
        if peer:
            ask = lambda: child.submit(torch_train, *arguments).result()
            ask()
            contenders["PyTorch"] = ask
        times, _ = harness.interleave(contenders, rounds=settings.rounds, seconds=settings.seconds)
    yield (f"| SGD, momentum 0.9 | {_row(times, 'PyTorch', rows * settings.steps)} | {first:.1f} |")


def _jax_augment(run: Callable, images: np.ndarray) -> tuple[float, None]:
    start = time.perf_counter()
    keys = jax.random.split(jax.random.key(0), len(images))
    jax.block_until_ready(run(keys, images))
    return time.perf_counter() - start, None


def _jax_step(settings: Settings) -> Callable:
    """Return a function that times the steps on images and labels."""
    model = ResNet18(width=settings.width)
    optimizer = optax.sgd(0.01, momentum=0.9)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, images, labels):
        params, opt_state = state
        loss = lambda params: classification_loss(model, params, images, labels)[0]
        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def run(images: np.ndarray, labels: np.ndarray) -> tuple[float, None]:
        x, y = jnp.asarray(images), jnp.asarray(labels)
        params = jax.jit(model.init)(jax.random.key(0), x[:1])["params"]
        state = jax.block_until_ready((params, optimizer.init(params)))
        start = time.perf_counter()
        for _ in range(settings.steps):
            state = step(state, x, y)
        jax.block_until_ready(state)
        return time.perf_counter() - start, None

    return run


# The peers ------------------------------------------------------------------------------------


def torch_augment(name: str, images: np.ndarray) -> tuple[float, None]:
    """Time torchvision on images one after the other.

    Args:
      name: of `POLICIES`.
      images: `[row, height, width, channel]`.
    """
    import torch
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    crop = v2.RandomResizedCrop(32, scale=(0.08, 1.0), antialias=False)
    flip, grey = v2.RandomHorizontalFlip(), v2.RandomGrayscale(0.2)
    policy = {
        "flip and crop": v2.Compose([v2.RandomCrop(32, padding=4), flip]),
        "SimCLR": v2.Compose([crop, flip, v2.RandomApply([jitter], 0.8), grey]),
        "RandAugment(2, 9)": v2.RandAugment(2, 9),
    }[name]
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    harness.choose_torch_threads(lambda: [policy(image) for image in x[:32]])
    start = time.perf_counter()
    torch.stack([policy(image) for image in x])
    return time.perf_counter() - start, None


def torch_train(
    images: np.ndarray, labels: np.ndarray, width: int, steps: int, device: str
) -> tuple[float, None]:
    """Time steps of SGD on the network of `jaxml.models.resnet`.

    Args:
      images: `[row, height, width, channel]`.
      labels: `[row]`.
      width: channels of the first stage.
      steps: to time, after one to warm up.
      device: of PyTorch.
    """
    import torch
    from torch import nn

    wait = harness.use_torch(device)

    def convolution(before, after, side, stride):
        kernel = nn.Conv2d(before, after, side, stride, side // 2, bias=False)
        return nn.Sequential(kernel, nn.BatchNorm2d(after))

    class Block(nn.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.first = convolution(before, after, 3, stride)
            self.second = convolution(after, after, 3, 1)
            self.beside = convolution(before, after, 1, stride) if stride != 1 else nn.Identity()

        def forward(self, x):
            return torch.relu(self.second(torch.relu(self.first(x))) + self.beside(x))

    layers: list[nn.Module] = [convolution(3, width, 3, 1), nn.ReLU()]
    channels = width
    for stage, stride in enumerate((1, 2, 2, 2)):
        for first in (stride, 1):
            layers.append(Block(channels, width * 2**stage, first))
            channels = width * 2**stage
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    network = nn.Sequential(*layers, *head).to(memory_format=torch.channels_last)  # pyright: ignore
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    x = torch.as_tensor(images.transpose(0, 3, 1, 2).copy())
    x, y = x.contiguous(memory_format=torch.channels_last), torch.as_tensor(labels)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()

    harness.choose_torch_threads(step)
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return time.perf_counter() - start, None


# Small things ---------------------------------------------------------------------------------


def _row(times: dict[str, list[float]], peer: str, images: int) -> str:
    """Return images a second of both, and their ratio."""
    own = images / min(times["jaxml"])
    if peer not in times:
        return f"{own:,.0f} | | "
    other = images / min(times[peer])
    return f"{own:,.0f} | {other:,.0f} | {own / other:.2f}"


if __name__ == "__main__":
    sys.exit(main())
