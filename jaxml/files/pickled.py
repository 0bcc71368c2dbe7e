"""Arrays in a pickle, which is read and not run.

A pickle is a program: Python's own reader calls what it names, and even if it may name nothing,
nine bytes of it take all memory and nested tuples end the process. Here its operations are
listed by `pickletools`, and those that make dicts, lists, numbers, texts and arrays followed.
"""

import dataclasses
import math
import mmap
import pickletools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxml.files.errors import DataError, damage

# What the pickle of an array names, under its places in numpy 1 and 2.
_ALLOWED = {
    *(
        f"{core}.{name}"
        for core in ("numpy.core", "numpy._core")
        for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
    ),
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
}
_VALUES = set(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8".split()
)
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}


@dataclasses.dataclass
class Call:
    """What Python's reader would call, and with what.

    Attributes:
      name: of the function, with its module.
      arguments: of the call.
      state: what the object that it returns would be set to.
    """

    name: str
    arguments: Any = ()
    state: Any = None


def read_pickle(path: Path) -> Any:
    """Return what a pickle holds, its arrays as what would make them.

    Args:
      path: of the file.

    Returns:
      Dicts, lists, numbers and texts, and a `Call` for each array, which `array_of` follows.

    Raises:
      OSError: it cannot be opened.
      DataError: it names anything else than arrays, or is damaged.
    """
    # Of operations in an order that no pickle has.
    errors = AttributeError, LookupError, TypeError
    with (
        path.open("rb") as file,
        damage(*errors, prefix="damaged: "),
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        warnings.catch_warnings(),
    ):
        # Of the escapes of Python 2.
        warnings.simplefilter("ignore", DeprecationWarning)
        # A file as any other, which returns what there is where more is claimed.
        content: Any = mapped
        return _followed(pickletools.genops(content))


def array_of(value: Any) -> np.ndarray | None:
    """Return a pickled array of uint8.

    Args:
      value: a part of what `read_pickle` returned.

    Returns:
      The array, not writable; None for anything else.
    """
    match value:
        case Call(state=(_, tuple(shape), Call(arguments=(kind, *_)), reverse, raw)):
            order = "F" if reverse is True else "C"
        case Call(arguments=(raw, Call(arguments=(kind, *_)), tuple(shape), "C" | "F" as order)):
            pass
        case _:
            return None
    match raw:
        # Of Python 2, and of protocols before 3.
        case str(text) | Call("_codecs.encode", (str(text), "latin1")):
            if not all(ord(letter) < 256 for letter in set(text)):
                return None
            raw = text.encode("latin1")
    if kind not in ("u1", "|u1") or not isinstance(raw, bytes | bytearray) or len(shape) > 8:
        return None
    sides = all(type(n) is int and 0 <= n <= len(raw) for n in shape)
    if not sides or math.prod(shape) != len(raw):
        return None
    return np.frombuffer(raw, np.uint8).reshape(shape, order=order)


def _followed(operations) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    marks: list[int] = []

    def since_mark():
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for operation, argument, _ in operations:
        match operation.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name if name in _VALUES:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name]())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
            case "LIST":
                stack.append(since_mark())
            case "DICT":
                stack.append(_pairs(since_mark()))
            case "APPEND":
                stack[-2].append(stack.pop())
            case "APPENDS":
                values = since_mark()
                stack[-1].extend(values)
            case "SETITEM":
                pair = [stack.pop(), stack.pop()]
                stack[-1].update(_pairs(pair[::-1]))
            case "SETITEMS":
                values = since_mark()
                stack[-1].update(_pairs(values))
            case "GLOBAL":
                stack.append(_named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                stack[-2:] = [_named(".".join(stack[-2:]))]
            case "REDUCE":
                arguments = stack.pop()
                stack.append(Call(stack.pop().name, arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case name:
                raise DataError(f"refused: it has the operation {name}")
    raise DataError("damaged: it has no end")


def _named(name: str) -> Call:
    if name not in _ALLOWED:
        raise DataError(f"refused: it asks for {name}")
    return Call(name)


def _pairs(values: list[Any]) -> dict[str, Any]:
    """Return a dict of texts alone: to hash a deep tuple ends the process."""
    keys = values[::2]
    if not all(isinstance(key, str) for key in keys):
        raise DataError("refused: a key that is no text")
    return dict(zip(keys, values[1::2], strict=True))
