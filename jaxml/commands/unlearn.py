"""`jaxml unlearn`: the user's language model forgets the user's texts."""

from pathlib import Path

from jaxml.commands.terminal import add_max_gib, integer, names_in, path, say, utf8_path


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("unlearn", help="make a language model forget texts")
    parser.add_argument("--model", type=path, required=True, metavar="DIR|GGUF|NAME")
    parser.add_argument(
        "--forget", type=path, required=True, metavar="FILE", help="txt, json, jsonl, csv, parquet"
    )
    parser.add_argument("--retain", type=path, required=True, metavar="FILE")
    parser.add_argument("--out", type=utf8_path, default=Path("runs/unlearn"), metavar="DIR")
    objectives = [
        *names_in("unlearning/_objectives.py", "SEQUENCE_OBJECTIVES"),
        *names_in("unlearning/_token_objectives.py", "TOKEN_OBJECTIVES"),
    ]
    parser.add_argument(
        "--method", default="npo", help=f"{', '.join(objectives)} or rmu (default: npo)"
    )
    parser.add_argument(
        "--alternative", type=path, metavar="FILE", help="for dpo and idk: instead of each text"
    )
    parser.add_argument(
        "--retain-term", default="nll", metavar="TERM", help="nll (default), kl or none"
    )
    parser.add_argument(
        "--steps", type=integer, default=100, help="steps of the optimizer (default: 100)"
    )
    parser.add_argument(
        "--batch-size",
        type=integer,
        default=4,
        help="sequences of a file in a step (default: 4)",
    )
    parser.add_argument(
        "--learning-rate", type=float, default=1e-5, help="of AdamW (default: 1e-05)"
    )
    parser.add_argument("--beta", type=float, help="of the method (default: its own)")
    parser.add_argument(
        "--layer", type=integer, default=7, help="layer that RMU steers, from 0 (default: 7)"
    )
    parser.add_argument(
        "--length", type=integer, default=512, help="tokens of a sequence (default: 512)"
    )
    parser.add_argument("--seed", type=integer, default=0)
    add_max_gib(parser)
    parser.set_defaults(run=run, less="a smaller --batch-size or --length, or a smaller model")


def run(args) -> None:
    """Unlearn the texts."""
    from jaxml.commands.unlearn_files import unlearn_files
    from jaxml.unlearning import UnlearnConfig

    names = ("method", "steps", "batch_size", "learning_rate", "beta")
    config = UnlearnConfig(retain=args.retain_term, **{n: getattr(args, n) for n in names})
    files = args.model, args.forget, args.retain, args.out
    own = ("alternative", "layer", "length", "seed", "max_bytes")
    settings = {name: getattr(args, name) for name in own}
    say(unlearn_files(*files, config=config, **settings))
