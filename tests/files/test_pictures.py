"""Pictures: png and jpeg alone, of a size that is there."""

import io
import sys
import zlib

import numpy as np
import pytest
from damaged_files import limits, with_checksums
from PIL import Image, features

from jaxml.files.errors import DataError
from jaxml.files.pictures import decode

PIXELS = np.arange(60, dtype=np.uint8).reshape(5, 4, 3) * 4


def encoded(kind, **settings):
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, kind, **settings)
    return content.getvalue()


def test_png_and_jpeg_are_read():
    np.testing.assert_array_equal(decode(encoded("png")), PIXELS)
    found = np.asarray(decode(encoded("jpeg", quality=95)), float)
    assert np.abs(found - PIXELS).mean() < 5


@pytest.mark.parametrize("kind", ["gif", "bmp", "tiff", "ppm", "eps", "pdf", "ico", "webp"])
def test_other_formats_are_not_read_under_any_name(kind):
    """Pillow gives eps to Ghostscript, a program that runs what is in it."""
    if kind == "webp" and not features.check("webp"):
        pytest.skip("Pillow was built without webp")
    content = encoded(kind)
    with pytest.raises(DataError, match="cannot identify"):
        decode(content)
    assert "GhostScript" not in sys.modules


def png(width, height):
    """A PNG that claims a size and holds a row."""
    sizes = width.to_bytes(4) + height.to_bytes(4)
    chunks = (
        (b"IHDR", sizes + b"\x08\0\0\0\0"),
        (b"IDAT", zlib.compress(bytes(9))),
        (b"IEND", b""),
    )
    return with_checksums(b"".join(len(c).to_bytes(4) + name + c for name, c in chunks))


SIZES = ((5_000, 1_000), (10_000, 8_000), (10_000, 10_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1))


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_not_believed(size):
    with limits(), pytest.raises(DataError, match="exceeds limit|are not there"):
        decode(png(*size))


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_large_pictures_of_one_colour_are_read(mode):
    for kind in ("png", "jpeg"):
        content = io.BytesIO()
        Image.new(mode, (4000, 3000)).save(content, kind, optimize=True, progressive=True)
        assert decode(content.getvalue()).size == (4000, 3000)


def test_damage_is_an_error_and_no_warning():
    for content in (b"", encoded("png")[:45], encoded("jpeg")[:200], b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(DataError):
            decode(content)
    broken = Image.Exif()
    broken[0x010F] = "maker"
    content = encoded("jpeg", exif=broken).replace(b"maker", b"mak\xff\xff")
    assert decode(content).size == (4, 5)
