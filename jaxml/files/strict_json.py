"""JSON in which every key of an object stands once."""

import json
from typing import Any

from jaxml.files.errors import DataError
from jaxml.files.unique import first_repeated


def parse_json(text: str) -> Any:
    """Return the value of a text of JSON.

    Args:
      text: to be parsed.

    Returns:
      Dictionaries, lists, texts, numbers, True, False and None.

    Raises:
      json.JSONDecodeError: it is not JSON.
      DataError: lists in lists are too deep, or an object has a key twice, of which the last
        would win.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise DataError("too many lists within each other") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = first_repeated(key for key, _ in pairs)
        raise DataError(f"the key {twice!r} stands twice in one object")
    return values
