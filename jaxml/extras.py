"""What to install where a package is missing that only some functions need."""

import contextlib
from collections.abc import Iterator

# Packages that are installed under another name than they are imported by.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Have failing imports say how the package is installed, and which extra of jaxml brings it.

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
        package = DISTRIBUTIONS.get(package, package.replace("_", "-"))
        checkout = f"or, in jaxml's folder with all that it goes with, pip install '.[{name}]'"
        message = f"needs the package {package}: pip install {package}, {checkout}"
        raise ModuleNotFoundError(message, name=error.name) from error
