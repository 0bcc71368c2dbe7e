"""Names and messages from outside as text that can be printed."""

import re
import unicodedata

# Control characters, halves of characters that stand for bytes, and separators of lines.
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}


def shown(text: str) -> str:
    r"""Return a text in one line that any file and terminal of Unicode takes.

    Args:
      text: such as a name of a file, which may hold line breaks, or bytes that are no UTF-8.

    Returns:
      The text; what cannot be seen is written as an escape: "\n", or "\xff" for a byte.
    """
    return "".join(_escape(c) if unicodedata.category(c) in _UNSEEN else c for c in text)


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line, without the addresses of objects.

    Args:
      error: of this library or of any other.

    Returns:
      The message, or the kind of the error where it has none.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return shown(re.sub(r" at 0x[0-9a-fA-F]+", "", text))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # How Python holds a byte of a name that is no UTF-8.
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
