"""`jaxml register`: one image of the user's onto another."""

import sys
from pathlib import Path

from jaxml.commands.terminal import add_max_gib, integer, path, say

PROJECTIONS = ("fold_free", "layer", "none")
SIMILARITIES = ("ncc", "mi", "mse")
AFFINES = ("affine", "similarity", "rigid", "none")
METHODS = ("both", "symmetric", "energy")
# What the command ends with where its result cannot be true; 2 is for what cannot be used.
IMPLAUSIBLE = 3


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "register",
        help="register two images: NIfTI, mgz, nrrd or mha volumes, arrays, pictures",
        epilog=f"Ends with {IMPLAUSIBLE} where the result cannot be true, all files written.",
    )
    parser.add_argument("fixed", type=path, metavar="FIXED")
    parser.add_argument("moving", type=path, metavar="MOVING", help="image to move onto FIXED")
    parser.add_argument("--out", type=path, default=Path("runs/register"), metavar="DIR")
    _add_choice(parser, "--similarity", SIMILARITIES, "mi for images of different contrast: ")
    _add_choice(parser, "--affine", AFFINES, "map that comes before the deformation: ")
    _add_choice(
        parser,
        "--method",
        METHODS,
        "symmetric for smooth fields, the same whichever image is fixed; energy for a close fit: ",
    )
    _add_choice(parser, "--projection", PROJECTIONS)
    parser.add_argument(
        "--steps", type=integer, help="steps a resolution (default: 100, fewer on fine ones)"
    )
    parser.add_argument(
        "--smoothness",
        type=float,
        help="weight of the field's roughness (default: 0.7, for mi 3.0, mse 0.014)",
    )
    masked = "what is 0 in it does not count, such as a lesion"
    parser.add_argument("--fixed-mask", type=path, metavar="FILE", help=masked)
    parser.add_argument("--moving-mask", type=path, metavar="FILE", help="the same of MOVING")
    parser.add_argument(
        "--channel",
        type=path,
        nargs=2,
        action="extend",
        default=[],
        metavar=("FIXED2", "MOVING2"),
        help="further images on the voxels of both, may be repeated",
    )
    overlap = "labels of both, for their overlap"
    parser.add_argument("--labels-fixed", type=path, metavar="FILE", help=overlap)
    parser.add_argument("--labels-moving", type=path, metavar="FILE")
    parser.add_argument(
        "--landmarks",
        type=path,
        nargs=2,
        metavar=("FIXED_CSV", "MOVING_CSV"),
        help="points of both, for their distance: csv with x, y, z in LPS mm as of ANTs, or pixels",
    )
    parser.add_argument(
        "--volume", type=integer, metavar="N", help="image to read of a file of several, from 0"
    )
    parser.add_argument(
        "--anyway", action="store_true", help="end with 0 also where the result cannot be true"
    )
    add_max_gib(parser)
    parser.set_defaults(run=run, less="images of fewer voxels")


def run(args) -> int:
    """Register the two files; return what the command ends with."""
    from jaxml.commands.register_files import Files, register_files

    marks = args.landmarks or (None, None)
    fixed, moving = (
        Files(image, args.channel[i::2], mask, labels, marks[i])
        for i, (image, mask, labels) in enumerate(
            (
                (args.fixed, args.fixed_mask, args.labels_fixed),
                (args.moving, args.moving_mask, args.labels_moving),
            )
        )
    )
    names = (
        "similarity",
        "affine",
        "method",
        "projection",
        "steps",
        "smoothness",
        "volume",
        "max_bytes",
    )
    settings = {name: getattr(args, name) for name in names}
    text, doubt = register_files(fixed, moving, args.out, **settings)
    say(text)
    if doubt is None:
        return 0
    say(f"jaxml register: {doubt}", file=sys.stderr)
    return 0 if args.anyway else IMPLAUSIBLE


def _add_choice(parser, name: str, choices: tuple[str, ...], what: str = "") -> None:
    # Not `choices=`: what is refused is told as everywhere else, in one line.
    listed = f"{', '.join(choices[:-1])} or {choices[-1]} (default: {choices[0]})"
    parser.add_argument(name, default=choices[0], metavar="NAME", help=what + listed)
