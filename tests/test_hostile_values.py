"""NaN, infinity and half precision in every public function of floats.

An element of the result that changes with one of an array is not finite where that one is not:
which elements those are, a finite change of it tells. Or the argument is refused, by its name.
A row beside the bad one under `vmap` stays as it was. Half precision gives what float32 gives for
the same numbers, but for rounding, or is refused by name.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_api import CALLS, call

REFUSAL = re.compile(r"\A\w\S*=.*: accepted is ")
# Infinity has a value in these, the limit of the formula.
LIMITS = {
    "multifractal.synthetic.levy_stable_h inf": "1/q",
    "multifractal.synthetic.levy_stable_h -inf": "1/alpha",
}
# Of a network in half precision, which decides otherwise where two logits are nearly equal.
COUNTS_DECISIONS = {"backdoor.mspc", "backdoor.spc"}


def single(array):
    """Return an array in the precision that users have by default."""
    kinds = {"float64": "float32", "int64": "int32"}
    kind = kinds.get(str(array.dtype))
    return array if kind is None else array.astype(kind)


def float_calls():
    """Return name -> function, arrays with a batch of 2 in front, places of those of floats."""
    calls = {}
    for name in CALLS:
        function, arrays = call(name)
        static = {k: "float32" if v == "float64" else v for k, v in function.keywords.items()}
        arrays = [single(array) for array in arrays]
        floats = [i for i, array in enumerate(arrays) if jnp.issubdtype(array.dtype, jnp.floating)]
        if floats:
            calls[name] = functools.partial(function.func, *function.args, **static), arrays, floats
    return calls


FLOAT_CALLS = float_calls()


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def middle(array):
    """Return the place in the middle of the first row."""
    return (0, *(size // 2 for size in array.shape[1:]))


def result_or_refusal(function, arrays):
    """Return a result, or None where an argument is refused by its name."""
    try:
        return function(*arrays)
    except ValueError as error:
        assert REFUSAL.match(str(error)), error
        return None


def first_row(arrays):
    return [array[0] for array in arrays]


def changed(function, arrays, place):
    """Return the result after a finite change of one element that the function accepts."""
    element = arrays[place].at[middle(arrays[place])]
    for array in (element.add(3.0), element.multiply(0.5)):
        result = result_or_refusal(
            function, first_row([*arrays[:place], array, *arrays[place + 1 :]])
        )
        if result is not None:
            return result
    raise AssertionError("no finite change is accepted")


def assert_tells(bad, good, moved, *, refusable):
    """Of floats, those that moved are not finite; of others alone, none moved."""
    depends, other = False, False
    for leaf, before, after in zip(leaves(bad), leaves(good), leaves(moved), strict=True):
        if before.dtype.kind in "iub":
            other |= bool((before != after).any())
            continue
        leaf, before, after = (x.astype("float64") for x in (leaf, before, after))
        scale = np.max(np.abs(before), initial=1e-12, where=np.isfinite(before))
        moves = (np.isfinite(before) != np.isfinite(after)) | ~(
            np.abs(before - after) <= 1e-5 * scale
        ) & np.isfinite(before)
        assert not (np.isfinite(leaf) & moves).any(), (leaf[moves], before[moves])
        depends |= bool(moves.any())
    if refusable:
        assert depends or not other


@pytest.mark.parametrize("name", FLOAT_CALLS)
def test_no_finite_result_of_what_is_not_finite(name, unchecked):
    function, arrays, floats = FLOAT_CALLS[name]
    traced, batched = jax.jit(function), jax.jit(jax.vmap(function))
    good, good_rows = function(*first_row(arrays)), batched(*arrays)
    for place in floats:
        moved = changed(function, arrays, place)
        for value in (np.nan, np.inf, -np.inf):
            if f"{name} {value}" in LIMITS:
                continue
            bad = [*arrays]
            bad[place] = arrays[place].at[middle(arrays[place])].set(value)
            eager = result_or_refusal(function, first_row(bad))
            if eager is not None:
                assert_tells(eager, good, moved, refusable=True)
            assert_tells(traced(*first_row(bad)), good, moved, refusable=False)
            for row, before in zip(leaves(batched(*bad)), leaves(good_rows), strict=True):
                np.testing.assert_array_equal(row[1], before[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", FLOAT_CALLS)
def test_half_precision_is_right_or_refused(name, dtype, unchecked):
    function, arrays, floats = FLOAT_CALLS[name]
    half = [a.astype(dtype) if i in floats else a for i, a in enumerate(first_row(arrays))]
    expected = function(*(a.astype("float32") if i in floats else a for i, a in enumerate(half)))
    for called in (function, jax.jit(function)):
        result = result_or_refusal(called, half)
        if result is None:
            continue
        rounding, least = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).smallest_subnormal)
        for leaf, exact in zip(leaves(result), leaves(expected), strict=True):
            leaf, exact = leaf.astype("float64"), exact.astype("float64")
            if name in COUNTS_DECISIONS:
                np.testing.assert_array_equal(np.isfinite(leaf), np.isfinite(exact))
                continue
            scale = np.max(np.abs(exact), initial=0, where=np.isfinite(exact))
            np.testing.assert_allclose(leaf, exact, rtol=0, atol=8 * rounding * scale + least)
