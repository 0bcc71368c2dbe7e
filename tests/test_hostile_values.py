"""NaN, infinity, half precision and strict ranks in every public function of floats.

An element of the result that changes with one of an array is not finite where that one is not:
which elements those are, a finite change of it tells. Or the argument is refused, by its name.
A row beside the bad one under `vmap` stays as it was. Half precision gives what float32 gives for
the same numbers, but for rounding, or is refused by name.
"""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile_calls import HOSTILE_CALLS, ON_HOST, WITHOUT_FLOATS
from test_api import CALLS, PUBLIC, call

REFUSAL = re.compile(r"\A\w[^=]*=.*: accepted is |(loss|parameters) .* step ")
ORDER = "the order of numbers alone counts, and infinity has its place in it"
CERTAIN = "a text of probability 0 is forgotten: its loss is 0"
DIVIDED = "a norm that is infinite leaves 0 of all other components"
EXCLUDED = "what has probability 0 is left out of the sums"
# Infinity has a value in these, the limit of the formula, which a large number comes near to.
LIMITS = {
    "backdoor.auroc inf": ORDER,
    "backdoor.auroc -inf": ORDER,
    "backdoor.attacks.clean_label -inf": EXCLUDED,
    "backdoor.attacks.label_consistent -inf": EXCLUDED,
    "backdoor.attacks.perturb -inf": EXCLUDED,
    "models.llama.chunked_log_prob inf": EXCLUDED,
    "models.llama.chunked_log_prob -inf": EXCLUDED,
    "models.llama.hidden_states inf": DIVIDED,
    "models.llama.hidden_states -inf": DIVIDED,
    "selftraining.project inf": "relu of -infinity is 0",
    "selftraining.project -inf": "relu of -infinity is 0",
    "multifractal.synthetic.levy_stable_h inf": "1/q",
    "multifractal.synthetic.levy_stable_h -inf": "1/alpha up to q = alpha",
    "unlearning.coreset.select inf": ORDER,
    "unlearning.coreset.select -inf": ORDER,
    "unlearning.dpo -inf": CERTAIN,
    "unlearning.kl_retain -inf": EXCLUDED,
    "unlearning.metrics.auroc inf": ORDER,
    "unlearning.metrics.auroc -inf": ORDER,
    "unlearning.metrics.forget_quality inf": ORDER,
    "unlearning.metrics.forget_quality -inf": ORDER,
    "unlearning.metrics.multiple_choice_accuracy -inf": EXCLUDED,
    "unlearning.metrics.privacy_leakage inf": ORDER,
    "unlearning.metrics.privacy_leakage -inf": ORDER,
    "unlearning.metrics.relative_probability -inf": EXCLUDED,
    "unlearning.metrics.truth_ratio -inf": EXCLUDED,
    "unlearning.metrics.truth_score inf": "1 - R counts from 0 up: far too high a ratio is a 0",
    "unlearning.npo -inf": CERTAIN,
    "unlearning.sam_value_and_grad inf": DIVIDED,
    "unlearning.sam_value_and_grad -inf": DIVIDED,
    "unlearning.simnpo -inf": CERTAIN,
    "unlearning.token_log_prob -inf": EXCLUDED,
}
LARGE = 1e30
# Of a network in half precision, which decides otherwise where two logits are nearly equal.
COUNTS_DECISIONS = {"backdoor.mspc", "backdoor.spc"}

# NaN that is known is the outside of an image.
OUTSIDE = {"registration.affine", "registration.register"}


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
        calls[name] = functools.partial(function.func, *function.args, **static), arrays
    calls |= HOSTILE_CALLS
    for name, (function, arrays) in calls.items():
        arrays = [single(jnp.asarray(array)) for array in arrays]
        floats = [i for i, array in enumerate(arrays) if jnp.issubdtype(array.dtype, jnp.floating)]
        calls[name] = function, arrays, floats
    return {name: entry for name, entry in calls.items() if entry[-1]}


