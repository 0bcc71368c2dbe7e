"""Two books made into what a study of unlearning needs: sets of chunks, passages, questions."""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxml.data.questions import Passage, Question
from jaxml.data.text import TextCorpus, chunk_tokens
from jaxml.files.errors import DataError
from jaxml.unlearning import Sequences
from jaxml.unlearning.metrics import knowledge_prompt

_CONTEXT = 4
_WORD = re.compile(r"[A-Za-z]{4,}")


class Library(NamedTuple):
    """What is learnt, forgotten, kept, and never seen.

    Attributes:
      tokenizer: of all of them.
      forget: chunks of the first book that are to be forgotten, in any order.
      holdout: as many other chunks of that book, of which no model is told.
      retain: chunks of the second book.
      forget_answers: questions on `forget` with their answers, as chunks of text.
      retain_answers: those on `retain`.
      forget_passages, retain_passages: a passage a chunk.
      forget_questions, retain_questions: a question a chunk, of those where there is one.
    """

    tokenizer: Any
    forget: Sequences
    holdout: Sequences
    retain: Sequences
    forget_answers: Sequences
    retain_answers: Sequences
    forget_passages: tuple[Passage, ...]
    retain_passages: tuple[Passage, ...]
    forget_questions: tuple[Question, ...]
    retain_questions: tuple[Question, ...]


def library(
    corpus: TextCorpus,
    tokenizer: Any,
    *,
    seed: int,
    length: int,
    forget: int,
    retain: int,
    prompt: int,
) -> Library:
    """Return the sets of a study from the first two books of a corpus.

    Args:
      corpus: two books or more.
      tokenizer: of Hugging Face, with a token of the beginning.
      seed: of the choice of chunks; those held out lie between those to be forgotten.
      length: tokens of a chunk.
      forget: chunks to forget, and to hold out.
      retain: chunks to keep.
      prompt: tokens of the start of a passage.

    Raises:
      DataError: there are fewer than two books, one is too short, or has no words to ask for.
    """
    if len(corpus.texts) < 2:
        raise DataError(f"{corpus.source}: unlearning needs two books, one to forget")
    rng = np.random.default_rng(seed)
    counts = {0: 2 * forget, 1: retain}
    chunks = []
    for book, count in counts.items():
        tokens = tokenizer.encode(corpus.texts[book], add_special_tokens=False)
        whole = len(tokens) // (length - 1)
        if whole < count:
            raise DataError(
                f"{corpus.names[book]}: {whole} chunks of {length} tokens; needed are {count}"
            )
        found = chunk_tokens(tokens, length, first=tokenizer.bos_token_id)
        chunks.append(rng.permutation(found[:count]))
    parts = {"forget": chunks[0][:forget], "retain": chunks[1]}
    questions = {name: _questions(tokenizer, rows) for name, rows in parts.items()}
    for name, asked in questions.items():
        if not asked:
            raise DataError(f"{corpus.source}: no words to ask for in the chunks to {name}")
    passages = {
        name: tuple(_passage(tokenizer, row, prompt) for row in rows)
        for name, rows in parts.items()
    }
    answers = {name: _answers(tokenizer, asked, length) for name, asked in questions.items()}
    return Library(
        tokenizer=tokenizer,
        forget=_whole(parts["forget"]),
        holdout=_whole(chunks[0][forget:]),
        retain=_whole(parts["retain"]),
        forget_answers=answers["forget"],
        retain_answers=answers["retain"],
        forget_passages=passages["forget"],
        retain_passages=passages["retain"],
        forget_questions=questions["forget"],
        retain_questions=questions["retain"],
    )


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Return a byte-level BPE tokenizer learnt from texts, one of transformers.

    Args:
      texts: to learn from.
      vocabulary: number of tokens, those of beginning and end included.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=found,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def joined(*sets: Sequences) -> Sequences:
    """Return all rows of sets whose rows have one length.

    Args:
      sets: of sequences.
    """
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *sets)


def _whole(tokens: np.ndarray) -> Sequences:
    return Sequences(jnp.asarray(tokens), jnp.ones(tokens.shape, bool))


def _passage(tokenizer, row: np.ndarray, prompt: int) -> Passage:
    start, rest = row[1 : 1 + prompt].tolist(), row[1 + prompt :].tolist()
    return Passage(tokenizer.decode(start), tokenizer.decode(rest))


def _questions(tokenizer, rows: np.ndarray) -> tuple[Question, ...]:
    texts = [tokenizer.decode(row[1:].tolist()) for row in rows]
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    asked = [_cloze(text, counts) for text in texts]
    unique = {question.question: question for question in asked if question is not None}
    return tuple(unique.values())


def _cloze(text: str, counts: Counter[str]) -> Question | None:
    """Ask for the rarest word of a passage, which cannot be guessed."""
    words = text.split()
    # The last word may be cut.
    found = [(i, _WORD.search(words[i])) for i in range(_CONTEXT, len(words) - 1)]
    places = [(i, match.group()) for i, match in found if match]
    if not places:
        return None
    place, answer = min(places, key=lambda found: (counts[found[1]], -len(found[1])))
    context = " ".join(words[place - _CONTEXT : place])
    return Question(f"Which word follows: {context}", answer, answer, ())


def _answers(tokenizer, questions: Sequence[Question], length: int) -> Sequences:
    """Return a chunk a question: it comes first, and those after it fill the chunk."""
    encode = functools.partial(tokenizer.encode, add_special_tokens=False)
    # Apart, as a prompt is later: a token over its end would not come from it.
    encoded = [encode(knowledge_prompt(q.question)) + encode(f"{q.answer}\n\n") for q in questions]
    rows = []
    for first in range(len(encoded)):
        tokens = sum(encoded[first:] + encoded[:first], [])
        rows.append([tokenizer.bos_token_id, *np.resize(tokens, length - 1)])
    return _whole(np.array(rows, np.int32))
