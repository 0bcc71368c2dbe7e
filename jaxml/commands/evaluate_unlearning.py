"""`jaxml evaluate-unlearning`: what a language model knows of the user's texts and questions."""

import sys
from pathlib import Path

from jaxml.commands.terminal import add_max_gib, integer, path, say


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "evaluate-unlearning", help="measure what a language model knows of texts and questions"
    )
    parser.add_argument("--model", type=path, required=True, metavar="DIR|GGUF|NAME")
    parser.add_argument("--verbatim", type=path, metavar="FILE", help="passages: prompt, gt")
    parser.add_argument("--knowledge", type=path, metavar="FILE", help="question, answer")
    parser.add_argument(
        "--choices", type=path, nargs="+", default=(), metavar="FILE", help="as of WMDP or MMLU"
    )
    parser.add_argument("--text", type=path, nargs="+", default=(), metavar="FILE")
    parser.add_argument(
        "--privacy",
        type=path,
        nargs=3,
        metavar=("FORGET", "HOLDOUT", "MODEL"),
        help="PrivLeak: texts unlearned, texts never seen, a model trained without the former",
    )
    parser.add_argument(
        "--length", type=integer, default=512, help="tokens of a sequence (default: 512)"
    )
    parser.add_argument("--out", type=path, default=Path("runs/evaluation"), metavar="DIR")
    add_max_gib(parser)
    parser.set_defaults(run=run, less="a smaller --length, fewer texts or a smaller model")


def run(args) -> None:
    """Measure the model."""
    from jaxml.commands.evaluate_files import evaluate_files

    measured = evaluate_files(
        args.model,
        args.out,
        verbatim=args.verbatim,
        knowledge=args.knowledge,
        choices=args.choices,
        texts=args.text,
        privacy=args.privacy,
        length=args.length,
        max_bytes=args.max_bytes,
        progress=lambda line: say(line, sys.stderr),
    )
    say(measured)
