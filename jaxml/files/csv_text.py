"""Fields of a text in CSV, of any length.

Python's own reader refuses fields of more than 131,072 characters, such as a book in a cell, and
its limit is one of the whole process.
"""

import re
from collections.abc import Iterator

from jaxml.files.errors import DataError

# A field, in quotes or not, and what ends it. Nothing is tried twice: a text of quotes alone
# takes no longer than another.
_FIELD = re.compile(r'(?:"((?:[^"]++|"")*+)"|([^",\r\n][^,\r\n]*+)?)(,|\r\n|\r|\n|\Z)')


def parse_csv(text: str) -> Iterator[list[str]]:
    """Yield the fields of every line that is not empty, as `csv.reader(..., strict=True)` does.

    Args:
      text: with commas between fields; what is in quotes may hold commas, ends of lines, and
        quotes that are doubled.

    Returns:
      An iterator of lists of texts.

    Raises:
      DataError: a quote is not closed, or something else than a comma follows one that is.
    """
    fields: list[str] = []
    at = number = 0
    while at < len(text) or fields:
        field = _FIELD.match(text, at)
        if field is None:
            raise DataError(f"row {number + 1}: a quote is not closed, or text follows it")
        quoted, plain, end = field.groups()
        fields.append((plain or "") if quoted is None else quoted.replace('""', '"'))
        at = field.end()
        if end != ",":
            if len(fields) > 1 or plain or quoted is not None:
                number += 1
                yield fields
            fields = []
