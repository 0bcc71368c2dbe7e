"""What a device computes and sends in one run of a compiled program, read from its HLO text.

XLA's own cost analysis counts the body of a loop once. Here it counts as often as it runs, where
the text knows the number.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][a-z-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%(\S+) \(.*\{$")
_ARRAY = re.compile(r"\b(pred|[a-z]+[0-9]+)[a-z0-9]*\[([0-9,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations)=\{?((?:%[^\s,{}]+(?:, )?)+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# One operation an element of the result.
_ARITHMETIC = frozenset(
    "abs add atan2 ceil clamp compare cosine divide exponential exponential-minus-one floor log "
    "log-plus-one logistic maximum minimum multiply negate power remainder round-nearest-even "
    "rsqrt select sign sine sqrt subtract tanh".split()
)


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one device in one run.

    Attributes:
      flops: of products, convolutions, sums and element by element.
      sent: bytes of each kind of collective, `{kind: bytes}`, if rings carry them.
      unknown: whether loops of unknown length were counted once.
    """

    flops: float
    sent: Mapping[str, float]
    unknown: bool


def work(text: str, devices: int) -> Work:
    """Return what a device does in one run.

    Args:
      text: of a compiled program, `compiled.as_text()`, partitioned if for several devices.
      devices: of the program.
    """
    bodies = _computations(text)
    shapes = {name: dims for body in bodies.values() for name, dims, _, _ in body}
    runs: collections.Counter[str] = collections.Counter()
    flops, unknown = 0.0, False
    sent: dict[str, float] = collections.defaultdict(float)
    # What is called stands before what calls it, the program itself last.
    for number, (computation, body) in enumerate(reversed(bodies.items())):
        times = 1 if number == 0 else runs[computation]
        for _, results, operation, rest in body:
            trips = 1
            if operation == "while":
                match = _TRIPS.search(rest)
                trips, unknown = (int(match[1]), unknown) if match else (1, True)
            for group in _CALLED.findall(rest):
                for name in re.findall(r"%([^\s,]+)", group):
                    runs[name] += times * trips
            flops += times * _flops(operation, results, rest, shapes)
            if operation in _COLLECTIVES:
                members = _members(rest, devices)
                sent[operation] += times * _sent(operation, _bytes(results), members)
    return Work(flops, {kind: count for kind, count in sent.items() if count}, unknown)


def _computations(text: str) -> dict[str, list[tuple[str, list, str, str]]]:
    """Return the name, results, operation and the rest of each instruction, by computation."""
    bodies: dict[str, list] = {}
    body: list = []
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            body = bodies.setdefault(start[1], [])
        elif instruction := _INSTRUCTION.match(line):
            name, results, operation, rest = instruction.groups()
            body.append((name, list(_arrays(results)), operation, rest))
    return bodies


def _arrays(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for kind, dims in _ARRAY.findall(text):
        yield kind, tuple(int(n) for n in dims.split(",") if n)


def _bytes(arrays: list) -> int:
    bits = lambda kind: 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
    return sum(math.prod(dims) * bits(kind) // 8 for kind, dims in arrays)


def _flops(operation: str, results: list, rest: str, shapes: Mapping[str, list]) -> float:
    size = sum(math.prod(dims) for _, dims in results)
    if operation in _ARITHMETIC:
        return size
    if operation not in ("dot", "convolution", "reduce", "reduce-window"):
        return 0
    names = re.findall(r"%([^\s,()]+)", rest.split(")")[0])
    operands = [shapes[name][0][1] for name in names]
    if operation == "reduce":
        return math.prod(operands[0])
    if operation == "reduce-window":
        return size * math.prod(_window(rest))
    if operation == "dot":
        summed = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", rest)
        axes = summed[1].split(",") if summed else []
        return 2 * size * math.prod(operands[0][int(axis)] for axis in axes)
    labels = re.search(r"dim_labels=\w+_(\w+)->", rest)
    assert labels, "a convolution tells its axes"
    kernel = operands[1]
    return 2 * size * math.prod(kernel) / kernel[labels[1].index("o")]


def _window(rest: str) -> list[int]:
    match = re.search(r"window=\{size=([0-9x]+)", rest)
    return [int(side) for side in match[1].split("x")] if match else []


def _members(rest: str, devices: int) -> int:
    """Return how many devices take part in each group of a collective."""
    if match := re.search(r"replica_groups=\{\{([0-9,]*)\}", rest):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[(.*?)\].*?\{('.*?)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        # A part of an axis is written 'axis':(devices before it)devices.
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices


def _sent(operation: str, size: int, members: int) -> float:
    """Return what a device of a ring sends for a result of so many bytes."""
    if operation == "collective-permute":
        return size
    if operation == "reduce-scatter":
        return size * (members - 1)
    return size * (members - 1) / members * (2 if operation == "all-reduce" else 1)
