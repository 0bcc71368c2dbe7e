"""Verbatim and knowledge memorization of texts whose overlap is known."""

import pytest

from jaxml.unlearning.metrics._memorization import (
    cut_answer,
    knowledge_memorization,
    knowledge_prompt,
    verbatim_memorization,
)


def test_verbatim_is_the_mean_overlap_in_percent():
    # 1, 0 and 2 * (1 / 2) (1 / 4) / (3 / 4).
    written = ["Down, down, down.", "no", "one two"]
    found = verbatim_memorization(written, ["down down down", "yes", "one three four five"])
    assert found == pytest.approx(100 * (1 + 0 + 1 / 3) / 3)


def test_prompt_in_the_form_of_muse():
    found = knowledge_prompt("Who fell?", examples=[("Who smiled?", "the Cat"), ("When?", "six")])
    assert found == (
        "Question: Who smiled?\nAnswer: the Cat\n\n"
        "Question: When?\nAnswer: six\n\n"
        "Question: Who fell?\nAnswer: "
    )
    assert knowledge_prompt("Who?") == "Question: Who?\nAnswer: "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Alice", "Alice"),
        ("Alice\nfell", "Alice\nfell"),
        ("Alice\n\nQuestion: Who?", "Alice"),
        ("Alice\nQuestion", "Alice"),
        ("Alice Question: Who?\n\nB", "Alice "),
        ("Alice. Question", "Alice. Question"),
        ("\n\nAlice", ""),
        ("", ""),
    ],
)
def test_answer_ends_where_the_next_question_begins(text, expected):
    assert cut_answer(text) == expected


def test_knowledge_counts_the_answer_only():
    written = ["the Queen\n\nQuestion: Who else?\nAnswer: the King", "a hatter"]
    assert knowledge_memorization(written, ["the queen", "the hatter"]) == pytest.approx(75)


@pytest.mark.parametrize("function", [verbatim_memorization, knowledge_memorization])
@pytest.mark.parametrize(
    ("written", "references", "message"),
    [
        (["a"], ["a", "b"], r"references=\['a', 'b'\]: accepted is 1 texts, as many as"),
        ([], [], r"=\[\]: accepted is a list of 1 text or more"),
        ("a", ["a"], "='a': accepted is a list"),
    ],
)
def test_bad_texts_are_named(function, written, references, message):
    with pytest.raises(ValueError, match=message):
        function(written, references)
