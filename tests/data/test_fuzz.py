"""Every reader of data against damaged files: they are read or refused, with no other end."""

import gzip
import io
import json
import pickle
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from damaged_files import Reader, assert_survives, with_checksums, without_checksums

from jaxml.data import (
    DataError,
    affine_files,
    audio,
    brain,
    field_files,
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
from jaxml.data.sources import download, spoken_digit, tiny_images
from jaxml.output import stages

pytestmark = pytest.mark.usefixtures("unchecked")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 5, 4, 3), np.uint8)
WAVE = (0.1 * RNG.normal(size=300)).astype(np.float32)
FACTS = [
    {"question": "Who?", "answer": "\u00c9lise", "perturbed_answer": ["a", "b"], "text": "b"},
    {"question": "Where?", "answer": "Here", "paraphrased_answer": "z", "text": "\U0001f600"},
]
CHOICES = [{"question": "Who?", "choices": ["a", "b", "c"], "answer": 1}] * 2
LETTERS = b'question,A,B,C,answer\nWho?,"x, y",b,c,A\nWhere?,a,b,c,C\n'
PICTURES = {"images": PIXELS, "labels": np.arange(12) % 2}
SPEECH = {
    "audio": (WAVE * 9999).astype(np.int16),
    "offsets": np.array([0, 90, 170, 300]),
    "speaker": np.array(["mina", "mina", "arun"]),
    "text": np.arange(3),
}
FIELDS = {"displacement": RNG.normal(size=(5, 6, 2)), "affine": np.eye(2, 3)}
BRAIN = {"vol": RNG.integers(0, 256, (4, 5, 6)).astype(np.uint8), "seg": np.ones((4, 5, 6), int)}


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def npz(arrays, save=np.savez_compressed):
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


def wrapped(arrays, name):
    """Return a function from the npy file of one array to the npz file of all."""

    def wrap(damaged):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for own, array in arrays.items():
                archive.writestr(f"{own}.npy", damaged if own == name else npy(array))
        return content.getvalue()

    return wrap


def whole(file, arrays, read, **more):
    return Reader(file, lambda: npz(arrays), read, **more)


def member(file, arrays, name, read, **more):
    return Reader(file, lambda: npy(arrays[name]), read, wrapped(arrays, name), **more)


def picture(kind, mode="RGB"):
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(PIXELS[0]).convert(mode).save(content, kind)
    return content.getvalue()


def joined(parts, **more):
    arrays = {"jpeg": np.frombuffer(b"".join(parts), np.uint8)}
    return arrays | {"offset": np.cumsum([0, *map(len, parts)])} | more


def labelled(damaged=None):
    """Joined pictures, one of them damaged."""
    good = picture("jpeg")
    third = good if damaged is None else damaged
    return joined([good, good, third, good], label=np.arange(4))


def sound(kind, rate=16000):
    import soundfile

    content = io.BytesIO()
    soundfile.write(content, WAVE, rate, format=kind)
    return content.getvalue()


def nifti():
    import nibabel

    affine = np.array([[-2.0, 0, 0, 40], [0, -3, 0, 30], [0, 0, 4, -20], [0, 0, 0, 1]])
    data = RNG.normal(size=(5, 6, 7)).astype(np.float32)
    return nibabel.Nifti1Image(data, affine).to_bytes()


def mgh():
    import nibabel

    image = nibabel.MGHImage(RNG.normal(size=(5, 6, 7)).astype(np.float32), np.diag([2, 2, 2, 1]))
    return image.to_bytes()


def pair(kind):
    """Return header and numbers of an image of two files, and write the one beside the other."""
    import nibabel

    image = getattr(nibabel, kind)(RNG.integers(0, 99, (5, 6, 7)).astype(np.int16), np.eye(4))
    files = {name: nibabel.FileHolder(fileobj=io.BytesIO()) for name in ("header", "image")}
    image.to_file_map({**files, "mat": nibabel.FileHolder(fileobj=io.BytesIO())})
    return {name: file.fileobj.getvalue() for name, file in files.items()}


