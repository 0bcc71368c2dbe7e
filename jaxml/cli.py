"""The command line: `jaxml reproduce` and one tool a method for the user's own files."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 2 with one line on what was wrong."""
    args = _parser().parse_args(argv)
    try:
        _use_compilation_cache()
        _keep_freed_memory()
        args.run(args)
    except ModuleNotFoundError as error:
        print(
            f"jaxml {args.command}: needs the package {error.name}; "
            "install it with: pip install 'jaxml[experiments]'",
            file=sys.stderr,
        )
        return 2
    except (ValueError, OSError) as error:
        print(f"jaxml {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"jaxml {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxml", description="Five research methods in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    reproduce = commands.add_parser(
        "reproduce", help="run the methods' experiments and write a report"
    )
    reproduce.add_argument(
        "methods",
        nargs="*",
        metavar="METHOD",
        help="registration, speech, backdoor, self-training (default: all)",
    )
    reproduce.add_argument("--scale", default="standard", help="quick, standard (default) or paper")
    reproduce.add_argument("--out", type=Path, default=Path("runs/latest"), metavar="DIR")
    reproduce.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of data (default: $JAXML_DATA)"
    )
    reproduce.add_argument("--seed", type=int, default=0)
    reproduce.set_defaults(run=_reproduce)

    mfdfa = commands.add_parser("mfdfa", help="multifractal analysis of wav, flac, csv, npy files")
    mfdfa.add_argument("files", nargs="+", type=Path, metavar="FILE")
    mfdfa.add_argument("--order", type=int, default=1, help="degree of the trend, 0 to 3")
    mfdfa.add_argument(
        "--scales", type=int, nargs="+", metavar="S", help="segment lengths in samples"
    )
    mfdfa.add_argument("--q", type=float, nargs="+", metavar="Q", help="moment orders")
    mfdfa.add_argument("--out", type=Path, default=Path("runs/mfdfa"), metavar="DIR")
    mfdfa.set_defaults(run=_mfdfa)

    register = commands.add_parser(
        "register", help="register two images: NIfTI volumes, npz or npy arrays, png pictures"
    )
    register.add_argument("fixed", type=Path, metavar="FIXED")
    register.add_argument("moving", type=Path, metavar="MOVING", help="image to move onto FIXED")
    register.add_argument("--out", type=Path, default=Path("runs/register"), metavar="DIR")
    register.add_argument(
        "--projection", default="fold_free", help="fold_free (default), layer or none"
    )
    register.add_argument(
        "--steps", type=int, help="steps a resolution (default: 100, on fine ones 10)"
    )
    register.add_argument("--regularity", type=float, help="weight of the field's roughness")
    register.set_defaults(run=_register)

    identify = commands.add_parser(
        "identify", help="find backdoor images of a training set by the classifier trained on it"
    )
    identify.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER|NPZ", help="png or jpg, or an npz"
    )
    identify.add_argument(
        "--model",
        required=True,
        metavar="FILE.py[:NAME]",
        help="JAX function of images [row, height, width, channel], 0 to 1, to logits "
        "(default name: logits_fn)",
    )
    identify.add_argument("--out", type=Path, default=Path("runs/identify"), metavar="DIR")
    identify.add_argument(
        "--skip-unreadable", action="store_true", help="leave such images out and list them"
    )
    identify.add_argument("--rounds", type=int, default=4, help="fits of the mask and splits")
    identify.add_argument("--steps", type=int, default=200, help="steps of the mask in a round")
    identify.add_argument("--shift", type=float, default=0.2, help="subtracted from the images")
    identify.add_argument("--sparsity", type=float, default=0.01, help="weight of |mask|_1")
    identify.set_defaults(run=_identify)
    return parser


def _reproduce(args) -> None:
    from jaxml.reproduce import reproduce

    reproduce(args.methods, scale=args.scale, out=args.out, data=args.data, seed=args.seed)
    print(f"report: {args.out / 'report.html'}")


def _mfdfa(args) -> None:
    from jaxml.reproduce.series import analyse_files

    print(analyse_files(args.files, args.out, order=args.order, scales=args.scales, q=args.q))


def _register(args) -> None:
    from jaxml.reproduce.pair import register_files

    settings = {"projection": args.projection, "steps": args.steps, "regularity": args.regularity}
    print(register_files(args.fixed, args.moving, args.out, **settings))


def _identify(args) -> None:
    from jaxml.reproduce.identification import identify_files

    names = ("skip_unreadable", "rounds", "steps", "shift", "sparsity")
    settings = {name: getattr(args, name) for name in names}
    progress = lambda line: print(line, file=sys.stderr)
    print(identify_files(args.images, args.model, args.out, progress=progress, **settings))


def _use_compilation_cache() -> None:
    """Keep compiled programs between runs: here, not in the library, as it is a choice."""
    import jax

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "jaxml" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _keep_freed_memory() -> None:
    """Have glibc reuse large blocks: XLA's buffers come anew at each call, and pages cost."""
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)
