"""A step of unlearning and generation against PyTorch, and the memory of the head in pieces.

    python benchmarks/unlearning.py [--quick] [--sections ...] [--out FILE]

Both train a Llama of one shape on forget and retain batches of one shape, in float32 with AdamW.
PyTorch with the decoder of transformers does what the released codes do: NPO runs the model before
at every step, with a row for one that keeps its log-probabilities; RMU runs all layers of both
models. The time of jaxml is that of a call of `unlearn_decoder`, what it computes before the first
step included, over its steps. The peer runs in a child process, on the GPU where JAX does, else on
one thread or on all, whichever is faster there and then. Rounds are interleaved, so the load of
the machine hits all alike, and the least time of a row counts. Compilation is measured cold and
stated apart.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np

from jaxml.llm._unlearn import unlearn_decoder
from jaxml.models import llama
from jaxml.models.llama import LlamaConfig
from jaxml.unlearning import UnlearnConfig

SECTIONS = ("step", "memory", "generation")
DECODER = LlamaConfig(
    vocab_size=32_000,
    hidden_size=288,
    num_layers=6,
    num_heads=6,
    num_kv_heads=6,
    head_dim=48,
    intermediate_size=768,
    tie_embeddings=True,
)
LAYER = 3
RATE = 1e-5


@dataclass(frozen=True)
class Settings:
    """What is measured and for how long: `seconds` bounds the rounds of one contender."""

    rows: int = 4
    length: int = 256
    steps: int = 10
    new_tokens: int = 128
    rounds: int = 5
    seconds: float = 120.0


QUICK = Settings(rows=2, length=64, steps=2, new_tokens=16, rounds=2, seconds=10.0)


def main() -> int:
    """Run the sections asked for and print, and write where asked, their Markdown."""
    parser = harness.parser("Unlearning: jaxml and PyTorch with transformers.", SECTIONS)
    options = harness.parsed(parser)
    settings = QUICK if options.quick else Settings()
    head = harness.machine(
        "Unlearning: jaxml and PyTorch with transformers",
        ("jax", "jaxlib", "optax", "numpy", "torch", "transformers"),
        "float32.",
    )
    chapters = {
        "step": functools.partial(steps, settings),
        "memory": memory,
        "generation": functools.partial(generation, settings),
    }
    return harness.run(head, chapters, options)


def steps(settings: Settings) -> Iterator[str]:
    """Yield a table of seconds a step for NPO with GDR and for RMU."""
    params = llama.init(jax.random.key(0), DECODER)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    yield (
        f"\n## A step on {settings.rows} + {settings.rows} sequences of {settings.length} tokens, "
        f"{size / 1e6:.1f} million parameters\n"
    )
    peer = harness.installed("torch")
    if not peer:
        yield "PyTorch is not installed, so not measured.\n"
    yield "| step | jaxml, s | PyTorch, s | PyTorch / jaxml | compiled, s |"
    yield "|---|--:|--:|--:|--:|"
    rng = np.random.default_rng(0)
    forget, retain = rng.integers(
        0, DECODER.vocab_size, (2, settings.rows, settings.length), dtype=np.int32
    )
    kinds = {"NPO + GDR": ("npo", "npo, cached"), "RMU": ("rmu",)}
    for title, peers in kinds.items():
        method: Any = peers[0]
        run = functools.partial(_jax_steps, settings, method, params, forget, retain)
        first, _ = run()
        contenders: dict[str, Callable] = {"jaxml": run}
        with harness.child() as child:
            for name in peers if peer else ():
                ask = lambda name=name: child.submit(  # noqa: B023
                    torch_steps, name, forget, retain, settings.steps, harness.torch_device()
                ).result()
                ask()
                contenders[name] = ask
            times, _ = harness.interleave(
                contenders, rounds=settings.rounds, seconds=settings.seconds
            )
        own = min(times["jaxml"]) / settings.steps
        for name in peers if peer else ("",):
            label = f"{title}, log-probabilities before kept" if "cached" in name else title
            other = min(times[name]) / settings.steps if peer else None
            cells = f"{other:.3f} | {other / own:.2f}" if other else " | "
            yield f"| {label} | {own:.3f} | {cells} | {first:.1f} |"


def memory() -> Iterator[str]:
    """Yield a table of the memory that a gradient of the log-probabilities needs by the way.

    A sum of the head's gradient over the pieces is part of it, of the size of the head.
    """
    rows, time_, width = 4, 1024, 256
    yield f"\n## Memory of the gradient of {rows} x {time_} log-probabilities, width {width}\n"
    yield "| vocabulary | its head, MB | all logits, MB | chunk of 2^20, MB | 2^22, MB | 2^24, MB |"
    yield "|--:|--:|--:|--:|--:|--:|"
    for vocabulary in (8_000, 32_000, 128_000):
        shapes = [
            jax.ShapeDtypeStruct((rows, time_, width), jnp.float32),
            jax.ShapeDtypeStruct((width, vocabulary), jnp.float32),
            jax.ShapeDtypeStruct((rows, time_), jnp.int32),
        ]
        cells = [4 * width * vocabulary, _temporary(_all_logits, shapes)]
        for power in (20, 22, 24):
            cells.append(_temporary(functools.partial(_pieces, 2**power), shapes))
        yield f"| {vocabulary:,} | " + " | ".join(f"{cell / 1e6:,.0f}" for cell in cells) + " |"


def generation(settings: Settings) -> Iterator[str]:
    """Yield a table of tokens a second of greedy decoding with a cache."""
    yield f"\n## Greedy decoding of {settings.new_tokens} tokens after a prompt of 32\n"
    peer = harness.installed("torch")
    yield "| prompts at once | jaxml, tokens/s | transformers, tokens/s | jaxml / transformers |"
    yield "|--:|--:|--:|--:|"
    params = llama.init(jax.random.key(0), DECODER)
    for rows in (1, 8):
        prompts = np.random.default_rng(0).integers(2, DECODER.vocab_size, (rows, 32), np.int32)
        run = functools.partial(_jax_generate, settings, params, prompts)
        run()
        contenders: dict[str, Callable] = {"jaxml": run}
        with harness.child() as child:
            if peer:
                ask = lambda prompts=prompts: child.submit(  # noqa: B023
                    torch_generate, prompts, settings.new_tokens, harness.torch_device()
                ).result()
                ask()
                contenders["transformers"] = ask
            times, _ = harness.interleave(
                contenders, rounds=settings.rounds, seconds=settings.seconds
            )
        rates = {name: rows * settings.new_tokens / min(taken) for name, taken in times.items()}
        other = rates.get("transformers")
        cells = f"{other:,.0f} | {rates['jaxml'] / other:.2f}" if other else " | "
        yield f"| {rows} | {rates['jaxml']:,.0f} | {cells} |"


def _jax_steps(settings, method, params, forget, retain) -> tuple[float, None]:
    config = UnlearnConfig(
        method, steps=settings.steps, batch_size=settings.rows, learning_rate=RATE
    )
    start = time.perf_counter()
    key = jax.random.key(0)
    unlearned = unlearn_decoder(key, params, DECODER, forget, retain, config=config, layer=LAYER)
    jax.block_until_ready(unlearned.params)
    return time.perf_counter() - start, None


def _jax_generate(settings, params, prompts) -> tuple[float, None]:
    start = time.perf_counter()
    tokens = llama.generate(params, jnp.asarray(prompts), DECODER, steps=settings.new_tokens)
    jax.block_until_ready(tokens)
    return time.perf_counter() - start, None


def _pieces(chunk: int, hidden, head, tokens):
    return llama.chunked_log_prob(hidden, head, tokens, chunk=chunk).sum()


def _all_logits(hidden, head, tokens):
    logp = jax.nn.log_softmax((hidden @ head)[:, :-1])
    return jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1).sum()


def _temporary(total: Callable, shapes) -> int:
    """Return bytes of a gradient beside arguments and results."""
    compiled: Any = jax.jit(jax.grad(total, argnums=(0, 1))).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


# The peer -------------------------------------------------------------------------------------


def torch_steps(
    method: str, forget: np.ndarray, retain: np.ndarray, count: int, device: str
) -> tuple[float, None]:
    """Time steps of the released NPO with GDR, or RMU, on the decoder of transformers.

    Args:
      method: "npo", "npo, cached" or "rmu".
      forget: tokens `[row, time]`.
      retain: tokens `[row, time]`.
      count: steps to time.
      device: of PyTorch.
    """
    import torch
    from torch.nn.functional import cross_entropy, logsigmoid, mse_loss

    wait = harness.use_torch(device)
    model, before = _torch_decoder(), _torch_decoder()
    f, r = (torch.as_tensor(x).long() for x in (forget, retain))

    def nll(model, tokens):
        logits = model(tokens, use_cache=False).logits[:, :-1]
        lost = cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        return lost.sum(1)

    if method == "rmu":
        trained = [model.model.layers[i].mlp.down_proj.weight for i in range(LAYER - 2, LAYER + 1)]
    else:
        trained = list(model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    with torch.no_grad():
        kept = nll(before, f)
    control = torch.rand(DECODER.hidden_size)
    control = 20 * control / control.norm()

    def hidden(model, tokens):
        outputs = []
        hook = model.model.layers[LAYER].register_forward_hook(
            lambda module, inputs, output: outputs.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
        model(tokens, use_cache=False)
        hook.remove()
        return outputs[0]

    def step():
        optimizer.zero_grad()
        if method == "rmu":
            with torch.no_grad():
                frozen = hidden(before, r)
            steered = hidden(model, f)
            loss = mse_loss(steered, control.expand_as(steered))
            loss = loss + 100 * mse_loss(hidden(model, r), frozen)
        else:
            if method == "npo":
                with torch.no_grad():
                    reference = nll(before, f)
            else:
                reference = kept
            ratio = nll(model, f) - reference
            loss = -2 / 0.1 * logsigmoid(0.1 * ratio).mean()
            loss = loss + nll(model, r).sum() / r[:, 1:].numel()
        loss.backward()
        optimizer.step()

    harness.choose_torch_threads(step)
    wait()
    start = time.perf_counter()
    for _ in range(count):
        step()
    wait()
    return time.perf_counter() - start, None


def torch_generate(prompts: np.ndarray, count: int, device: str) -> tuple[float, None]:
    """Time greedy decoding by transformers.

    Args:
      prompts: tokens `[row, time]`.
      count: tokens to write.
      device: of PyTorch.
    """
    import torch

    wait = harness.use_torch(device)
    model, tokens = _torch_decoder(), torch.as_tensor(prompts).long()
    settings = dict(do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(tokens))

    def write(count):
        model.generate(tokens, max_new_tokens=count, min_new_tokens=count, **settings)

    with torch.no_grad():
        harness.choose_torch_threads(lambda: write(4))
        wait()
        start = time.perf_counter()
        write(count)
        wait()
    return time.perf_counter() - start, None


def _torch_decoder() -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=DECODER.vocab_size,
            hidden_size=DECODER.hidden_size,
            intermediate_size=DECODER.intermediate_size,
            num_hidden_layers=DECODER.num_layers,
            num_attention_heads=DECODER.num_heads,
            num_key_value_heads=DECODER.num_kv_heads,
            tie_word_embeddings=DECODER.tie_embeddings,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
