"""The sets of a study of unlearning: apart from each other, and texts again when decoded."""

import re

import numpy as np
import pytest

from jaxml.data.text import TextCorpus
from jaxml.files.errors import DataError
from jaxml.reproduce.language.books import joined, library, train_tokenizer

RNG = np.random.default_rng(0)
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def book(words):
    """Words of letters in any order, so that no two passages are alike."""
    return " ".join("".join(RNG.choice(LETTERS, RNG.integers(2, 9))) for _ in range(words))


CORPUS = TextCorpus(("first", "second"), (book(900), book(900)), "random words")
TOKENIZER = train_tokenizer(CORPUS.texts, 300)
SIZE = dict(length=40, forget=12, retain=15, prompt=10)


@pytest.fixture(scope="module")
def books():
    return library(CORPUS, TOKENIZER, seed=0, **SIZE)


def decode(row):
    return TOKENIZER.decode(row[1:].tolist())


def test_the_tokenizer_gives_back_the_text():
    text = CORPUS.texts[0] + "\n\nÄ “quote”"
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text
    assert len(TOKENIZER) <= 300
    assert TOKENIZER.bos_token_id != TOKENIZER.eos_token_id


def test_chunks_are_of_their_books_and_different(books):
    for texts, of, count in (
        (books.forget, 0, 12),
        (books.holdout, 0, 12),
        (books.retain, 1, 15),
    ):
        assert texts.tokens.shape == texts.mask.shape == (count, 40)
        assert (np.asarray(texts.tokens)[:, 0] == TOKENIZER.bos_token_id).all()
        for row in np.asarray(texts.tokens):
            assert decode(row) in CORPUS.texts[of]
    of_first = joined(books.forget, books.holdout)
    assert len({tuple(row) for row in np.asarray(of_first.tokens).tolist()}) == 24


def test_a_passage_is_a_chunk_in_two_parts(books):
    for passage, row in zip(books.forget_passages, np.asarray(books.forget.tokens), strict=True):
        assert passage.prompt + passage.continuation == decode(row)
        assert passage.prompt == TOKENIZER.decode(row[1:11].tolist())


def test_a_question_is_answered_by_the_text(books):
    assert len(books.forget_questions) >= 10
    for question in books.forget_questions:
        context = question.question.removeprefix("Which word follows: ")
        assert re.search(rf"{re.escape(context)}\s+{question.answer}\b", CORPUS.texts[0])
        assert question.answer.isalpha() and len(question.answer) >= 4


def test_answers_hold_each_question_once_at_the_start(books):
    rows = np.asarray(books.retain_answers.tokens)
    assert rows.shape == (len(books.retain_questions), 40)
    for question, row in zip(books.retain_questions, rows, strict=True):
        start = f"Question: {question.question}\nAnswer: {question.answer}\n\n"
        assert decode(row).startswith(start) or start.startswith(decode(row))


def test_the_seed_chooses_what_is_held_out(books):
    again, other = (library(CORPUS, TOKENIZER, seed=seed, **SIZE) for seed in (0, 1))
    np.testing.assert_array_equal(books.forget.tokens, again.forget.tokens)
    assert not np.array_equal(books.forget.tokens, other.forget.tokens)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        (TextCorpus(("one",), CORPUS.texts[:1], "one book"), "one book: unlearning needs two"),
        (
            TextCorpus(("first", "short"), (CORPUS.texts[0], "too short"), ""),
            "short: 0 chunks of 40 tokens; needed are 15",
        ),
    ],
)
def test_too_little_text_is_named(corpus, message):
    with pytest.raises(DataError, match=message):
        library(corpus, TOKENIZER, seed=0, **SIZE)
