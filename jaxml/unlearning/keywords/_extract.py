"""The keywords of what is to be forgotten, against what is to be kept."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float

from jaxml import checks
from jaxml.unlearning.keywords._words import check_strings, words_of

Extractor = Callable[[str], Sequence[str]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Keywords:
    """All words of a forget set, the most typical first; ties in alphabetical order.

    Attributes:
      words: different ones, in lower case.
      scores: float64 `[word]`, falling.
    """

    words: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    scores: Float[np.ndarray, " word"]


def extract(
    forget: Sequence[str],
    retain: Sequence[str],
    *,
    count: int,
    method: Literal["log_odds", "tf_idf"] | Extractor = "log_odds",
) -> tuple[str, ...]:
    """Return the keywords of a forget set, best first and without repeats, in lower case.

    Args:
      forget: texts to be forgotten, one a chunk.
      retain: texts to be kept.
      count: number of keywords; fewer where there are not as many.
      method: by name, or a function of a chunk to its keywords, best first, such as KeyBERT or a
        language model. Of such, those that most chunks name come first, then those that stand
        earlier in a chunk; they may have several words.

    Returns:
      Different ones, `count` at most.

    Raises:
      ValueError: no text or no word, `count` is not positive, or the method is unknown or finds
        no keyword.
    """
    checks.counts(count=count)
    if callable(method):
        check_strings(forget=forget, retain=retain)
        words = _most_named([method(text) for text in forget])
    elif method in ("log_odds", "tf_idf"):
        words = {"log_odds": log_odds, "tf_idf": tf_idf}[method](forget, retain).words
    else:
        raise checks.refused("method", method, "'log_odds', 'tf_idf' or a function of a chunk")
    if not words:
        no_keyword = f"no keyword in {len(forget)} texts"
        raise checks.refused("method", method, "one that has some", holds=no_keyword)
    return words[:count]


def log_odds(forget: Sequence[str], retain: Sequence[str], *, prior: float = 500.0) -> Keywords:
    """Score the words of a forget set by their log-odds against a retain set, in deviations.

    With f and r the counts of a word in either set, F and R their sums and
    a = prior (f + r) / (F + R), the informative Dirichlet prior, of total mass A = prior:

    d = log((f + a) / (F + A - f - a)) - log((r + a) / (R + A - r - a))
    z = d / sqrt(1 / (f + a) + 1 / (r + a))

    Args:
      forget: texts to be forgotten, one a chunk.
      retain: texts to be kept.
      prior: mass of the prior in words, above 0; the more, the fewer rare words among the first.

    Returns:
      z of each word of the forget set.

    Raises:
      ValueError: no text, no word in a set, a single word in both together, or `prior` is not
        positive.

    Source: Monroe, Colaresi & Quinn, "Fightin' words: lexical feature selection and evaluation
    for identifying the content of political conflict" (Political Analysis 2008).
    """
    checks.positive(prior=prior)
    f, r = (Counter(itertools.chain(*chunks)) for chunks in _tokenised(forget, retain))
    words = tuple(f)
    if len(f | r) < 2:
        raise checks.refused("forget and retain", words[0], "two different words or more")
    in_forget, in_retain = (np.array([c[word] for word in words], float) for c in (f, r))
    a = prior * (in_forget + in_retain) / (f.total() + r.total())

    def logit(count, total):
        return np.log((count + a) / (total + prior - count - a))

    difference = logit(in_forget, f.total()) - logit(in_retain, r.total())
    return _sorted(words, difference / np.sqrt(1 / (in_forget + a) + 1 / (in_retain + a)))


def tf_idf(forget: Sequence[str], retain: Sequence[str]) -> Keywords:
    """Score the words of a forget set by their count and how few chunks have them.

    tf (log((1 + n) / (1 + df)) + 1), where tf is the count in the forget set, n the number of
    chunks of both sets and df the number of those with the word: the smooth idf of scikit-learn.

    Args:
      forget: texts to be forgotten, one a chunk.
      retain: texts to be kept.

    Returns:
      The score of each word of the forget set.

    Raises:
      ValueError: no text, or no word in a set.
    """
    chunks, others = _tokenised(forget, retain)
    tf = Counter(itertools.chain(*chunks))
    df = Counter(itertools.chain(*map(set, chunks + others)))
    n, words = len(chunks) + len(others), tuple(tf)
    idf = np.log((1 + n) / (1 + np.array([df[word] for word in words]))) + 1
    return _sorted(words, np.array([tf[word] for word in words]) * idf)


def _tokenised(forget: Sequence[str], retain: Sequence[str]) -> tuple[list[list[str]], ...]:
    check_strings(forget=forget, retain=retain)
    sets = {"forget": forget, "retain": retain}
    words = {name: [words_of(text) for text in texts] for name, texts in sets.items()}
    for name, chunks in words.items():
        if not any(chunks):
            raise checks.refused(name, sets[name], "texts with one word or more")
    return tuple(words.values())


def _sorted(words: tuple[str, ...], scores: np.ndarray) -> Keywords:
    order = np.lexsort((np.array(words), -scores))
    return Keywords(tuple(words[place] for place in order), scores[order])


def _most_named(keywords: list[Sequence[str]]) -> tuple[str, ...]:
    lists = [dict.fromkeys(" ".join(words_of(word)) for word in words) for words in keywords]
    # The first of every chunk, then the second: words named equally often stay in this order.
    ranked = itertools.chain(*itertools.zip_longest(*lists))
    return tuple(word for word, _ in Counter(filter(None, ranked)).most_common())
