"""Small files that stand for much: refused by what they claim, before memory is asked for.

Each is built here, of a few kilobytes for hundreds of megabytes, and read with far less allowed
than it would take. Without the limit, and in the memory of `limits`, it ends otherwise.
"""

import bz2
import dataclasses
import functools
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from damaged_files import forbidden, limits, public_folder, with_checksums

from jaxml.data import (
    DataError,
    audio,
    image_rows,
    images,
    points,
    questions,
    rows,
    speech,
    text,
    transforms,
    volume,
)
from jaxml.data.affine_files import matlab_bytes
from jaxml.files import npz, tar

# What each of them would take, and what is allowed.
LARGE, ALLOWED = 2**29, 2**26
SMALL = 2**20


@dataclasses.dataclass(frozen=True)
class Bomb:
    """A small file that stands for much.

    Attributes:
      file: its name, with folders.
      make: returns its content.
      read: takes its path, and `max_bytes`.
      message: of the error, after the path.
    """

    file: str
    make: Callable[[], bytes]
    read: Callable[..., Any]
    message: str = "would take"


def zeros(count):
    """Return a gzip file of so many zeros: one part again and again."""
    return gzip.compress(bytes(2**20)) * (count >> 20)


def deflated(header, count):
    """Return a deflate stream of a header and so many zeros, and its checksum."""
    block = bytes(2**20)
    parts = []
    for content in (header, block):
        packer = zlib.compressobj(9, wbits=-15)
        parts.append(packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH))
    check = zlib.crc32(header)
    for _ in range(count >> 20):
        check = zlib.crc32(block, check)
    return parts[0] + parts[1] * (count >> 20) + b"\3\0", check


def npy_header(shape, descr="|u1"):
    content = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue()


def npz_of(name, *shape):
    """Return an archive of one array of zeros, deflated."""
    size = int(np.prod(shape))
    header = npy_header(shape)
    data, check = deflated(header, size)
    full, raw = len(header) + size, f"{name}.npy".encode()
    sizes = struct.pack("<IIIHH", check, len(data), full, len(raw), 0)
    local = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + raw
    entry = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + sizes
    entry += struct.pack("<HHHII", 0, 0, 0, 0, 0) + raw
    place = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local) + len(data), 0)
    return local + data + entry + b"PK\5\6" + place


def npz_by(method, pack):
    """Return an archive of a member that is compressed by another method than numpy's."""

    def make():
        content, data = io.BytesIO(), npy_header((SMALL,)) + bytes(SMALL)
        with zipfile.ZipFile(content, "w", method) as archive:
            archive.writestr("vol.npy", data)
        assert len(content.getvalue()) < 5000 and len(pack(data)) < 5000
        return content.getvalue()

    return make


