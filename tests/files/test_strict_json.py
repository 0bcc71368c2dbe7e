"""JSON whose objects have every key once."""

import json

import pytest

from jaxml.files.strict_json import parse_json


def test_values_are_those_of_python():
    value = {"a": [1, 2.5, None, True, {"a": "b"}], "b": {"a": {}, "\u00e9": "\U0001f600"}}
    assert parse_json(json.dumps(value)) == value
    assert parse_json("[]") == [] and parse_json('"a"') == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' stands twice in one object"),
        ('[{"x": {"b": 1, "b": 2}}]', "the key 'b' stands twice"),
        ('{"a": 1} 2', "Extra data"),
        ("[" * 100_000, "too many lists within each other"),
        ('{"a":' * 100_000, "too many lists within each other"),
        ("9" * 5000, "4300"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)
