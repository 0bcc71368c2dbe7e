"""Questions about texts in the file formats of MUSE, TOFU, WMDP and MMLU."""

import dataclasses
from pathlib import Path
from typing import Any, TypeGuard

from jaxml.data.rows import csv_lines, find_files, read_rows
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class Passage:
    """The start of a passage and how it goes on: MUSE's verbatim memorization.

    Attributes:
      prompt: the start.
      continuation: what follows it.
    """

    prompt: str
    continuation: str


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with its answer.

    Attributes:
      question: what is asked.
      answer: the right answer.
      paraphrased_answer: the right answer in other words; `answer` where the file has none.
      perturbed_answers: wrong ones; none in the files of MUSE.
    """

    question: str
    answer: str
    paraphrased_answer: str
    perturbed_answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ChoiceQuestion:
    """A question with choices.

    Attributes:
      question: what is asked.
      choices: the answers to choose from.
      answer: index of the right one.
    """

    question: str
    choices: tuple[str, ...]
    answer: int


def load_passages(path: Path | str, *, max_bytes: int = MAX_BYTES) -> tuple[Passage, ...]:
    """Return the passages of a file of MUSE's `verbmem`: columns `prompt` and `gt`.

    Args:
      path: as for `read_rows`.
      max_bytes: most memory that a file may take.

    Returns:
      The passages in the order of the file.

    Raises:
      DataError: the file is missing, cannot be read, is too large, or lacks a column.
    """
    return tuple(
        Passage(_text(row, "prompt", where), _text(row, "gt", where))
        for row, where in _numbered(path, max_bytes)
    )


def load_questions(path: Path | str, *, max_bytes: int = MAX_BYTES) -> tuple[Question, ...]:
    """Return the questions of a file of MUSE's `knowmem` or of TOFU.

    Columns `question` and `answer`, and in the perturbed files of TOFU `perturbed_answer`, and
    mostly `paraphrased_answer`.

    Args:
      path: as for `read_rows`.
      max_bytes: most memory that a file may take.

    Returns:
      The questions in the order of the file.

    Raises:
      DataError: the file is missing, cannot be read, is too large, or lacks a column.
    """
    questions = []
    for row, where in _numbered(path, max_bytes):
        answer = _text(row, "answer", where)
        paraphrased = row.get("paraphrased_answer")
        perturbed = row.get("perturbed_answer")
        if perturbed is not None and not _texts(perturbed):
            raise DataError(f"{where}: perturbed_answer is {perturbed!r}; give a list of texts")
        questions.append(
            Question(
                _text(row, "question", where),
                answer,
                answer if paraphrased is None else _text(row, "paraphrased_answer", where),
                tuple(perturbed or ()),
            )
        )
    return tuple(questions)


def load_choice_questions(
    path: Path | str, *, max_bytes: int = MAX_BYTES
) -> tuple[ChoiceQuestion, ...]:
    """Return the multiple-choice questions of a file of WMDP or MMLU.

    Columns `question`, `choices` (a list) and `answer` (an index from 0), or a csv of question,
    choices and the letter of the right one, with or without a header.

    Args:
      path: as for `read_rows`.
      max_bytes: most memory that a file may take.

    Returns:
      The questions in the order of the file.

    Raises:
      DataError: the file is missing, cannot be read, is too large, lacks a column, or an answer
        is none of the choices.
    """
    files = find_files(path)
    if files[0].suffix.lower() == ".csv":
        return tuple(question for file in files for question in _from_letters(file, max_bytes))
    questions = []
    for row, where in _numbered(path, max_bytes):
        choices = row.get("choices")
        if not _texts(choices):
            raise DataError(f"{where}: choices is {choices!r}; give a list of texts")
        questions.append(_choice_question(_text(row, "question", where), choices, row, where))
    return tuple(questions)


def _from_letters(path: Path, max_bytes: int) -> list[ChoiceQuestion]:
    lines = csv_lines(path, max_bytes=max_bytes)
    header = bool(lines) and lines[0][0].strip().lower() == "question"
    questions = []
    for number, line in enumerate(lines[header:], 1 + header):
        where = f"{path}, row {number}"
        if len(line) < 4:
            raise DataError(f"{where}: {len(line)} fields; give question, choices and a letter")
        letter = line[-1].strip().upper()
        answer = LETTERS.find(letter) if len(letter) == 1 else -1
        row = {"answer": answer if answer >= 0 else line[-1]}
        questions.append(_choice_question(line[0], line[1:-1], row, where))
    if not questions:
        raise DataError(f"{path}: no rows; give question, choices and the letter of the right one")
    return questions


def _choice_question(question: str, choices: list[str], row: dict, where: str) -> ChoiceQuestion:
    answer = row.get("answer")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise DataError(f"{where}: answer is {answer!r}; give one of the {len(choices)} choices")
    return ChoiceQuestion(question, tuple(choices), answer)


def _numbered(path: Path | str, max_bytes: int) -> list[tuple[dict[str, Any], str]]:
    rows = read_rows(path, max_bytes=max_bytes)
    return [(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def _text(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise DataError(f"{where}: no column {column!r}; it has {', '.join(map(str, row))}")
    if not isinstance(row[column], str):
        raise DataError(f"{where}: {column} is {row[column]!r}; give a text")
    return row[column]


def _texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
