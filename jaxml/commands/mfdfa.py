"""`jaxml mfdfa`: multifractal analysis of the user's series."""

from pathlib import Path

from jaxml.commands.terminal import add_max_gib, integer, path, say


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("mfdfa", help="multifractal analysis of wav, flac, csv, npy files")
    parser.add_argument("files", nargs="+", type=path, metavar="FILE")
    parser.add_argument("--order", type=integer, default=1, help="degree of the trend, 0 to 3")
    parser.add_argument(
        "--scales", type=integer, nargs="+", metavar="S", help="segment lengths in samples"
    )
    parser.add_argument("--q", type=float, nargs="+", metavar="Q", help="moment orders")
    parser.add_argument("--out", type=path, default=Path("runs/mfdfa"), metavar="DIR")
    add_max_gib(parser)
    parser.set_defaults(run=run, less="shorter series")


def run(args) -> None:
    """Analyze the files."""
    from jaxml.commands.mfdfa_files import analyze_files

    settings = {name: getattr(args, name) for name in ("order", "scales", "q", "max_bytes")}
    say(analyze_files(args.files, args.out, **settings))