FLOAT_CALLS = float_calls()


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def middle(array):
    """Return the place in the middle of the first row."""
    return (0, *(size // 2 for size in array.shape[1:]))


def result_or_refusal(function, arrays):
    """Return a result, or None where an argument is refused by its name, or a step named."""
    try:
        return function(*arrays)
    except (ValueError, FloatingPointError) as error:
        assert REFUSAL.match(str(error)), error
        return None


def first_row(arrays):
    return [array[0] for array in arrays]


def changed(function, arrays, place):
    """Return another number for one element that the function accepts."""
    element = arrays[place][middle(arrays[place])]
    for number in (element + 3, element / 2):
        other = arrays[place].at[middle(arrays[place])].set(number)
        row = first_row([*arrays[:place], other, *arrays[place + 1 :]])
        if result_or_refusal(function, row) is not None:
            return number
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


def test_every_public_function_of_floats_is_called():
    assert not set(CALLS) & set(HOSTILE_CALLS)
    assert not set(FLOAT_CALLS) & WITHOUT_FLOATS
    assert set(FLOAT_CALLS) | WITHOUT_FLOATS == set(PUBLIC)
    # Keys and settings aside: arrays of floats, trees that may hold some, networks.
    of_floats = re.compile(r"Float\[|PyTree|Shaped|Callable\[.*Array|Params|Model\b")
    offenders = [
        f"{name}({parameter.name})"
        for name in WITHOUT_FLOATS
        for parameter in inspect.signature(PUBLIC[name]).parameters.values()
        if of_floats.search(str(parameter.annotation))
    ]
    assert offenders == []


def test_limits_are_of_functions_that_are_called():
    names = {limit.rpartition(" ")[0] for limit in LIMITS}
    assert names <= set(FLOAT_CALLS) - ON_HOST


def assert_limit(at_infinity, at_large):
    """What is finite at infinity is what the formula comes near to with a large number."""
    for limit, near in zip(leaves(at_infinity), leaves(at_large), strict=True):
        finite = np.isfinite(limit)
        np.testing.assert_allclose(near[finite], limit[finite], rtol=1e-5, atol=1e-6)


@pytest.fixture(autouse=True)
def _ranks_are_not_promoted():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize("name", FLOAT_CALLS)
def test_no_finite_result_of_what_is_not_finite(name, unchecked):
    function, arrays, floats = FLOAT_CALLS[name]
    good = function(*first_row(arrays))
    rows = None if name in ON_HOST else jax.jit(jax.vmap(function))
    for place in floats:
        other = changed(function, arrays, place)
        element = arrays[place].at[middle(arrays[place])]
        with_value = lambda x, i=place, at=element: [*arrays[:i], at.set(x), *arrays[i + 1 :]]
        moved = function(*first_row(with_value(other)))
        for value in (np.nan, np.inf, -np.inf):
            bad, limit = with_value(value), LIMITS.get(f"{name} {value}")
            eager = result_or_refusal(function, first_row(bad))
            if name in OUTSIDE and np.isnan(value):
                assert all(np.isfinite(leaf).all() for leaf in leaves(eager))
                eager = None
            if limit and eager is not None:
                large = with_value(LARGE if value > 0 else -LARGE)
                assert_limit(eager, function(*first_row(large)))
            elif eager is not None:
                assert_tells(eager, good, moved, refusable=True)
            if rows is None:
                continue
            bad_rows, good_rows, moved_rows = (rows(*a) for a in (bad, arrays, with_value(other)))
            if not limit:
                every = bad_rows, good_rows, moved_rows
                assert_tells(*(jax.tree.map(lambda x: x[0], x) for x in every), refusable=False)
            for row, before in zip(leaves(bad_rows), leaves(good_rows), strict=True):
                np.testing.assert_array_equal(row[1], before[1])


@functools.cache
def traced(name):
    """Return the compiled function: single precision is compiled once for both of half."""
    return jax.jit(FLOAT_CALLS[name][0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", FLOAT_CALLS)
def test_half_precision_is_right_or_refused(name, dtype, unchecked):
    function, arrays, floats = FLOAT_CALLS[name]
    half = [a.astype(dtype) if i in floats else a for i, a in enumerate(first_row(arrays))]
    called = function if name in ON_HOST else traced(name)
    result = result_or_refusal(called, half)
    if result is None:
        return
    expected = called(*(a.astype("float32") if i in floats else a for i, a in enumerate(half)))
    rounding, least = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).smallest_subnormal)
    for leaf, exact in zip(leaves(result), leaves(expected), strict=True):
        leaf, exact = leaf.astype("float64"), exact.astype("float64")
        if name in COUNTS_DECISIONS:
            np.testing.assert_array_equal(np.isfinite(leaf), np.isfinite(exact))
            continue
        scale = np.max(np.abs(exact), initial=0, where=np.isfinite(exact))
        np.testing.assert_allclose(leaf, exact, rtol=0, atol=8 * rounding * scale + least)
