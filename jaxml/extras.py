"""What to install where a package is missing that only some functions need."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Have failing imports say which extra of jaxml brings the package.

    Args:
      name: of the extra.

    Returns:
      A context manager, for the imports.

    Raises:
      ModuleNotFoundError: a package is missing; the message is one line.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        message = f"needs the package {package}; install it with: pip install 'jaxml[{name}]'"
        raise ModuleNotFoundError(message, name=error.name) from error
