"""`jaxml identify`: backdoor images of the user's training set."""

import sys
from pathlib import Path

from jaxml.commands.terminal import integer, say


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "identify", help="find backdoor images of a training set by the classifier trained on it"
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER|NPZ", help="png or jpg, or an npz"
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="FILE.py[:NAME]",
        help="JAX function of images [row, height, width, channel], 0 to 1, to logits "
        "(default name: logits_fn)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/identify"), metavar="DIR")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave such images out and list them"
    )
    parser.add_argument("--rounds", type=integer, default=4, help="fits of the mask and splits")
    parser.add_argument("--steps", type=integer, default=200, help="steps of the mask in a round")
    parser.add_argument("--shift", type=float, default=0.2, help="subtracted from the images")
    parser.add_argument("--sparsity", type=float, default=0.01, help="weight of |mask|_1")
    parser.set_defaults(run=run)


def run(args) -> None:
    """Identify the images."""
    from jaxml.commands.identify_files import identify_files

    names = ("skip_unreadable", "rounds", "steps", "shift", "sparsity")
    settings = {name: getattr(args, name) for name in names}
    progress = lambda line: say(line, sys.stderr)
    say(identify_files(args.images, args.model, args.out, progress=progress, **settings))
