import io
import tarfile

import numpy as np
import pytest
import soundfile

from jaxml.data import DataError
from jaxml.data.sources import download, spoken_digit
from jaxml.data.sources.spoken_digit import load_spoken_digit


def archive(path, names, rate=8000):
    """Write an archive with the layout of the data set's; file k holds 100 + k samples."""
    with tarfile.open(path, "w:gz") as files:
        for k, name in enumerate(names):
            content = io.BytesIO()
            soundfile.write(content, np.full(100 + k, 0.25), rate, format="WAV")
            entry = tarfile.TarInfo(f"free-spoken-digit-dataset-1.0.9/{name}")
            entry.size = content.tell()
            content.seek(0)
            files.addfile(entry, content)
    return path


NAMES = ["recordings/7_theo_10.wav", "recordings/0_anna_1.wav", "extra/0_anna_2.wav"]


def test_reads_recordings_of_the_archive(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.tar.gz", NAMES)
    monkeypatch.setattr(download, "fetch", lambda name, seconds: path)
    waveforms, speakers, digits = load_spoken_digit(1.0)
    assert (speakers, digits) == (["anna", "theo"], [0, 7])
    assert [len(w) for w in waveforms] == [101, 100]
    np.testing.assert_allclose(waveforms[0], 0.25, atol=1e-4)
    assert waveforms[0].dtype == np.float32


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"not a tar"), "not the archive"),
        (lambda path: archive(path, NAMES[2:]), "no recordings"),
        (lambda path: archive(path, NAMES, 16000), "is not 8000 Hz"),
        (lambda path: archive(path, ["recordings/strange.wav"]), "not the archive"),
        (lambda path: archive(path, NAMES).write_bytes(path.read_bytes()[:150]), "not the archive"),
    ],
)
def test_bad_archive_is_named(tmp_path, monkeypatch, write, message):
    path = tmp_path / "a.tar.gz"
    write(path)
    monkeypatch.setattr(download, "fetch", lambda name, seconds: path)
    with pytest.raises(DataError, match=message) as caught:
        load_spoken_digit(1.0)
    assert str(path) in str(caught.value)


def test_tfds_knows_one_archive_of_this_name():
    import tensorflow_datasets as tfds

    (url,) = tfds.builder_cls(spoken_digit.NAME).url_infos
    assert url.endswith("free-spoken-digit-dataset/archive/v1.0.9.tar.gz")
