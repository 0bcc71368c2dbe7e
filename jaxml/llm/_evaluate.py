"""What a language model still knows of texts and questions: the measures that are asked for."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxml import checks
from jaxml.data.questions import ChoiceQuestion, Passage, Question
from jaxml.llm import _measures as measures
from jaxml.llm._model import Model, not_finite
from jaxml.llm._tokens import Texts, as_sequences
from jaxml.unlearning import metrics


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`; None is what was not asked for.

    Attributes:
      verbatim: how much of the passages is recited, 0 to 100: VerbMem of MUSE.
      knowledge: how well the questions are answered, 0 to 100: KnowMem of MUSE.
      choices: accuracy on the multiple-choice questions with its interval, each 0 to 1.
      perplexity: exp of the mean loss of a token of the texts that counts.
      min_k: Min-40% of each text, `[row]` in nats; those of texts forgotten and held out, before
        and after, are what `jaxml.unlearning.metrics.privacy_leakage` takes.
    """

    verbatim: float | None = None
    knowledge: float | None = None
    choices: metrics.ChoiceAccuracy | None = None
    perplexity: float | None = None
    min_k: Float[Array, " row"] | None = None


def evaluate(
    model: Model,
    *,
    verbatim: Sequence[Passage] = (),
    knowledge: Sequence[Question] = (),
    choices: Sequence[ChoiceQuestion] = (),
    texts: Texts | None = None,
    subject: str | None = None,
    length: int = 512,
    batch_size: int = 8,
) -> Evaluation:
    """Return what a language model knows: the measures of MUSE and WMDP, those asked for.

    Answers are decoded greedily, 128 tokens of a passage and 32 of an answer.

    Args:
      model: as of `load`.
      verbatim: passages to recite, as of `jaxml.data.load_passages`.
      knowledge: questions to answer, as of `jaxml.data.load_questions`.
      choices: multiple-choice questions, all with as many choices, as of
        `jaxml.data.load_choice_questions`; the letters " A", " B" have to be a token each.
      texts: for perplexity and Min-K%: `Sequences`, tokens `[row, time]`, or texts or chats as of
        `tokenize`.
      subject: of the choices, such as "biology", for their prompt.
      length: most tokens of a row, where texts are to be tokenized.
      batch_size: prompts or rows at a time.

    Returns:
      The measures, None where there is nothing to measure them by.

    Raises:
      ValueError: nothing to measure, parameters with NaN or infinity, tokens beyond the vocabulary,
        questions of different numbers of choices, a letter that is
        no token, or `batch_size` below 1; see also `tokenize`.
    """
    if not (verbatim or knowledge or choices or texts is not None):
        raise checks.refused("texts", texts, "texts, or verbatim, knowledge or choices")
    checks.counts(batch_size=batch_size)
    if leaf := not_finite(model.params):
        raise checks.refused(f"model.params{leaf}", "NaN or infinity", "finite numbers")
    network = model.params, model.config
    writer = *network, model.tokenizer
    measured: dict[str, Any] = {}
    if verbatim:
        measured["verbatim"] = measures.verbatim(*writer, verbatim, batch_size=batch_size)
    if knowledge:
        measured["knowledge"] = measures.knowledge(*writer, knowledge, batch_size=batch_size)
    if choices:
        measured["choices"] = measures.choices(
            *writer, choices, subject=subject, batch_size=batch_size
        )
    if texts is not None:
        rows = as_sequences(model, texts, length=length)
        scores = measures.text_scores(*network, rows, batch_size=batch_size)
        measured["perplexity"] = float(np.exp(-measures.per_token(scores.logp, rows)))
        measured["min_k"] = scores.min_k
    return Evaluation(**measured)
