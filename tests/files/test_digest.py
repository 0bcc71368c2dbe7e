"""Digests: alike for one content in any process, and another for whatever differs."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxml.files.digest import digest, file_digest
from jaxml.sharding import data_mesh

BYTES = np.arange(6, dtype=np.uint8)
DIFFERENT = {
    "bytes": BYTES,
    "one other": np.where(BYTES == 5, 6, BYTES).astype(np.uint8),
    "another type": BYTES.astype(np.int8),
    "another shape": BYTES.reshape(2, 3),
    "another order": BYTES.reshape(2, 3)[::-1],
    "as a list": BYTES.tolist(),
    "as bytes": BYTES.tobytes(),
    "named": {"x": BYTES},
    "under another name": {"y": BYTES},
    "with nothing beside it": {"x": BYTES, "y": None},
    "with an empty list beside it": {"x": BYTES, "y": []},
    "with an empty array beside it": {"x": BYTES, "y": np.zeros(0)},
    "in two": {"x": BYTES[:3], "y": BYTES[3:]},
    "in two otherwise": {"x": BYTES[:2], "y": BYTES[2:]},
    "zero": 0.0,
    "below zero": -0.0,
    "no": False,
    "whole": 0,
    "text": "0",
    "texts": np.array(["ab", "c"]),
    "texts cut elsewhere": np.array(["a", "bc"]),
    "half": jnp.ones(2, jnp.bfloat16),
    "single": jnp.ones(2, jnp.float32),
    "key": jax.random.key(0),
    "another key": jax.random.key(1),
    "nothing": None,
}


def test_what_differs_has_another_digest():
    digests = {name: digest(value) for name, value in DIFFERENT.items()}
    for (a, first), (b, second) in itertools.combinations(digests.items(), 2):
        assert first != second, (a, b)


def test_the_same_content_has_one_digest_however_it_lies():
    rows = np.arange(12.0).reshape(3, 4)
    expected = digest({"a": rows, "b": (1, "x")})
    assert digest({"b": (1, "x"), "a": np.asfortranarray(rows)}) == expected
    assert digest({"a": jnp.asarray(rows), "b": (1, "x")}) == expected
    split = jax.device_put(np.arange(16.0), NamedSharding(data_mesh(), PartitionSpec("data")))
    assert len(split.sharding.device_set) == 8
    assert digest(split) == digest(np.arange(16.0))


def test_another_process_finds_the_same():
    code = (
        "import numpy; from jaxml.files.digest import digest;"
        "print(digest({'a': numpy.arange(3), 'b': ['x', 1.5, None]}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest({"a": np.arange(3), "b": ["x", 1.5, None]})


@pytest.mark.parametrize("value", [print, {"x": object()}, np.array([None])])
def test_what_has_no_content_is_an_error(value):
    with pytest.raises(TypeError):
        digest(value)


def test_a_file_is_known_by_its_bytes(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"x" * 10_000)
    b.write_bytes(b"x" * 10_000)
    assert file_digest(a) == file_digest(b)
    b.write_bytes(b"x" * 9_999 + b"y")
    assert file_digest(a) != file_digest(b)
