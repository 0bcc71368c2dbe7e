"""What a model still knows of a text, from what it writes: verbatim, and by questions."""

import re
from collections.abc import Sequence

from jaxml import checks
from jaxml.unlearning.metrics._rouge import rouge_l

# Where an answer ends: the model goes on with the next question by itself.
_ANSWER_ENDS = re.compile(r"\n\n|\nQuestion|Question:")


def verbatim_memorization(continuations: Sequence[str], references: Sequence[str]) -> float:
    """Return how far a model continues passages word by word (VerbMem): 0 to 100.

    The mean ROUGE-L F1 times 100. MUSE prompts with the start of each passage, decodes 128
    tokens greedily, and cuts the reference to its first 128 tokens.

    Args:
      continuations: what the model wrote, a text a passage.
      references: how each passage goes on.

    Returns:
      Percent.

    Raises:
      ValueError: the numbers of texts differ, or there is none.

    Source: Shi et al., "MUSE: machine unlearning six-way evaluation for language models" (ICLR
    2025).
    """
    _check_texts(continuations=continuations, references=references)
    return _mean_rouge(continuations, references)


def knowledge_memorization(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return how far a model answers questions as the text does (KnowMem): 0 to 100.

    The mean ROUGE-L F1 times 100, answers cut by `cut_answer`. MUSE asks with
    `knowledge_prompt` and decodes 32 tokens greedily.

    Args:
      answers: what the model wrote, a text a question.
      references: the right answers.

    Returns:
      Percent.

    Raises:
      ValueError: the numbers of texts differ, or there is none.

    Source: as for `verbatim_memorization`.
    """
    _check_texts(answers=answers, references=references)
    return _mean_rouge([cut_answer(answer) for answer in answers], references)


def knowledge_prompt(question: str, *, examples: Sequence[tuple[str, str]] = ()) -> str:
    """Return the prompt of a question after answered examples, in the form of MUSE.

    Args:
      question: what is asked.
      examples: pairs of a question and its answer.

    Returns:
      The text up to "Answer: ".
    """
    shots = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in examples)
    return f"{shots}Question: {question}\nAnswer: "


def cut_answer(text: str) -> str:
    r"""Return what a model wrote up to the first of "\n\n", "\nQuestion" and "Question:".

    Args:
      text: the continuation of `knowledge_prompt`.

    Returns:
      The answer alone.
    """
    return _ANSWER_ENDS.split(text, maxsplit=1)[0]


def _mean_rouge(written: Sequence[str], references: Sequence[str]) -> float:
    scores = [rouge_l(text, wanted).f1 for text, wanted in zip(written, references, strict=True)]
    return 100 * sum(scores) / len(scores)


def _check_texts(**texts: Sequence[str]) -> None:
    (first, one), (second, other) = texts.items()
    for name, value in texts.items():
        if isinstance(value, str) or not len(value):
            raise checks.refused(name, value, "a list of 1 text or more")
    if len(one) != len(other):
        raise checks.refused(second, other, f"{len(one)} texts, as many as {first}")