NUMBERS = RNG.integers(0, 99, (5, 6, 7)).astype("<i2").tobytes()
NRRD = (
    b"NRRD0004\n# a comment\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
    b"sizes: 7 6 5\nspace directions: (2,0,0) (0,-2,0.5) (0,0,3)\nkinds: domain domain domain\n"
    b"endian: little\nencoding: %s\nspace origin: (1,-2,3.5)\n%s\n"
)
META = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    b"CompressedData = %s\nTransformMatrix = 1 0 0 0 0 1 0 -1 0\nOffset = 1 -2 3.5\n"
    b"ElementSpacing = 1 2 3\nDimSize = 7 6 5\nElementType = MET_SHORT\nElementDataFile = %s\n"
)


AFFINE = transforms.Affine(np.diag([1.0, 1.25, 0.75, 1.0]))


def composite():
    """Return a file of two affines in one."""
    _, first, rest = affine_files.text_bytes(AFFINE).split(b"\n", 2)
    head = b"#Insight Transform File V1.0\n#Transform 0\nTransform: CompositeTransform_double_3_3\n"
    return head + 2 * (first + b"\n" + rest)


def field(pack=gzip.decompress):
    vectors = RNG.normal(size=(5, 4, 3, 3)).astype(np.float32)
    return pack(field_files.field_bytes(vectors, np.diag([-2.0, 3, 4, 1])))


def itk_vectors(suffix):
    """Return a function to the content of a field as ITK writes it."""

    def make():
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(RNG.normal(size=(3, 4, 5, 3)), isVector=True)
        with tempfile.TemporaryDirectory() as folder:
            sitk.WriteImage(image, f"{folder}/a{suffix}")
            return Path(f"{folder}/a{suffix}").read_bytes()

    return make


def parquet(**settings):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(FACTS), content, **settings)
    return content.getvalue()


