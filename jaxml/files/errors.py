"""The one error of unusable data."""


class DataError(ValueError):
    """A file or folder that cannot be used; the message names it and what is accepted."""
