"""The command line: `jaxml reproduce` and one tool a method for the user's own files."""

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxml.extras import extra


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 2 with one line on what was wrong, or 130 if it was interrupted."""
    args = _parser().parse_args(argv)
    try:
        with extra("experiments"):
            _check_plots()
            _use_compilation_cache()
            _keep_freed_memory()
            _quiet_checkpoints()
            _check_out(args.out)
            args.run(args)
    except (ModuleNotFoundError, ValueError, OSError, FloatingPointError) as error:
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
        help="registration, speech, backdoor, self-training, unlearning, coreset (default: all)",
    )
    reproduce.add_argument("--scale", default="standard", help="quick, standard (default) or paper")
    reproduce.add_argument("--out", type=Path, default=Path("runs/latest"), metavar="DIR")
    reproduce.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of data (default: $JAXML_DATA)"
    )
    reproduce.add_argument("--seed", type=_int, default=0)
    reproduce.set_defaults(run=_reproduce)

    mfdfa = commands.add_parser("mfdfa", help="multifractal analysis of wav, flac, csv, npy files")
    mfdfa.add_argument("files", nargs="+", type=Path, metavar="FILE")
    mfdfa.add_argument("--order", type=_int, default=1, help="degree of the trend, 0 to 3")
    mfdfa.add_argument(
        "--scales", type=_int, nargs="+", metavar="S", help="segment lengths in samples"
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
        "--steps", type=_int, help="steps a resolution (default: 100, on fine ones 10)"
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
    identify.add_argument("--rounds", type=_int, default=4, help="fits of the mask and splits")
    identify.add_argument("--steps", type=_int, default=200, help="steps of the mask in a round")
    identify.add_argument("--shift", type=float, default=0.2, help="subtracted from the images")
    identify.add_argument("--sparsity", type=float, default=0.01, help="weight of |mask|_1")
    identify.set_defaults(run=_identify)

    coreset = commands.add_parser("coreset", help="choose a part of texts to forget, by a score")
    coreset.add_argument("--model", type=Path, required=True, metavar="DIR|GGUF")
    coreset.add_argument(
        "--forget", type=Path, required=True, metavar="FILE", help="txt, json, jsonl, csv, parquet"
    )
    coreset.add_argument(
        "--retain", type=Path, metavar="FILE", help="texts to keep; for keyword_density alone"
    )
    coreset.add_argument(
        "--score",
        default="random",
        metavar="NAME",
        help="random (default), el2n, grand (of the down matrices only), loss, perplexity, min_k, "
        "moderate, k_centre or keyword_density",
    )
    coreset.add_argument(
        "--fraction", type=float, default=0.05, help="of the chunks (default: 0.05)"
    )
    coreset.add_argument("--keep", default="top", help="top (default), bottom or middle scores")
    coreset.add_argument("--length", type=_int, default=512, help="tokens of a chunk")
    coreset.add_argument(
        "--count", type=_int, default=100, help="keywords of keyword_density (default: 100)"
    )
    coreset.add_argument("--seed", type=_int, default=0)
    coreset.add_argument("--out", type=Path, default=Path("runs/coreset"), metavar="DIR")
    coreset.set_defaults(run=_coreset)

    unlearn = commands.add_parser("unlearn", help="make a language model forget texts")
    unlearn.add_argument("--model", type=Path, required=True, metavar="DIR|GGUF")
    unlearn.add_argument(
        "--forget", type=Path, required=True, metavar="FILE", help="txt, json, jsonl, csv, parquet"
    )
    unlearn.add_argument("--retain", type=Path, required=True, metavar="FILE")
    unlearn.add_argument("--out", type=Path, default=Path("runs/unlearn"), metavar="DIR")
    unlearn.add_argument(
        "--method", default="npo", help="npo (default), ga, simnpo, wga, satimp, dpo, idk or rmu"
    )
    unlearn.add_argument(
        "--alternative", type=Path, metavar="FILE", help="for dpo and idk: instead of each text"
    )
    unlearn.add_argument(
        "--retain-term", default="nll", metavar="TERM", help="nll (default), kl or none"
    )
    unlearn.add_argument("--steps", type=_int, default=100)
    unlearn.add_argument("--batch-size", type=_int, default=4, help="sequences of a file in a step")
    unlearn.add_argument("--learning-rate", type=float, default=1e-5)
    unlearn.add_argument("--beta", type=float, help="of the method")
    unlearn.add_argument("--layer", type=_int, default=7, help="that RMU steers")
    unlearn.add_argument("--length", type=_int, default=512, help="tokens of a sequence")
    unlearn.add_argument("--seed", type=_int, default=0)
    unlearn.set_defaults(run=_unlearn)

    measure = commands.add_parser(
        "evaluate-unlearning", help="measure what a language model knows of texts and questions"
    )
    measure.add_argument("--model", type=Path, required=True, metavar="DIR|GGUF")
    measure.add_argument("--verbatim", type=Path, metavar="FILE", help="passages: prompt, gt")
    measure.add_argument("--knowledge", type=Path, metavar="FILE", help="question, answer")
    measure.add_argument(
        "--choices", type=Path, nargs="+", default=(), metavar="FILE", help="as of WMDP or MMLU"
    )
    measure.add_argument("--text", type=Path, nargs="+", default=(), metavar="FILE")
    measure.add_argument(
        "--privacy",
        type=Path,
        nargs=3,
        metavar=("FORGET", "HOLDOUT", "MODEL"),
        help="PrivLeak: texts unlearned, texts never seen, a model trained without the former",
    )
    measure.add_argument("--length", type=_int, default=512, help="tokens of a sequence")
    measure.add_argument("--out", type=Path, default=Path("runs/evaluation"), metavar="DIR")
    measure.set_defaults(run=_evaluate)
    return parser


def _int(text: str) -> int:
    """Return a whole number of 32 bits, as JAX holds it."""
    with contextlib.suppress(ValueError):
        if abs(number := int(text)) < 2**31:
            return number
    raise argparse.ArgumentTypeError(f"{text[:40]!r}; accepted are whole numbers below 2^31")


def _reproduce(args) -> None:
    if args.scale == "quick":
        _compile_soon()
    from jaxml.reproduce import reproduce

    reproduce(args.methods, scale=args.scale, out=args.out, data=args.data, seed=args.seed)
    _tell(f"report: {args.out / 'report.html'}")


def _mfdfa(args) -> None:
    from jaxml.reproduce.series import analyse_files

    _tell(analyse_files(args.files, args.out, order=args.order, scales=args.scales, q=args.q))


def _register(args) -> None:
    from jaxml.reproduce.pair import register_files

    settings = {"projection": args.projection, "steps": args.steps, "regularity": args.regularity}
    _tell(register_files(args.fixed, args.moving, args.out, **settings))


def _identify(args) -> None:
    from jaxml.reproduce.identification import identify_files

    names = ("skip_unreadable", "rounds", "steps", "shift", "sparsity")
    settings = {name: getattr(args, name) for name in names}
    progress = lambda line: _tell(line, sys.stderr)
    _tell(identify_files(args.images, args.model, args.out, progress=progress, **settings))


def _coreset(args) -> None:
    from jaxml.reproduce.chunks import choose_files

    names = ("retain", "score", "fraction", "keep", "length", "count", "seed")
    settings = {name: getattr(args, name) for name in names}
    _tell(choose_files(args.model, args.forget, args.out, **settings))


def _unlearn(args) -> None:
    from jaxml.reproduce.language import unlearn_files
    from jaxml.unlearning import UnlearnConfig

    names = ("method", "steps", "batch_size", "learning_rate", "beta")
    config = UnlearnConfig(retain=args.retain_term, **{n: getattr(args, n) for n in names})
    files = args.model, args.forget, args.retain, args.out
    own = ("alternative", "layer", "length", "seed")
    settings = {name: getattr(args, name) for name in own}
    _tell(unlearn_files(*files, config=config, **settings))


def _evaluate(args) -> None:
    from jaxml.reproduce.language import evaluate_files

    told = evaluate_files(
        args.model,
        args.out,
        verbatim=args.verbatim,
        knowledge=args.knowledge,
        choices=args.choices,
        texts=args.text,
        privacy=args.privacy,
        length=args.length,
        progress=lambda line: _tell(line, sys.stderr),
    )
    _tell(told)


def _tell(text: str, file=None) -> None:
    """Print in the first of several processes."""
    import jax

    if jax.process_index() == 0:
        print(text, file=file)


def _check_plots() -> None:
    """Miss what draws the plots now: they come last, after hours of work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(name="matplotlib")


def _check_out(folder: Path) -> None:
    """Miss a place for the results now, for the same reason."""
    from jaxml.reproduce.stages import check_writable

    check_writable(folder)


def _quiet_checkpoints() -> None:
    """Leave what goes wrong to one line: orbax also logs it, with pages of traces."""
    import logging

    from absl.logging import get_absl_logger

    for logger in (get_absl_logger(), logging.getLogger("asyncio")):
        logger.setLevel(logging.CRITICAL)


def _use_compilation_cache() -> None:
    """Keep compiled programs between runs: here, not in the library, as it is a choice."""
    import jax

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "jaxml" / "xla"))
    # Those of the least programs cost as much to write as to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _compile_soon() -> None:
    """Have LLVM optimise less: a quick run compiles many programs for few calls of each."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=1".strip()


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
