"""`jaxml coreset`: a part of the user's texts to forget, by a score."""

from pathlib import Path

from jaxml.commands.terminal import add_max_gib, integer, path, say


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("coreset", help="choose a part of texts to forget, by a score")
    parser.add_argument("--model", type=path, required=True, metavar="DIR|GGUF|NAME")
    parser.add_argument(
        "--forget", type=path, required=True, metavar="FILE", help="txt, json, jsonl, csv, parquet"
    )
    parser.add_argument(
        "--retain", type=path, metavar="FILE", help="texts to keep; for keyword_density alone"
    )
    parser.add_argument(
        "--score",
        default="random",
        metavar="NAME",
        help="random (default), el2n, grand (of the down matrices only), loss, perplexity, min_k, "
        "moderate, k_center or keyword_density",
    )
    parser.add_argument(
        "--fraction", type=float, default=0.05, help="of the chunks (default: 0.05)"
    )
    parser.add_argument("--keep", default="top", help="top (default), bottom or middle scores")
    parser.add_argument(
        "--length", type=integer, default=512, help="tokens of a chunk (default: 512)"
    )
    parser.add_argument(
        "--count", type=integer, default=100, help="keywords of keyword_density (default: 100)"
    )
    parser.add_argument("--seed", type=integer, default=0)
    parser.add_argument("--out", type=path, default=Path("runs/coreset"), metavar="DIR")
    add_max_gib(parser)
    parser.set_defaults(run=run, less="a smaller --length, fewer texts or a smaller model")


def run(args) -> None:
    """Choose the texts."""
    from jaxml.commands.coreset_files import choose_files

    names = ("retain", "score", "fraction", "keep", "length", "count", "seed", "max_bytes")
    settings = {name: getattr(args, name) for name in names}
    say(choose_files(args.model, args.forget, args.out, **settings))
