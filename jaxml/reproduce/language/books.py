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
from jaxml.unlearning._sequences import sequences
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
    draw = functools.partial(_drawn_chunks, corpus, tokenizer, rng, length)
    first, second = draw(book=0, count=2 * forget), draw(book=1, count=retain)
    to_forget, held_out = first[:forget], first[forget:]
    questions = {
        "forget": _questions(tokenizer, to_forget),
        "retain": _questions(tokenizer, second),
    }
    for name, asked in questions.items():
        if not asked:
            raise DataError(f"{corpus.source}: no words to ask for in the chunks to {name}")
    return Library(
        tokenizer=tokenizer,
        forget=sequences(to_forget),
        holdout=sequences(held_out),
        retain=sequences(second),
        forget_answers=_answers(tokenizer, questions["forget"], length),
        retain_answers=_answers(tokenizer, questions["retain"], length),
        forget_passages=_passages(tokenizer, to_forget, prompt),
        retain_passages=_passages(tokenizer, second, prompt),
        forget_questions=questions["forget"],
        retain_questions=questions["retain"],
    )


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Any:
    """Return a byte-level BPE tokenizer learnt from texts, one of transformers.

    Args:
      texts: to learn from.
      vocab_size: number of tokens, those of beginning and end included.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learnt.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=learnt,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def tokenizer_content(tokenizer: Any) -> str:
    """Return a text that differs for tokenizers that cut texts otherwise.

    Args:
      tokenizer: a fast one of transformers.
    """
    return tokenizer.backend_tokenizer.to_str()


def joined(*sets: Sequences) -> Sequences:
    """Return all rows of sets whose rows have one length.

    Args:
      sets: of sequences.
    """
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *sets)


def _drawn_chunks(
    corpus: TextCorpus,
    tokenizer: Any,
    rng: np.random.Generator,
    length: int,
    *,
    book: int,
    count: int,
) -> np.ndarray:
    """Return the first chunks of a book in any order, `[chunk, time]`."""
    tokens = tokenizer.encode(corpus.texts[book], add_special_tokens=False)
    whole = len(tokens) // (length - 1)
    if whole < count:
        raise DataError(
            f"{corpus.names[book]}: {whole} chunks of {length} tokens; needed are {count}"
        )
    chunks = chunk_tokens(tokens, length, first=tokenizer.bos_token_id)
    return rng.permutation(chunks[:count])


def _passages(tokenizer, rows: np.ndarray, prompt: int) -> tuple[Passage, ...]:
    """Return each chunk in two parts, the first of them `prompt` tokens."""
    starts, rests = rows[:, 1 : 1 + prompt].tolist(), rows[:, 1 + prompt :].tolist()
    pairs = zip(map(tokenizer.decode, starts), map(tokenizer.decode, rests), strict=True)
    return tuple(Passage(start, rest) for start, rest in pairs)


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
    matches = [(i, _WORD.search(words[i])) for i in range(_CONTEXT, len(words) - 1)]
    candidates = [(i, match.group()) for i, match in matches if match]
    if not candidates:
        return None
    place, answer = min(candidates, key=lambda pair: (counts[pair[1]], -len(pair[1])))
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
    return sequences(np.array(rows, np.int32))
