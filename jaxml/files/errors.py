"""The one error of unusable data."""

import contextlib
from collections.abc import Iterator

from jaxml.files.names import one_line


class DataError(ValueError):
    """A file or folder that cannot be used.

    The message of a loader names it and what is accepted. A reader of `jaxml.files` says what is
    wrong, and the loader that called it names the file in front.
    """


@contextlib.contextmanager
def damage(*errors: type[Exception], prefix: str = "") -> Iterator[None]:
    """Raise what other packages raise at damaged bytes as a `DataError`.

    Args:
      errors: kinds of error beside ValueError.
      prefix: of the message.

    Returns:
      A context manager, for the code that reads.

    Raises:
      DataError: in place of such an error; one of its own passes.
    """
    try:
        yield
    except DataError:
        raise
    except (ValueError, *errors) as error:
        raise DataError(f"{prefix}{one_line(error)}") from error
