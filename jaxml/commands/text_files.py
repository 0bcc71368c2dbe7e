"""Files of texts as rows of tokens, for the commands on language models."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxml import llm
from jaxml.files.errors import damage
from jaxml.llm._tokens import encode
from jaxml.unlearning import Sequences


def tokenized(model: llm.Model, path: Path, texts: Sequence[str], length: int) -> Sequences:
    """Return the texts of a file as rows of tokens.

    They are read before the model is, which takes longer.

    Args:
      model: whose tokenizer is used.
      path: of the file, for the message.
      texts: of the file, as of `jaxml.data.load_texts`.
      length: most tokens of a row.

    Raises:
      DataError: the tokenizer does not take them, or they are too short.
    """
    with damage(prefix=f"{path}: "):
        return llm.tokenize(model, texts, length=length)


def check_words(model: llm.Model, path: Path, texts: Iterable[str]) -> None:
    """Fail now where the tokenizer would, after other files have been measured.

    Args:
      model: whose tokenizer is used.
      path: of the file, for the message.
      texts: of the file.

    Raises:
      DataError: the tokenizer does not take one of them.
    """
    with damage(prefix=f"{path}: "):
        for text in texts:
            encode(model.tokenizer, text, start=False)
