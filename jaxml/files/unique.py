"""Names that stand twice, of which a reader would keep the last alone."""

from collections.abc import Iterable


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that stands twice, its first 80 characters; None if all differ.

    Args:
      names: of columns, keys or arrays, in their order.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name[:80]
        seen.add(name)
    return None
