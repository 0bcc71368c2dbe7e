"""JSON in which every key of an object stands once."""

import json
from typing import Any


def parse_json(text: str) -> Any:
    """Return the value of a text of JSON.

    Args:
      text: to be parsed.

    Returns:
      Dictionaries, lists, texts, numbers, True, False and None.

    Raises:
      ValueError: it is not JSON, lists in lists are too deep, or an object has a key twice, of
        which the last would win.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("too many lists within each other") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in values if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return values
