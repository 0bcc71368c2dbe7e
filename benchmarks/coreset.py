"""Scores of chunks of a forget set against a loop in PyTorch with the decoder of transformers.

    python benchmarks/coreset.py [--quick] [--sections ...] [--out FILE]

Both score the same chunks of random tokens with the same weights, in float32. PyTorch does what
published codes do: forward passes in batches, a backward pass a chunk for GraNd, the KMeans of
scikit-learn for moderate, whose clusters are others than jaxml's, so that their scores are not
compared, and numpy for k-center, once until all chunks are ordered and once until 5% are. jaxml
orders all either way. Perplexity takes as long as the loss; scores that need no model are left
out. Where 10,000 chunks take long, fewer are scored, and the seconds for 10,000 are scaled and
marked so. The peer runs in a child process, on one thread or on all, whichever is faster there
and then. Rounds are interleaved, so the load of the machine hits all alike, and the least time of
a row counts. Compilation is measured cold and stated apart: the first call less the least.
"""

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np

from jaxml.llm._score import Score, chunk_scores
from jaxml.models import llama
from jaxml.models.llama import LlamaConfig
from jaxml.unlearning import Sequences, coreset

SECTIONS = ("forward", "gradient", "geometry")
DECODER = LlamaConfig(
    vocab_size=1024,
    hidden_size=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
    intermediate_size=344,
    tie_embeddings=True,
)
LENGTH = 128
CHUNKS = 10_000
FRACTION = 0.05


@dataclass(frozen=True)
class Settings:
    """What is measured and for how long: `seconds` bounds the rounds of one contender."""

    forward: int = 2_000
    gradient: int = 1_000
    geometry: int = 10_000
    batch: int = 16
    rounds: int = 3
    seconds: float = 150.0


QUICK = Settings(forward=256, gradient=64, geometry=256, rounds=2, seconds=10.0)


def main() -> int:
    """Run the sections asked for and print, and write where asked, their Markdown."""
    parser = harness.parser("Coresets: jaxml and PyTorch with transformers.", SECTIONS)
    options = harness.parsed(parser)
    settings = QUICK if options.quick else Settings()
    head = harness.machine(
        "Scores of chunks: jaxml and PyTorch with transformers",
        ("jax", "jaxlib", "numpy", "torch", "transformers", "scikit-learn"),
        "float32.",
    )
    forward: tuple[Score, ...] = ("loss", "min_k", "el2n")
    geometry: tuple[Score, ...] = ("moderate", "k_center")
    table = lambda count, names: functools.partial(_scores, settings, count, names)
    chapters = {
        "forward": table(settings.forward, forward),
        "gradient": table(settings.gradient, ("grand",)),
        "geometry": table(settings.geometry, geometry),
    }
    return harness.run(head, chapters, options)


def _scores(settings: Settings, count: int, names: tuple[Score, ...]) -> Iterator[str]:
    """Yield a table of seconds for each score on so many chunks."""
    # Larger weights than those of a start, so that predictions differ.
    params = jax.tree.map(lambda leaf: 3 * leaf, llama.init(jax.random.key(0), DECODER))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    tokens = np.random.default_rng(0).integers(0, DECODER.vocab_size, (count, LENGTH), np.int32)
    yield (
        f"\n## {', '.join(names)}: {count:,} chunks of {LENGTH} tokens, {size / 1e6:.2f} million "
        f"parameters, batches of {settings.batch}\n"
    )
    peer = harness.installed("torch") and harness.installed("transformers")
    if not peer:
        yield "PyTorch or transformers are not installed, so not measured.\n"
    scaled = f"{CHUNKS:,} chunks, scaled: jaxml, s | PyTorch, s | "
    yield (
        "| score | jaxml, s | PyTorch, s | PyTorch / jaxml | "
        f"{scaled if count < CHUNKS else ''}agreement | compiled, s |"
    )
    yield "|---|--:|--:|--:|" + ("--:|--:|" if count < CHUNKS else "") + "---|--:|"
    with tempfile.TemporaryDirectory() as folder, harness.child() as child:
        llama.save(folder, params, DECODER)
        for name in names:
            run = functools.partial(_jax_scores, name, params, tokens, settings.batch)
            first, _ = run()
            contenders: dict[str, Callable] = {"jaxml": run}
            labels = (name, "k_center, first 5%") if name == "k_center" else (name,)
            for label in labels if peer else ():
                ask = functools.partial(_ask, child, label, folder, tokens, settings.batch)
                contenders[label] = ask
            times, values = harness.interleave(
                contenders, rounds=settings.rounds, seconds=settings.seconds
            )
            own = min(times["jaxml"])
            for label in labels:
                other = min(times[label]) if peer else None
                cells = [f"{own:.2f}", *((f"{other:.2f}", f"{other / own:.2f}") if other else "  ")]
                if count < CHUNKS:
                    cells += [_scaled(label, own, count), _scaled(label, other, count)]
                cells.append(_agreement(name, values["jaxml"], values[label]) if peer else "")
                yield f"| {label} | {' | '.join(cells)} | {first - own:.1f} |"


def _scaled(label: str, seconds: float | None, count: int) -> str:
    """Return seconds for all chunks; k-center is not proportional to their number."""
    if seconds is None or label.startswith("k_center"):
        return ""
    return f"{seconds * CHUNKS / count:.0f}"


