"""Each check accepts what it says, refuses all else in one form, and looks at captured arrays."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml import checks

ONES = jnp.ones((2, 3), jnp.float32)
PIXELS = jnp.full((2, 4, 4, 3), 0.5, jnp.float32)
WITH_NAN, INFINITE = jnp.asarray([1, np.nan], jnp.float32), jnp.asarray(np.inf, jnp.float32)
SIGNED, CLASSES = jnp.asarray([-1, 1], jnp.int32), jnp.asarray([0, 3], jnp.int32)

ACCEPTED = {
    "positive": lambda: checks.positive(a=1, b=0.5, c=jnp.float32(2)),
    "at_least": lambda: checks.at_least(0, a=0, b=3.5),
    "within": lambda: checks.within(0, 1, a=0, b=1, c=0.5),
    "between": lambda: checks.between(0, 1, a=0.5),
    "counts": lambda: checks.counts(a=1, b=np.int64(3), c=jnp.asarray(2)),
    "counts from 0": lambda: checks.counts(least=0, a=0),
    "choice": lambda: checks.choice(("x", "y"), a="y"),
    "floating": lambda: checks.floating(a=ONES),
    "single_or_double": lambda: checks.single_or_double(a=ONES, b=np.ones(3)),
    "fraction": lambda: checks.fraction(a=1, b=0.5),
    "boolean": lambda: checks.boolean(a=ONES > 0),
    "integers": lambda: checks.integers(a=jnp.arange(3)),
    "axes": lambda: checks.axes("row feature", a=ONES),
    "same_shape": lambda: checks.same_shape(a=ONES, b=2 * ONES),
    "rows": lambda: checks.rows(a=ONES[0], b=ONES[1]),
    "mask": lambda: checks.mask(ONES > 0, a=ONES),
    "same_trees": lambda: checks.same_trees(a={"w": ONES}, b={"w": 2 * ONES}),
    "finite": lambda: checks.finite(a=ONES),
    "values_within": lambda: checks.values_within(0, 1, a=ONES),
    "images": lambda: checks.images(a=PIXELS),
    "images of bytes": lambda: checks.images(or_bytes=True, a=PIXELS.astype(jnp.uint8)),
    "labels": lambda: checks.labels(labels=jnp.asarray([0, 2]), rows=2, classes=3),
    "labels of any class": lambda: checks.labels(labels=jnp.asarray([0, 9]), rows=2),
}
REFUSED = {
    "a=0: accepted is a positive number": lambda: checks.positive(a=0),
    "a=nan: accepted is a positive number": lambda: checks.positive(a=float("nan")),
    "a=inf: accepted is a positive number": lambda: checks.positive(a=INFINITE),
    "a=-0.5: accepted is 0 or more": lambda: checks.at_least(0, a=-0.5),
    "a=nan: accepted is 0 or more": lambda: checks.at_least(0, a=np.nan),
    "a=1.5: accepted is 0 to 1": lambda: checks.within(0, 1, a=1.5),
    "a=nan: accepted is 0 to 1": lambda: checks.within(0, 1, a=np.nan),
    "a=1: accepted is a number between 0 and 1": lambda: checks.between(0, 1, a=1),
    "a=nan: accepted is a number between 0 and 1": lambda: checks.between(0, 1, a=np.nan),
    "a=0: accepted is a whole number, 1 or more": lambda: checks.counts(a=0),
    "a=2.5: accepted is a whole number, 1 or more": lambda: checks.counts(a=2.5),
    "a='z': accepted is one of 'x', 'y'": lambda: checks.choice(("x", "y"), a="z"),
    "a=float16[3]: accepted is float32 or float64": lambda: checks.single_or_double(
        a=jnp.ones(3, "float16")
    ),
    "a=int32[3]: accepted is floating-point numbers": lambda: checks.floating(
        a=jnp.arange(3, dtype="int32")
    ),
    "a=bfloat16[2, 3]: accepted is float32 or float64": lambda: checks.single_or_double(
        a=ONES.astype(jnp.bfloat16)
    ),
    "a=0: accepted is above 0, 1 at most": lambda: checks.fraction(a=0),
    "a=nan: accepted is above 0, 1 at most": lambda: checks.fraction(a=np.nan),
    "a=float32[2, 3]: accepted is bool[2, 3]": lambda: checks.boolean(a=ONES),
    "a=float32[2, 3]: accepted is integers": lambda: checks.integers(a=ONES),
    "a=float32[2, 3]: accepted is [row], none of length 0": lambda: checks.axes("row", a=ONES),
    "a=float32[0, 3]: accepted is [row, feature], none of length 0": lambda: checks.axes(
        "row feature", a=ONES[:0]
    ),
    "b=float32[2, 2]: accepted is [2, 3], the shape of a": lambda: checks.same_shape(
        a=ONES, b=ONES[:, :2]
    ),
    "b=float32[1]: accepted is [3], the shape of a": lambda: checks.rows(a=ONES[0], b=ONES[0, :1]),
    "mask=float32[2, 3]: accepted is bool[2, 3]": lambda: checks.mask(ONES, a=ONES),
    "b['w']=float32[3]: accepted is float32[2, 3], as of a": lambda: checks.same_trees(
        a={"w": ONES}, b={"w": ONES[0]}
    ),
    "b=PyTreeDef((*, *)): accepted is the structure of a, PyTreeDef({'w': *})": lambda: (
        checks.same_trees(a={"w": ONES}, b=(ONES, ONES))
    ),
    "a=float32[2] with NaN or infinity: accepted is finite numbers": lambda: checks.finite(
        a=WITH_NAN
    ),
    "a=int32[2] with values from -1 to 1: accepted is 0 to 1": lambda: checks.values_within(
        0, 1, a=SIGNED
    ),
    "a=float32[2] with NaN: accepted is 0 to 1": lambda: checks.values_within(0, 1, a=WITH_NAN),
    "a=uint8[2, 4, 4, 3]: accepted is floating-point numbers in [0, 1]": lambda: checks.images(
        a=PIXELS.astype(jnp.uint8)
    ),
    "labels=int32[2] with values from 0 to 3: accepted is 0 to 2": lambda: checks.labels(
        labels=CLASSES, rows=2, classes=3
    ),
    "labels=int32[2]: accepted is integers [3], one a row": lambda: checks.labels(
        labels=CLASSES, rows=3
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_accepted(name):
    ACCEPTED[name]()
    jax.jit(ACCEPTED[name])()


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_and_how(message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        REFUSED[message]()
    # Arrays that a traced function captures are looked at too. JAX adds lines of its own.
    with pytest.raises(ValueError, match=f"^{re.escape(message)}(\n|$)"):
        jax.jit(lambda: REFUSED[message]())()


def test_every_check_is_tested():
    names = {name.split()[0] for name in ACCEPTED}
    public = {name for name, value in vars(checks).items() if callable(value)}
    own = {name for name in public if getattr(checks, name).__module__ == "jaxml.checks"}
    no_checks = {"refused", "described", "is_channel_first"}
    assert {name for name in own if name[0] != "_"} - names == no_checks


def test_channels_are_first_where_nothing_else_can_be_meant():
    for shape in ((9, 3, 32, 32), (2, 1, 28, 28), (5, 4, 8, 5)):
        assert checks.is_channel_first(shape)
        accepted = r"\[row, height, width, channel\], the channel last: a.transpose\(0, 2, 3, 1\)"
        with pytest.raises(ValueError, match=f"^a=float.*: accepted is {accepted}$"):
            checks.images(a=jnp.zeros(shape))
    # Of few rows, of few columns, and of many channels.
    for shape in ((9, 3, 32, 3), (9, 3, 3, 3), (9, 8, 8, 64), (3, 32, 32), (9, 1, 32, 1)):
        assert not checks.is_channel_first(shape)


def test_traced_values_pass_and_traced_shapes_do_not():
    def function(x):
        checks.positive(x=x)
        checks.within(0, 1, x=x)
        checks.finite(x=x)
        with pytest.raises(ValueError, match=r"x=float32\[\]: accepted is \[row\]"):
            checks.axes("row", x=x)
        return x

    jax.jit(function)(jnp.float32(-5))


def test_long_values_are_cut():
    message = str(checks.refused("path", "x" * 5000, "a short name"))
    assert len(message) < 160 and message.endswith("...: accepted is a short name")


def test_no_message_has_the_address_of_an_object():
    function = lambda: 0
    held = [function, functools.partial(function), object()]
    assert "0x" in repr(held)
    assert checks.described(held).startswith("[<function test_no_message_has_the_address_of_an")
    assert "0x" not in checks.described(held) + checks.described(object())
    assert checks.described(object()) == "<object object>"
