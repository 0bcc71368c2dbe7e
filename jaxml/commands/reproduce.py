"""`jaxml reproduce`: the methods' experiments and one report of them all."""

import os
from pathlib import Path

from jaxml.commands.terminal import integer, path, say, utf8_path
from jaxml.reproduce import EXPERIMENTS, SCALES


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "reproduce", help="run the methods' experiments and write a report"
    )
    parser.add_argument(
        "methods",
        nargs="*",
        metavar="METHOD",
        help=f"{', '.join(EXPERIMENTS)} (default: all)",
    )
    parser.add_argument(
        "--scale", default="standard", help=f"{', '.join(SCALES)} (default: standard)"
    )
    parser.add_argument("--out", type=utf8_path, default=Path("runs/latest"), metavar="DIR")
    parser.add_argument(
        "--data", type=path, metavar="DIR", help="folder of data (default: $JAXML_DATA)"
    )
    parser.add_argument("--seed", type=integer, default=0)
    parser.set_defaults(run=run, less="one METHOD, or --scale quick")


def run(args) -> None:
    """Run the experiments."""
    if args.scale == "quick":
        _compile_soon()
    from jaxml.reproduce.run import reproduce

    reproduce(args.methods, scale=args.scale, out=args.out, data=args.data, seed=args.seed)
    say(f"report: {args.out / 'report.html'}")


def _compile_soon() -> None:
    """Have LLVM optimise less: a quick run compiles many programs for few calls of each."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=1".strip()
