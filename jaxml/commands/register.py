"""`jaxml register`: one image of the user's onto another."""

from pathlib import Path

from jaxml.commands.terminal import add_max_gib, integer, path, say

PROJECTIONS = ("fold_free", "layer", "none")


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "register", help="register two images: NIfTI volumes, npz or npy arrays, png pictures"
    )
    parser.add_argument("fixed", type=path, metavar="FIXED")
    parser.add_argument("moving", type=path, metavar="MOVING", help="image to move onto FIXED")
    parser.add_argument("--out", type=path, default=Path("runs/register"), metavar="DIR")
    parser.add_argument(
        "--projection",
        default=PROJECTIONS[0],
        metavar="NAME",
        help=f"{', '.join(PROJECTIONS[:-1])} or {PROJECTIONS[-1]} (default: {PROJECTIONS[0]})",
    )
    parser.add_argument(
        "--steps", type=integer, help="steps a resolution (default: 100, on fine ones 10)"
    )
    parser.add_argument(
        "--smoothness", type=float, help="weight of the field's roughness (default: 0.5)"
    )
    add_max_gib(parser)
    parser.set_defaults(run=run, less="images of fewer voxels")


def run(args) -> None:
    """Register the two files."""
    from jaxml.commands.register_files import register_files

    names = ("projection", "steps", "smoothness", "max_bytes")
    settings = {name: getattr(args, name) for name in names}
    say(register_files(args.fixed, args.moving, args.out, **settings))