def tar(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, inner in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(inner)
            archive.addfile(entry, io.BytesIO(inner))
    return content.getvalue()


def recordings():
    return tar({f"x/recordings/{i}_ann_0.wav": sound("WAV", 8000) for i in range(2)})


def batches():
    return tar(dict.fromkeys(("x/data_batch_1.bin", "x/test_batch.bin"), bytes(2 * 3073)))


def classes(folder):
    for i in range(12):
        file = folder / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(picture("png"))


def speakers(folder):
    for name in ("ann/b.wav", "bob/a.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(sound("WAV"))


def brains(folder):
    for name in "ab":
        (folder / f"subject_{name}_80x96x112.npz").write_bytes(npz(BRAIN))
    (folder / "labels30.npz").write_bytes(npz({"labels": np.array([1, 3])}))


def beside(name, content):
    return lambda folder: (folder / name).write_bytes(content())


def fetched(read):
    """Call a source of data whose download the file is."""

    def call(path):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(download, "fetch", lambda *_: path)
            return read(1.0)

    return call


def of_folder(read):
    return lambda path: read(path.parent)


def of_classes(read):
    return lambda path: read(path.parents[1])


def load_stage(path):
    """A damaged stage is no error: it is computed again."""
    return stages._load(path)


def zipped(content):
    return gzip.compress(content, 1)


def lines():
    return "\n".join(map(json.dumps, FACTS)).encode()


def at_8_khz(path):
    return audio.load_audio(path, rate=8000)


TRAIN, TEST = "cifar10-train-0.npz", beside("cifar10-test-0.npz", lambda: npz(labelled()))
SUBJECT = "subject_b_80x96x112.npz"
POOL = "x-unlabelled-0.npz"
SHALLOW = dict(compression="NONE", use_dictionary=False, store_schema=False)
READERS = {
    "wav": Reader("a.wav", lambda: sound("WAV"), at_8_khz),
    "flac": Reader("a.flac", lambda: sound("FLAC"), at_8_khz),
    "ogg": Reader("a.ogg", lambda: sound("OGG"), at_8_khz),
    "series wav": Reader("a.wav", lambda: sound("WAV"), audio.load_series),
    "series npy": Reader("a.npy", lambda: npy(WAVE), audio.load_series),
    "series csv": Reader("a.csv", lambda: b"x\n1.5\n-2\n3e2\n17\n", audio.load_series),
    "images npz": whole("a.npz", PICTURES, images.load_images),
    "images": member("a.npz", PICTURES, "images", images.load_images),
    "labels": member("a.npz", PICTURES, "labels", images.load_images),
    "rows npz": member("a.npz", {"images": PIXELS / 255}, "images", image_rows.load_rows),
    "joined": whole(TRAIN, labelled(), of_folder(images.load_images), beside=TEST),
    "joined offset": member(
        TRAIN, labelled(), "offset", of_folder(images.load_images), beside=TEST
    ),
    "joined label": member(TRAIN, labelled(), "label", of_folder(images.load_images), beside=TEST),
    "joined jpeg": Reader(
        TRAIN,
        lambda: picture("jpeg"),
        of_folder(images.load_images),
        lambda damaged: npz(labelled(damaged)),
        TEST,
    ),
    "pool": member(POOL, labelled(), "offset", of_folder(images.load_pool)),
    "pool images": member(POOL, {"images": PIXELS}, "images", of_folder(images.load_pool)),
    "class png": Reader(
        "a/0.png", lambda: picture("png"), of_classes(images.load_images), beside=classes
    ),
    "class png chunks": Reader(
        "a/0.png",
        lambda: without_checksums(picture("png", "P")),
        of_classes(image_rows.load_rows),
        with_checksums,
        classes,
    ),
    "nii": Reader("a.nii", nifti, volume.load_volume),
    "nii.gz": Reader("a.nii.gz", lambda: zipped(nifti()), volume.load_volume),
    "nii in gz": Reader("a.nii.gz", nifti, volume.load_volume, zipped),
    "mgh": Reader("a.mgh", mgh, volume.load_volume),
    "mgz": Reader("a.mgz", mgh, volume.load_volume, zipped),
    **{
        f"{part} of a {kind}": Reader(
            f"a.{suffix}",
            lambda part=part, kind=kind: pair(kind)[part],
            volume.load_volume,
            beside=beside(f"a.{other}", lambda part=rest, kind=kind: pair(kind)[part]),
        )
        for kind in ("Nifti1Pair", "Spm99AnalyzeImage", "AnalyzeImage")
        for part, suffix, rest, other in (
            ("header", "hdr", "image", "img"),
            ("image", "img", "header", "hdr"),
        )
    },
    "nrrd": Reader("a.nrrd", lambda: NRRD % (b"raw", b"") + NUMBERS, volume.load_volume),
    "nrrd gzip": Reader(
        "a.nrrd", lambda: NRRD % (b"gzip", b"") + zipped(NUMBERS), volume.load_labels
    ),
    "nhdr": Reader(
        "a.nhdr",
        lambda: NRRD % (b"raw", b"data file: a.raw\n"),
        volume.load_volume,
        beside=beside("a.raw", lambda: NUMBERS),
    ),
    "mha": Reader("a.mha", lambda: META % (b"False", b"LOCAL") + NUMBERS, volume.load_volume),
    "mha zlib": Reader(
        "a.mha", lambda: META % (b"True", b"LOCAL") + zlib.compress(NUMBERS), volume.load_labels
    ),
    "mhd": Reader(
        "a.mhd",
        lambda: META % (b"False", b"a.raw"),
        volume.load_volume,
        beside=beside("a.raw", lambda: NUMBERS),
    ),
    "points": Reader("a.csv", lambda: b"x,y,z,t\n1,-2,3.5,0\n4,5,6e1,0\n", points.load_points),
    "volume jpeg": Reader("a.jpg", lambda: picture("jpeg"), volume.load_volume),
    "volume npy": Reader("a.npy", lambda: npy(PIXELS[0, ..., 0] / 3), volume.load_volume),
    "volume npz": member("a.npz", {"vol": PIXELS[0, ..., 0] / 3}, "vol", volume.load_volume),
    "volume png": Reader(
        "a.png", lambda: without_checksums(picture("png")), volume.load_volume, with_checksums
    ),
    "brain": whole(SUBJECT, BRAIN, of_folder(brain.load_brain_pair), beside=brains),
    "brain vol": member(SUBJECT, BRAIN, "vol", of_folder(brain.load_brain_pair), beside=brains),
    "brain seg": member(SUBJECT, BRAIN, "seg", of_folder(brain.load_brain_pair), beside=brains),
    "brain labels": member(
        "labels30.npz",
        {"labels": np.array([1, 3])},
        "labels",
        of_folder(brain.load_brain_pair),
        beside=brains,
    ),
    "speech": whole("a.npz", SPEECH, speech.load_speech_corpus),
    **{
        f"speech {name}": member("a.npz", SPEECH, name, speech.load_speech_corpus)
        for name in SPEECH
    },
    "speakers": Reader(
        "ann/a.wav", lambda: sound("WAV"), of_classes(speech.load_speech_corpus), beside=speakers
    ),
    "spoken": Reader("a", lambda: zipped(recordings()), fetched(spoken_digit.load_spoken_digit)),
    "spoken tar": Reader("a", recordings, fetched(spoken_digit.load_spoken_digit), zipped),
    "cifar10 tar": Reader("a", batches, fetched(images._fetched), zipped),
    "json": Reader("a.json", lambda: json.dumps(FACTS).encode(), rows.read_rows),
    "jsonl": Reader("a.jsonl", lines, questions.load_questions),
    "passages": Reader(
        "a.json", lambda: b'[{"prompt": "Down", "gt": " the hole"}]', questions.load_passages
    ),
    "choices": Reader(
        "a.json", lambda: json.dumps(CHOICES).encode(), questions.load_choice_questions
    ),
    "letters": Reader("a.csv", lambda: LETTERS, questions.load_choice_questions),
    "csv": Reader("a.csv", lambda: LETTERS, questions.load_questions),
    "texts": Reader("a.json", lines, text.load_texts),
    "books": Reader("a.txt", lambda: "Down \u00e9\n".encode(), of_folder(text.load_books)),
    "parquet": Reader("a.parquet", parquet, rows.read_rows),
    "parquet plain": Reader("a.parquet", lambda: parquet(**SHALLOW), rows.read_rows),
    "pickle 2": Reader(
        "a", lambda: pickle.dumps({"data": PIXELS}, 2), tiny_images.load_tiny_images
    ),
    "pickle 5": Reader(
        "a", lambda: pickle.dumps({"data": PIXELS}, 5), tiny_images.load_tiny_images
    ),
    "affine mat": Reader(
        "a.mat", lambda: affine_files.matlab_bytes(AFFINE), transforms.load_transform
    ),
    "affine txt": Reader(
        "a.txt", lambda: affine_files.text_bytes(AFFINE), transforms.load_transform
    ),
    "affines tfm": Reader("a.tfm", composite, transforms.load_transform),
    "field": Reader("a.nii", field, transforms.load_transform),
    "field gz": Reader("a.nii.gz", lambda: field(bytes), transforms.load_transform),
    "field nrrd": Reader("a.nrrd", itk_vectors(".nrrd"), transforms.load_transform),
    "field mha": Reader("a.mha", itk_vectors(".mha"), transforms.load_transform),
    "field npz": whole("a.npz", FIELDS, transforms.load_transform),
    "field npy": member("a.npz", FIELDS, "displacement", transforms.load_transform),
    "affine npy": member("a.npz", FIELDS, "affine", transforms.load_transform),
    "stage": whole("a.npz", SPEECH, load_stage),
}


def survives(name, folder, count, monkeypatch):
    monkeypatch.delenv("JAXML_DATA", raising=False)
    reader = READERS[name]
    documented = () if name == "stage" else (DataError,)
    assert_survives(Reader(**vars(reader) | {"errors": documented}), folder, count)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name, tmp_path, monkeypatch):
    survives(name, tmp_path, 90, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_read_or_refused(name, tmp_path, monkeypatch):
    survives(name, tmp_path, 1000, monkeypatch)
