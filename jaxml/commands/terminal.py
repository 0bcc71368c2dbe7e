"""What all commands read from the terminal, and how they write to it."""

import argparse
import contextlib


def integer(text: str) -> int:
    """Return a whole number of 32 bits, as JAX holds it."""
    with contextlib.suppress(ValueError):
        if abs(number := int(text)) < 2**31:
            return number
    raise argparse.ArgumentTypeError(f"{text[:40]!r}: accepted is a whole number below 2^31")


def say(text: str, file=None) -> None:
    """Print in the first of several processes."""
    import jax

    if jax.process_index() == 0:
        print(text, file=file)
