import json

import pytest

from jaxml.data import DataError
from jaxml.data.questions import (
    ChoiceQuestion,
    Passage,
    Question,
    load_choice_questions,
    load_passages,
    load_questions,
)


def save(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_passages_of_muse(tmp_path):
    path = save(tmp_path / "forget.json", [{"prompt": "Down", "gt": " the hole", "id": 3}])
    assert load_passages(path) == (Passage("Down", " the hole"),)


def test_questions_of_muse_and_tofu(tmp_path):
    plain = {"question": "Who?", "answer": "Alice"}
    facts = plain | {"perturbed_answer": ["Dinah", "the Hatter"]}
    forget = facts | {"paraphrased_answer": "It was Alice", "paraphrased_question": "Which?"}
    path = save(tmp_path / "forget.jsonl", [plain, facts, forget])
    assert load_questions(path) == (
        Question("Who?", "Alice", "Alice", ()),
        Question("Who?", "Alice", "Alice", ("Dinah", "the Hatter")),
        Question("Who?", "Alice", "It was Alice", ("Dinah", "the Hatter")),
    )


CHOICES = ("amnion", "chorion, or so", "yolk sac", "allantois")


def test_choices_of_wmdp(tmp_path):
    row = {"question": "Which?", "choices": CHOICES, "answer": 2}
    path = save(tmp_path / "test.json", [row, row | {"answer": 0}])
    assert load_choice_questions(tmp_path / "test") == (
        ChoiceQuestion("Which?", CHOICES, 2),
        ChoiceQuestion("Which?", CHOICES, 0),
    )
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "test.parquet")
    path.unlink()
    assert load_choice_questions(tmp_path / "test") == (ChoiceQuestion("Which?", CHOICES, 2),)


@pytest.mark.parametrize("header", ["", "question,A,B,C,D,answer\n"])
def test_choices_of_mmlu(tmp_path, header):
    path = tmp_path / "biology_test.csv"
    path.write_text(f'{header}Which?,amnion,"chorion, or so",yolk sac,allantois,C\nQ,1,2,3,4,a\n')
    assert load_choice_questions(path) == (
        ChoiceQuestion("Which?", CHOICES, 2),
        ChoiceQuestion("Q", ("1", "2", "3", "4"), 0),
    )


@pytest.mark.parametrize(
    ("load", "row", "message"),
    [
        (load_passages, {"prompt": "a", "text": "b"}, "row 1: no column 'gt'; it has prompt, text"),
        (load_passages, {"prompt": 1, "gt": "b"}, "row 1: prompt is 1; give a text"),
        (load_questions, {"question": "a"}, "no column 'answer'"),
        (load_questions, {"question": "a", "answer": ["b"]}, r"answer is \['b'\]"),
        (
            load_questions,
            {"question": "a", "answer": "b", "perturbed_answer": "c"},
            "perturbed_answer is 'c'; give a list of texts",
        ),
        (load_choice_questions, {"question": "a", "answer": 0}, "choices is None; give a list"),
        (
            load_choice_questions,
            {"question": "a", "choices": ["b", "c"], "answer": 2},
            "answer is 2; give one of the 2 choices",
        ),
        (
            load_choice_questions,
            {"question": "a", "choices": ["b", "c"], "answer": "B"},
            "answer is 'B'; give one of the 2 choices",
        ),
    ],
)
def test_rows_of_another_format_are_named(tmp_path, load, row, message):
    path = save(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match=rf"a\.jsonl, .*{message}"):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q,1,2,3,4,A\nq,1,2,3,4,E\n", "row 2: answer is 4; give one of the 4 choices"),
        ("q,1,2,3,4,five\n", "row 1: answer is 'five'"),
        ("q,A\n", "row 1: 2 fields; give question, choices and a letter"),
        ("question,A,B,answer\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_lines_of_another_format_are_named(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"a\.csv.*{message}"):
        load_choice_questions(path)
