"""`jaxml unfold`: the displacement field of any tool without its folds."""

from pathlib import Path

from jaxml.commands.terminal import add_max_gib, path, say


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "unfold", help="take the folds out of a displacement field of ITK, ANTs or jaxml"
    )
    parser.add_argument(
        "field",
        type=path,
        metavar="FILE",
        help="field as .nii.gz, .nrrd or .mha of ITK, or fields.npz",
    )
    parser.add_argument("--out", type=path, default=Path("runs/unfold"), metavar="DIR")
    add_max_gib(parser)
    parser.set_defaults(run=run, less="a field of fewer voxels")


def run(args) -> None:
    """Repair the field."""
    from jaxml.commands.unfold_files import unfold_file

    say(unfold_file(args.field, args.out, max_bytes=args.max_bytes))
