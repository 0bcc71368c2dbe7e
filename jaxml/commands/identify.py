"""`jaxml identify`: backdoor images of the user's training set."""

import sys
from pathlib import Path

from jaxml.commands.terminal import add_max_gib, integer, path, say

# Of `backdoor.IdentifyConfig`, which the help cannot read without importing JAX; a test compares.
SETTINGS = {
    "rounds": (integer, 4, "fits of the mask and splits"),
    "steps": (integer, 200, "steps of the mask in a round"),
    "shift": (float, 0.2, "subtracted from the images"),
    "sparsity": (float, 0.01, "weight of |mask|_1"),
}


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "identify", help="find backdoor images of a training set by the classifier trained on it"
    )
    parser.add_argument(
        "--images", type=path, required=True, metavar="FOLDER|NPZ", help="png or jpg, or an npz"
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="FILE.py[:NAME]",
        help="JAX function of images [row, height, width, channel], 0 to 1, to logits "
        "(default name: logits_fn)",
    )
    parser.add_argument("--out", type=path, default=Path("runs/identify"), metavar="DIR")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave such images out and list them"
    )
    for name, (kind, default, text) in SETTINGS.items():
        parser.add_argument(
            f"--{name}", type=kind, default=default, help=f"{text} (default: {default})"
        )
    add_max_gib(parser)
    parser.set_defaults(run=run, less="fewer or smaller images")


def run(args) -> None:
    """Identify the images."""
    from jaxml.backdoor import IdentifyConfig
    from jaxml.commands.identify_files import identify_files

    message = identify_files(
        args.images,
        args.model,
        args.out,
        skip_unreadable=args.skip_unreadable,
        max_bytes=args.max_bytes,
        config=IdentifyConfig(**{name: getattr(args, name) for name in SETTINGS}),
        progress=lambda line: say(line, sys.stderr),
    )
    say(message)