def _agreement(name: Score, own: np.ndarray, other: np.ndarray) -> str:
    """Return the largest relative difference, or what both pick where ranks are the score."""
    if name == "moderate":
        return "not compared"
    if name != "k_center":
        return f"relative difference {np.max(np.abs(own - other) / np.abs(other)):.1e}"
    picked = [
        set(np.asarray(coreset.select(jnp.asarray(scores, jnp.float32), FRACTION)).tolist())
        for scores in (own, other)
    ]
    return f"{len(picked[0] & picked[1])} of {len(picked[0])} picked alike"


def _jax_scores(name: Score, params, tokens, batch: int) -> tuple[float, np.ndarray]:
    texts = Sequences(jnp.asarray(tokens), jnp.ones(tokens.shape, bool))
    start = time.perf_counter()
    key = jax.random.key(0)
    scores = np.asarray(chunk_scores(key, name, params, DECODER, texts, batch_size=batch))
    return time.perf_counter() - start, scores


def _ask(child, *arguments) -> tuple[float, np.ndarray]:
    return child.submit(torch_scores, *arguments).result()


# The peer -------------------------------------------------------------------------------------


def torch_scores(
    label: str, folder: str, tokens: np.ndarray, batch: int
) -> tuple[float, np.ndarray]:
    """Time a score of chunks by PyTorch, and return it.

    Args:
      label: name of the score, for k-center perhaps with ", first 5%".
      folder: of the model, of Hugging Face.
      tokens: `[chunk, time]`.
      batch: chunks of a forward pass.
    """
    import torch

    model = _loaded(folder)
    score = {
        "grand": _torch_grand,
        "moderate": _torch_moderate,
        "k_center": functools.partial(_torch_k_center, fraction=1.0),
        "k_center, first 5%": functools.partial(_torch_k_center, fraction=FRACTION),
    }.get(label, functools.partial(_torch_forward, label))
    few = torch.from_numpy(tokens[:batch]).long()
    harness.choose_torch_threads(lambda: score(model, few, batch))
    start = time.perf_counter()
    scores = score(model, torch.from_numpy(tokens).long(), batch)
    return time.perf_counter() - start, scores


@functools.lru_cache(maxsize=1)
def _loaded(folder: str) -> Any:
    import transformers

    return transformers.LlamaForCausalLM.from_pretrained(folder).float().eval()


def _torch_forward(label: str, model, tokens, batch: int) -> np.ndarray:
    import torch
    from torch.nn.functional import cross_entropy, one_hot

    scores = []
    with torch.no_grad():
        for rows in tokens.split(batch):
            logits, following = model(rows, use_cache=False).logits[:, :-1], rows[:, 1:]
            if label == "el2n":
                error = logits.softmax(-1) - one_hot(following, logits.shape[-1])
                scores.append(error.norm(dim=-1).mean(1))
                continue
            nll = cross_entropy(logits.transpose(1, 2), following, reduction="none")
            if label == "loss":
                scores.append(nll.mean(1))
            else:
                lowest = (-nll).sort(dim=1).values[:, : int(0.4 * nll.shape[1])]
                scores.append(lowest.mean(1))
    return torch.cat(scores).numpy()


def _torch_grand(model, tokens, batch: int) -> np.ndarray:
    """One backward pass a chunk, of the down matrices alone, as jaxml's."""
    from torch.nn.functional import cross_entropy

    chosen = [layer.mlp.down_proj.weight for layer in model.model.layers]
    model.requires_grad_(False)
    for weight in chosen:
        weight.requires_grad_(True)
    norms = []
    for row in tokens:
        model.zero_grad(set_to_none=True)
        logits = model(row[None], use_cache=False).logits[0, :-1]
        cross_entropy(logits, row[1:], reduction="sum").backward()
        norms.append(sum(float((weight.grad**2).sum()) for weight in chosen) ** 0.5)
    return np.array(norms)


def _torch_features(model, tokens, batch: int) -> np.ndarray:
    import torch

    with torch.no_grad():
        features = [model.model(rows, use_cache=False)[0].mean(1) for rows in tokens.split(batch)]
    return torch.cat(features).numpy()


def _torch_moderate(model, tokens, batch: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    features = _torch_features(model, tokens, batch)
    fitted = KMeans(n_clusters=4, random_state=42).fit(features)
    distance = np.linalg.norm(features - fitted.cluster_centers_[fitted.labels_], axis=1)
    median = np.array([np.median(distance[fitted.labels_ == label]) for label in range(4)])
    return -np.abs(distance - median[fitted.labels_])


def _torch_k_center(model, tokens, batch: int, fraction: float) -> np.ndarray:
    features = _torch_features(model, tokens, batch)
    count = len(features)
    nearest, scores, center = np.full(count, np.inf), np.zeros(count), 0
    for place in range(max(1, round(fraction * count))):
        scores[center] = count - place
        nearest = np.minimum(nearest, np.linalg.norm(features - features[center], axis=1))
        nearest[center] = -np.inf
        center = int(nearest.argmax())
    return scores


if __name__ == "__main__":
    sys.exit(main())