@functools.cache
def flac(parts=LARGE // (4 * 8 * 2**18)):
    """Return silence, half a gigabyte as float32."""
    soundfile = pytest.importorskip("soundfile")
    content = io.BytesIO()
    with soundfile.SoundFile(content, "w", 8000, 8, format="FLAC") as sound:
        for _ in range(parts):
            sound.write(np.zeros((2**18, 8), np.int16))
    return content.getvalue()


@functools.cache
def png(width, height, depth, color):
    """Return a png of zeros, its rows of bits."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    line = 1 + (width * depth * channels + 7) // 8
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(line)) for _ in range(height)) + packer.flush()
    palette = [(b"PLTE", bytes(6))] if color == 3 else []
    parts = [(b"IHDR", head), *palette, (b"IDAT", data), (b"IEND", b"")]
    return with_checksums(b"".join(struct.pack(">I", len(d)) + k + d for k, d in parts))


def wide(depth=1, color=0):
    """Return a png of 8000 x 8000 pixels: 64 million, fewer than Pillow itself refuses."""
    return lambda: png(8000, 8000, depth, color)


def nifti(sides=(1000, 1000, 256), dtype="u1", **changed):
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(sides)
    header["magic"], header["vox_offset"] = b"n+1\0", 352
    for name, value in changed.items():
        header[name] = value
    return header.binaryblock + bytes(4)


def nifti_of_zeros():
    """Return half a gigabyte of a volume, in gzip members one behind the other."""
    return gzip.compress(nifti((1024, 1024, 512))) + zeros(LARGE)


def field_of_zeros():
    """Return half a gigabyte of vectors."""
    head = nifti((256, 256, LARGE // 2**16 // 12, 1, 3), "f4", intent_code=1007)
    return gzip.compress(head) + zeros(LARGE)


def nifti_with_extension(sides=(4, 5, 6)):
    """Return a volume of a few voxels behind an extension of half a gigabyte."""
    head = nifti(sides, vox_offset=352 + LARGE)
    extension = struct.pack("<ii", LARGE, 6)
    return gzip.compress(head[:-4] + b"\1\0\0\0" + extension) + zeros(LARGE)


def pair_of_zeros():
    """Return the header of half a gigabyte of a volume."""
    head = bytearray(nifti((1024, 1024, 512), vox_offset=0)[:348])
    head[344:348] = b"ni1\0"
    return bytes(head)


def mgz_of_zeros():
    from nibabel.freesurfer.mghformat import MGHHeader

    header = MGHHeader()
    header.set_data_dtype(np.uint8)
    header["dims"] = 1024, 1024, 512, 1
    return gzip.compress(header.binaryblock[:284]) + zeros(LARGE)


NRRD = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1024 1024 512\nencoding: gzip\n%s\n"
META = (
    b"NDims = 3\nDimSize = 1024 1024 512\nElementType = MET_UCHAR\nCompressedData = True\n"
    b"ElementDataFile = LOCAL\n"
)


def parquet(table):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(table(), content, compression="zstd")
    return content.getvalue()


def many_rows(count=4_000_000):
    import pyarrow

    return pyarrow.table({"text": pyarrow.array(np.zeros(count, np.int8))})


def long_texts():
    import pyarrow

    column = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(np.zeros(4096, np.int32)), pyarrow.array(["x" * 2**17])
    )
    return pyarrow.table({"text": column})


def long_lists():
    import pyarrow

    texts = long_texts()["text"].combine_chunks()
    pieces = pyarrow.array([0, 1, len(texts)], pyarrow.int32())
    return pyarrow.table({"text": pyarrow.ListArray.from_arrays(pieces, texts)})


def plain_texts():
    import pyarrow

    return pyarrow.table({"text": long_texts()["text"].cast(pyarrow.large_string())})


def header_of_tar(size, kind=tarfile.REGTYPE):
    entry = tarfile.TarInfo("a.bin")
    entry.size, entry.type = size, kind
    return gzip.compress(entry.tobuf(tarfile.GNU_FORMAT)) + zeros(LARGE)


def read_tar(path, max_bytes):
    return tar.read_tar(path, r".*\.bin", max_bytes=max_bytes)


def read_pair(path, max_bytes):
    """Read a volume whose numbers, sparse in the file system, are as many as it claims."""
    with path.with_suffix(".img").open("wb") as file:
        file.truncate(LARGE)
    return volume.load_volume(path, max_bytes=max_bytes)


@functools.cache
def jpeg():
    from PIL import Image

    content = io.BytesIO()
    Image.new("L", (8000, 8000)).save(content, "jpeg")
    return content.getvalue()


def of_folder(read):
    return lambda path, max_bytes: read(path.parent, max_bytes=max_bytes)


def of_classes(read):
    return lambda path, max_bytes: read(path.parents[1], max_bytes=max_bytes)


def speech_npz():
    content = io.BytesIO()
    parts = {"offsets": np.array([0, 1, 2]), "speaker": np.arange(2), "text": np.arange(2)}
    np.savez_compressed(content, audio=np.zeros(LARGE // 16, np.int16), **parts)
    return content.getvalue()


SIDE = 512
BOMBS = {
    "npz deflated": Bomb("a.npz", lambda: npz_of("vol", 8, SIDE, LARGE // SIDE // 8), npz.read_npz),
    "npz bzip2": Bomb("a.npz", npz_by(zipfile.ZIP_BZIP2, bz2.compress), npz.read_npz, "bzip2"),
    "npz lzma": Bomb("a.npz", npz_by(zipfile.ZIP_LZMA, lzma.compress), npz.read_npz, "lzma"),
    "volume npz": Bomb("a.npz", lambda: npz_of("vol", 8, SIDE, 2**17), volume.load_volume),
    "images npz": Bomb("a.npz", lambda: npz_of("images", 2**13, 128, SIDE, 1), images.load_images),
    "rows npz": Bomb("a.npz", lambda: npz_of("images", 2**8, 128, SIDE, 1), image_rows.load_rows),
    "pool npz": Bomb(
        "a-unlabelled-0.npz",
        lambda: npz_of("images", 2**13, 128, SIDE, 1),
        of_folder(images.load_pool),
    ),
    "speech npz": Bomb("a.npz", speech_npz, speech.load_speech_corpus),
    "flac": Bomb("a.flac", flac, audio.load_audio),
    "series": Bomb("a.flac", flac, audio.load_series),
    "speakers": Bomb("ann/a.flac", flac, of_classes(speech.load_speech_corpus)),
    "one-bit png": Bomb("a.png", wide(), volume.load_volume),
    "palette png": Bomb("a.png", wide(1, 3), volume.load_volume),
    "color png": Bomb("a.png", wide(8, 2), volume.load_volume),
    "class png": Bomb("a/a.png", wide(), of_classes(images.load_images)),
    "row png": Bomb("a.png", wide(), of_folder(image_rows.load_rows)),
    "nii": Bomb("a.nii.gz", nifti_of_zeros, volume.load_volume),
    "field": Bomb("a.nii.gz", field_of_zeros, transforms.load_transform),
    "field extension": Bomb(
        "a.nii.gz", lambda: nifti_with_extension((4, 5, 6, 1, 3)), transforms.load_transform
    ),
    "field npz": Bomb(
        "a.npz", lambda: npz_of("displacement", 8, SIDE, 2**17), transforms.load_transform
    ),
    "nii extension": Bomb("a.nii.gz", nifti_with_extension, volume.load_volume),
    "hdr": Bomb("a.hdr", pair_of_zeros, read_pair),
    "mgz": Bomb("a.mgz", mgz_of_zeros, volume.load_volume),
    "nrrd": Bomb("a.nrrd", lambda: NRRD % b"" + zeros(LARGE), volume.load_volume),
    "nrrd labels": Bomb("a.nrrd", lambda: NRRD % b"" + zeros(LARGE), volume.load_labels),
    "mha": Bomb("a.mha", lambda: META + zeros(LARGE), volume.load_volume),
    "wide jpeg": Bomb("a.jpg", jpeg, volume.load_volume),
    "points": Bomb("a.csv", lambda: b"x,y\n" + b"0,0\n" * (SMALL // 2), points.load_points),
    "parquet rows": Bomb("a.parquet", lambda: parquet(many_rows), rows.read_rows),
    "parquet texts": Bomb("a.parquet", lambda: parquet(long_texts), text.load_texts),
    "parquet lists": Bomb("a.parquet", lambda: parquet(long_lists), rows.read_rows),
    "parquet plain": Bomb("a.parquet", lambda: parquet(plain_texts), rows.read_rows),
    "json": Bomb("a.json", lambda: b"[" + b"{}," * 2**18 + b"{}]", rows.read_rows),
    "jsonl": Bomb("a.jsonl", lambda: b"[[],[],[],[],[],[],[]]\n" * 2**17, rows.read_rows),
    "csv": Bomb("a.csv", lambda: b"a\n" + b"0\n" * SMALL, rows.read_rows),
    "csv fields": Bomb("a.csv", lambda: b"," * SMALL, questions.load_choice_questions),
    "csv series": Bomb("a.csv", lambda: b"0\n" * SMALL, audio.load_series),
    "tar": Bomb("a", lambda: header_of_tar(LARGE), read_tar),
    "tar long name": Bomb("a", lambda: header_of_tar(LARGE, tarfile.GNUTYPE_LONGNAME), read_tar),
    "tar headers": Bomb("a", lambda: header_of_tar(LARGE, tarfile.XHDTYPE), read_tar),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_claimed_is_not_expanded(name, tmp_path, unchecked):
    bomb = BOMBS[name]
    path = tmp_path / bomb.file
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bomb.make()
    assert len(content) < 3 * SMALL
    path.write_bytes(content)
    for other in ("b/a", "b/b") if "/" in bomb.file else ():
        # Another class, and another speaker.
        (path.parents[1] / other).with_suffix(path.suffix).parent.mkdir(exist_ok=True)
        (path.parents[1] / other).with_suffix(path.suffix).write_bytes(content)
    # Packages that are imported at the first file take memory too.
    with pytest.raises(DataError, match=bomb.message):
        bomb.read(path, max_bytes=1000)
    with limits(), pytest.raises(DataError, match=bomb.message):
        bomb.read(path, max_bytes=ALLOWED)


GOOD = {
    "a.npy": (lambda: npy_header((4, 4)) + bytes(range(16)), volume.load_volume),
    "b.npz": (lambda: npz_of("vol", 4, 2**18), volume.load_volume),
    "c.png": (lambda: png(9, 9, 8, 0), volume.load_volume),
    "d.mat": (lambda: matlab_bytes(transforms.Affine(np.eye(4))), transforms.load_transform),
    "d.nii": (lambda: nifti((4, 5, 6)) + bytes(120), volume.load_volume),
    "e.flac": (lambda: flac(1), audio.load_audio),
    "f.csv": (lambda: b"1\n2\n", audio.load_series),
    "g.csv": (lambda: b"a,b\n1,2\n", rows.read_rows),
    "h.json": (lambda: b'[{"text": "a"}]', text.load_texts),
    "i.txt": (lambda: b"a", text.load_texts),
    "j.parquet": (lambda: parquet(lambda: many_rows(3)), rows.read_rows),
    "k/l/a.png": (lambda: png(9, 9, 8, 0), of_folder(image_rows.load_rows)),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_file_that_may_not_be_read_says_so(name):
    make, read = GOOD[name]
    with public_folder() as folder:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make())
        read(path, max_bytes=4 * 2**30)
        with forbidden(path), pytest.raises(DataError, match=f"{name}: permission denied$"):
            read(path, max_bytes=4 * 2**30)


TWICE = {
    "a.csv": (b"a,b,a\n1,2,3\n", rows.read_rows, "two columns are called 'a'"),
    "a.json": (b'[{"a": 1, "a": 2}]', rows.read_rows, "the key 'a' stands twice"),
    "a.jsonl": (b'{"b": 1}\n{"a": {"b": 1, "b": 2}}', rows.read_rows, "line 2: .*'b' stands twice"),
}


@pytest.mark.parametrize("name", TWICE)
def test_two_of_one_name_are_refused(name, tmp_path):
    content, read, message = TWICE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        read(tmp_path / name)


def test_two_columns_of_a_parquet_file_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    columns = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    table = lambda: pyarrow.Table.from_arrays(columns, names=["text", "text"])
    (tmp_path / "a.parquet").write_bytes(parquet(table))
    with pytest.raises(DataError, match=r"a.parquet: .*two columns are called 'text'; give each"):
        rows.read_rows(tmp_path / "a.parquet")


def test_two_arrays_and_two_files_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("vol.npy", npy_header((3, 3)) + bytes(9))
        archive.writestr("vol", npy_header((3, 3)) + bytes(9))
    with pytest.raises(DataError, match=r"a.npz: .*two arrays are called 'vol'"):
        volume.load_volume(tmp_path / "a.npz")
    entry = tarfile.TarInfo("a.bin").tobuf()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(2 * entry))
    with pytest.raises(DataError, match="two files are called 'a.bin'"):
        read_tar(tmp_path / "a.tar.gz", SMALL)
