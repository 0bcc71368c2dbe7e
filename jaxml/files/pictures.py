"""Pictures in png and jpeg, decoded by Pillow."""

import io
import warnings
from typing import Any

from jaxml.extras import extra
from jaxml.files.errors import DataError
from jaxml.files.limits import MAX_BYTES, check_memory
from jaxml.files.names import one_line

FORMATS = ("PNG", "JPEG")
# Of a byte: of one bit each, and deflated. A block of jpeg takes more than a bit.
_MOST_PIXELS = 8 * 1032
# As Pillow holds it: of one byte or of four.
_PIXEL_BYTES = 4
# Where a png says how many bits a channel has, and which there are: 0 for gray alone.
_BIT_DEPTH, _COLOR_TYPE = 24, 25


def decode(content: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return a picture as a loaded image of Pillow.

    Args:
      content: of a png or jpeg file. Pillow knows forty more formats, some by running other
        programs; the name of a file says nothing about which of them it is.
      max_bytes: most memory that the picture may take.

    Returns:
      An `Image` of Pillow.

    Raises:
      DataError: it is none of them, damaged, too large or of more pixels than Pillow holds safe,
        or a png of color or with alpha in 16 bits, of which Pillow would read 8.
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
                check_memory(_PIXEL_BYTES * image.width * image.height, max_bytes)
                if image.format == "PNG" and content[_BIT_DEPTH] == 16 and content[_COLOR_TYPE]:
                    raise DataError("color or alpha in 16 bits; accepted is 8, or gray alone")
                image.load()
                return image
    except DataError:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise DataError(one_line(error)) from error
