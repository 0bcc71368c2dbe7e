"""Files of texts as rows of tokens, for the commands on language models."""

from pathlib import Path

from jaxml import llm
from jaxml.data.text import load_texts
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES
from jaxml.unlearning import Sequences


def tokenized_file(
    model: llm.Model, path: Path, length: int, *, max_bytes: int = MAX_BYTES
) -> Sequences:
    """Return the texts of a file as rows of tokens.

    Args:
      model: whose tokenizer is used.
      path: a txt file, or json, jsonl, csv, parquet with a column "text".
      length: most tokens of a row.
      max_bytes: most memory that reading the file may take.

    Raises:
      DataError: the file cannot be used.
    """
    texts = load_texts(path, max_bytes=max_bytes)
    try:
        return llm.tokenize(model, texts, length=length)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
