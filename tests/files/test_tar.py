"""Tar archives: what is read, and that no name, link or size in one is believed."""

import gzip
import io
import tarfile

import pytest
from damaged_files import limits

from jaxml.files.errors import DataError
from jaxml.files.tar import read_tar

WANTED = r"(?:.*/)?[^/]*\.wav"


def entry(name, size=0, **fields):
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def save(path, *entries):
    """Write an archive of headers and contents."""
    content = b""
    for info, inner in entries:
        content += info.tobuf(tarfile.GNU_FORMAT) + inner + bytes(-len(inner) % 512)
    path.write_bytes(gzip.compress(content + bytes(1024)))
    return path


def good(name):
    return entry(name, 3), b"abc"


def test_files_of_a_name_are_read(tmp_path):
    path = save(tmp_path / "a", good("x/1.wav"), good("x/2.txt"), good("3.wav"))
    assert read_tar(path, WANTED) == {"x/1.wav": b"abc", "3.wav": b"abc"}


def test_names_lead_nowhere(tmp_path):
    """A name is only a name: nothing is written under it."""
    names = ["../../1.wav", "/etc/2.wav", str(tmp_path / "3.wav")]
    path = save(tmp_path / "a", *map(good, names))
    assert list(read_tar(path, WANTED)) == [names[0], names[1].lstrip("/") and names[1], names[2]]
    assert list(tmp_path.iterdir()) == [path]
    assert not (tmp_path / "../../1.wav").exists()


def test_links_are_no_files(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    links = [
        (entry("1.wav", type=tarfile.SYMTYPE, linkname=str(secret)), b""),
        (entry("2.wav", type=tarfile.LNKTYPE, linkname="../secret"), b""),
        (entry("3.wav", type=tarfile.LNKTYPE, linkname="3.wav"), b""),
        (entry("4.wav", type=tarfile.SYMTYPE, linkname="4.wav"), b""),
        (entry("5.wav", type=tarfile.DIRTYPE), b""),
        (entry("6.wav", type=tarfile.FIFOTYPE), b""),
        (entry("7.wav", type=tarfile.CHRTYPE), b""),
    ]
    assert read_tar(save(tmp_path / "a", *links, good("8.wav")), WANTED) == {"8.wav": b"abc"}


def test_a_negative_size_does_not_lead_back_for_ever(tmp_path):
    for size in (-512, -1024, -(2**40)):
        path = save(tmp_path / "a", good("1.wav"), (entry("2.wav", size), b""))
        with pytest.raises(DataError, match=r"2\.wav has -"):
            read_tar(path, WANTED)
        pax = entry("2.wav", pax_headers={"size": str(size)})
        content = good("1.wav")[0].tobuf() + b"abc" + bytes(509)
        content += pax.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
        path.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match=r"2\.wav has -"):
            read_tar(path, WANTED)


def sparse(name, size):
    """A header of GNU's sparse files: 512 bytes stored, `size` claimed."""
    buffer = bytearray(entry(name, 512).tobuf(tarfile.GNU_FORMAT))
    buffer[156:157] = tarfile.GNUTYPE_SPARSE
    octal = lambda number: b"%011o\0" % number
    buffer[386:410] = octal(0) + octal(512)
    buffer[483:495] = octal(size)
    buffer[148:156] = b"%06o\0 " % (sum(buffer) - sum(buffer[148:156]) + 8 * 32)
    return bytes(buffer) + bytes(512)


def test_a_sparse_file_is_no_file(tmp_path):
    content = sparse("1.wav", 2**32) + good("2.wav")[0].tobuf() + b"abc" + bytes(509)
    (tmp_path / "a").write_bytes(gzip.compress(content + bytes(1024)))
    with tarfile.open(tmp_path / "a") as files:
        assert [file.size for file in files] == [2**32, 3]
    with limits():
        assert read_tar(tmp_path / "a", WANTED) == {"2.wav": b"abc"}


def test_a_size_is_not_believed(tmp_path):
    path = save(tmp_path / "a", (entry("1.wav", 2**40), b"abc"))
    with limits(), pytest.raises(DataError, match="would take 1,024 GiB"):
        read_tar(path, WANTED)


# Without the time, which would be in the names of the tests.
PACKED, EMPTY = (gzip.compress(content, mtime=0) for content in (b"text", b""))


@pytest.mark.parametrize("content", [b"", b"text", PACKED, EMPTY])
def test_damage_is_an_error(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises((OSError, DataError)):
        read_tar(tmp_path / "a", WANTED)


def test_a_cut_archive_is_an_error(tmp_path):
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb") as file:
        file.write(good("1.wav")[0].tobuf())
    (tmp_path / "a").write_bytes(stream.getvalue()[:-12])
    with pytest.raises(DataError):
        read_tar(tmp_path / "a", WANTED)
