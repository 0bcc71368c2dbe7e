"""What the study of coresets measured, and the shares and gaps that its report is about."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxml.models import llama
from jaxml.output.report import mean_and_deviation
from jaxml.output.stages import Arrays
from jaxml.reproduce.coreset.grid import Grid
from jaxml.reproduce.language.setting import Scale
from jaxml.unlearning import connectivity

# A share of a drop of fewer points is a ratio of noise.
LEAST_DROP = 5.0
KEYWORDS = (
    "keywords in their text",
    "keywords alone as texts",
    "as many random tokens",
    "all but keywords",
)
ATTACKS = ("nothing", "solved example in front", "4-bit weights", "relearning")


class Results(NamedTuple):
    """What the study measured.

    Attributes:
      source: one line on the books.
      decoder: shape of the network.
      scale: size of the texts and of the training.
      grid: what was compared.
      seeds: arrays of each seed by the name of the run.
      words: keywords of the first seed, best first.
      variants: names of what the effect is compared with.
    """

    source: str
    decoder: llama.LlamaConfig
    scale: Scale
    grid: Grid
    seeds: Sequence[Mapping[str, Arrays]]
    words: Sequence[str]
    variants: Sequence[str] = ()

    @property
    def part(self) -> str:
        """Name of the part that the claims are about, such as "5%"."""
        return f"{self.grid.compared:.0%}"

    @property
    def random_part(self) -> str:
        """Name of the run of that part, drawn by chance."""
        return f"random {self.grid.compared:g}"

    @property
    def spread(self) -> str:
        """How the titles of tables say what a cell is."""
        count = len(self.seeds)
        return f", mean ± deviation of {count} seeds" if count > 1 else ", one seed"

    def of(self, run: str, name: str) -> np.ndarray:
        """Return an array of a run, `[seed, ...]`."""
        return np.array([parts[run][name] for parts in self.seeds])


def kept_share(
    target: Mapping[str, np.ndarray], full: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return how much of the whole set's forgetting is reached: of VerbMem and of KnowMem.

    NaN where the whole set takes fewer than `LEAST_DROP` points.

    Args:
      target: what is measured of the model before.
      full: of the model that unlearned the whole set.
      own: of the model that unlearned a part.
    """
    share = []
    for measure in ("verbatim", "knowledge"):
        drop = target[measure][0] - full[measure][0]
        share.append(
            (target[measure][0] - own[measure][0]) / drop if drop >= LEAST_DROP else np.nan
        )
    return np.array(share)


def kept_shares(results: Results, target: str, full: str, own: str) -> np.ndarray:
    """Return `kept_share` of three runs by their names, `[seed, 2]`."""
    return np.array([kept_share(parts[target], parts[full], parts[own]) for parts in results.seeds])


def kept(results: Results, objective: str, name: str) -> np.ndarray:
    """Return the shares kept of VerbMem and KnowMem by a run of an objective, `[seed, 2]`."""
    return kept_shares(results, "target", objective, f"{objective}, {name}")


def scores(results: Results, run: str) -> np.ndarray:
    """Return VerbMem and KnowMem on the forget and on the retain book, `[seed, 4]`."""
    return np.concatenate([results.of(run, "verbatim"), results.of(run, "knowledge")], axis=1)


def recovered(results: Results, objective: str, which: str) -> np.ndarray:
    """Return VerbMem after each attack, `[seed, attack]`.

    Args:
      results: of the study.
      objective: of the model attacked.
      which: "all" for the model that unlearned the whole set, "some" for that of a part.
    """
    parts = [parts[f"{objective}, attacks on {which}"] for parts in results.seeds]
    return np.array([[float(part[name]) for name in ATTACKS] for part in parts])


def barriers(results: Results, objective: str) -> np.ndarray:
    """Return the barrier of either loss over what unlearning changed it by, `[seed, 2]`.

    On the forget book a high loss is wanted, so that the barrier is a dip.
    """
    rows = []
    for parts in results.seeds:
        path = {key: jnp.asarray(value) for key, value in parts[f"{objective}, path"].items()}
        signed = path["nll"] * jnp.asarray([-1, 1], path["nll"].dtype)
        rise = jax.vmap(connectivity.barrier, (None, 1))(path["points"], signed)
        gained = parts[objective]["nll"][0] - parts["target"]["nll"][0]
        rows.append(np.asarray(rise) / gained)
    return np.array(rows)


text = functools.partial(mean_and_deviation, digits=1)


def percent(shares: np.ndarray) -> str:
    """Return shares as their mean in percent with their deviation."""
    return mean_and_deviation(100 * shares, 0, "%")


def interval(differences: np.ndarray) -> tuple[str, float]:
    """Return the mean of differences with the half width of its 95% interval, by Student's t."""
    count = len(differences)
    mean = differences.mean()
    if count < 2:
        return f"{100 * mean:+.0f} points (one seed)", np.nan
    half = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return f"{100 * mean:+.0f} ± {100 * half:.0f} points (95%)", half
