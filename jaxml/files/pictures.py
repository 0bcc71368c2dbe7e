"""Pictures in png and jpeg, decoded by Pillow."""

import io
import warnings
from typing import Any

from jaxml.extras import extra
from jaxml.files.errors import DataError
from jaxml.files.names import one_line

FORMATS = ("PNG", "JPEG")
# Of a byte: of one bit each, and deflated. A block of jpeg takes more than a bit.
_MOST_PIXELS = 8 * 1032


def decode(content: bytes) -> Any:
    """Return a picture as a loaded image of Pillow.

    Args:
      content: of a png or jpeg file. Pillow knows forty more formats, some by running other
        programs; the name of a file says nothing about which of them it is.

    Returns:
      An `Image` of Pillow.

    Raises:
      DataError: it is none of them, damaged, or of more pixels than Pillow holds safe.
    """
    with extra("experiments"):
        from PIL import Image

    try:
        with warnings.catch_warnings():
            # Of damage in what is not read here, such as the date of a photograph.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS * len(content):
                    raise DataError(f"{image.width} x {image.height} pixels are not there")
                image.load()
                return image
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise DataError(one_line(error)) from error
