"""The one error of unusable data."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jaxml.files.names import one_line


class DataError(ValueError):
    """A file or folder that cannot be used.

    The message of a loader names it and what is accepted. A reader of `jaxml.files` says what is
    wrong, and the loader that called it names the file in front.
    """


class TooLargeError(DataError):
    """A file whose values would take more memory than the caller allows; it may be whole."""


def unreadable(path: Path, error: Exception, *, what: str, accepted: str) -> DataError:
    """Return the error of a loader for what a reader raised.

    Too large and not permitted are no damage, and are told without what would be accepted.

    Args:
      path: of the file.
      error: of the reader.
      what: is wrong otherwise, such as "not readable as png".
      accepted: what the message ends in, such as "give a .png file".
    """
    if isinstance(error, TooLargeError):
        return TooLargeError(f"{path}: {error}")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: permission denied")
    return DataError(f"{path}: {what} ({error}); {accepted}")


def check_permission(path: Path) -> None:
    """Fail now where a file may not be read: other packages tell it as damage.

    Args:
      path: of a file that is there.

    Raises:
      DataError: it cannot be opened.
    """
    try:
        with path.open("rb"):
            pass
    except PermissionError as error:
        raise DataError(f"{path}: permission denied") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from error


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
