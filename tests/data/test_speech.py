import subprocess
import sys

import numpy as np
import pytest
import soundfile

from jaxml.data import DataError, load_speech_corpus
from jaxml.data.sources import bengali, spoken_digit


@pytest.fixture(autouse=True)
def no_sources(monkeypatch, tmp_path):
    """No variable, no network and no synthesiser, unless a test gives one."""
    monkeypatch.delenv("JAXML_DATA", raising=False)

    def fail(*_):
        raise DataError("not in this test")

    monkeypatch.setattr(spoken_digit, "load_spoken_digit", fail)
    monkeypatch.setattr(bengali, "spoken_by_voices", fail)


def arrays(**changed):
    """Two speakers, two sentences, 3 + 4 + 5 + 6 samples."""
    good = dict(
        audio=np.arange(-9, 9, dtype=np.int16) * 1000,
        offsets=np.array([0, 3, 7, 12, 18]),
        speaker=np.array(["mina", "mina", "arun", "arun"]),
        text=np.array([5, 8, 5, 8]),
    )
    return good | changed


def assert_is_of_arrays(corpus):
    assert corpus.rate == 8000
    assert corpus.speakers == ("arun", "mina")
    assert corpus.speaker.tolist() == [1, 1, 0, 0]
    assert corpus.sentence.tolist() == [5, 8, 5, 8]
    assert [w.dtype for w in corpus.audio] == [np.float32] * 4
    joined = np.concatenate(corpus.audio)
    np.testing.assert_array_equal(joined, np.arange(-9, 9, dtype=np.float32) * 1000 / 32768)
    assert [len(w) for w in corpus.audio] == [3, 4, 5, 6]
    assert "4 utterances of 2 speakers" in corpus.source


@pytest.mark.parametrize("name", ["speech/bangla5x80_8k.npz", "speech/other.npz", "mine.npz"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_in_a_folder(tmp_path, name, save):
    (tmp_path / "speech").mkdir()
    save(tmp_path / name, **arrays())
    if name == "mine.npz":
        (tmp_path / "speech").rmdir()
    assert_is_of_arrays(load_speech_corpus(tmp_path))
    assert_is_of_arrays(load_speech_corpus(str(tmp_path / name)))


def test_variable_names_the_folder_and_the_argument_goes_first(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", **arrays())
    monkeypatch.setenv("JAXML_DATA", str(tmp_path))
    assert_is_of_arrays(load_speech_corpus(None))
    with pytest.raises(DataError, match="elsewhere"):
        load_speech_corpus(tmp_path / "elsewhere")


def test_prepared_file_wins_over_others(tmp_path):
    np.savez(tmp_path / "bangla5x80_8k.npz", **arrays())
    np.savez(tmp_path / "another.npz", **arrays(text=np.zeros(4, int)))
    assert_is_of_arrays(load_speech_corpus(tmp_path))


def test_folder_of_recordings(tmp_path):
    rng = np.random.default_rng(0)
    for speaker, names in {"rita": ["s2.wav", "s1.flac"], "dev": ["s1.ogg", "s3.WAV"]}.items():
        (tmp_path / speaker).mkdir()
        (tmp_path / speaker / "notes.txt").write_text("not speech")
        for name in names:
            soundfile.write(tmp_path / speaker / name, 0.1 * rng.normal(size=1600), 16000)
    corpus = load_speech_corpus(tmp_path)
    assert corpus.speakers == ("dev", "rita")
    assert corpus.speaker.tolist() == [0, 0, 1, 1]
    assert corpus.sentence.tolist() == [0, 2, 0, 1]
    assert corpus.rate == 8000
    assert [len(w) for w in corpus.audio] == [800] * 4
    assert str(tmp_path) in corpus.source


def test_fetched_comes_before_synthesised(monkeypatch):
    waveforms = [np.full(n, 0.5, np.float32) for n in (3, 4, 5)]
    fetched = lambda seconds: (waveforms, ["b", "a", "b"], [7, 7, int(seconds)])
    monkeypatch.setattr(spoken_digit, "load_spoken_digit", fetched)
    corpus = load_speech_corpus(None, download_seconds=9.0)
    assert corpus.speakers == ("a", "b")
    assert corpus.speaker.tolist() == [1, 0, 1]
    assert corpus.sentence.tolist() == [7, 7, 9]
    assert "spoken_digit" in corpus.source


def test_synthesised_where_nothing_is_fetched(monkeypatch, caplog):
    monkeypatch.setattr(bengali, "spoken_by_voices", lambda rate: arrays())
    corpus = load_speech_corpus(None)
    assert_is_of_arrays(corpus)
    assert "espeak-ng" in corpus.source
    assert caplog.messages == ["not in this test: trying the next source of speech"]


def test_no_source_at_all_says_what_to_do():
    with pytest.raises(DataError, match="no speech .*name a folder with an npz .* or SPEAKER/"):
        load_speech_corpus(None)


@pytest.mark.parametrize(
    "changed",
    [
        {"audio": np.zeros(18, np.float32)},
        {"audio": np.zeros((18, 1), np.int16)},
        {"audio": np.zeros(17, np.int16)},
        {"offsets": np.array([1, 3, 7, 12, 18])},
        {"offsets": np.array([0, 3, 3, 12, 18])},
        {"offsets": np.array([0.0, 3, 7, 12, 18])},
        {"offsets": np.array([0, 7, 3, 12, 18], np.uint64)},
        {"offsets": np.array(0)},
        {"speaker": np.array(["a", "b"])},
        {"text": np.array([1, 2])},
        {"text": np.array(["x", "y", "x", "y"])},
        {"speaker": np.array(["a"] * 4)},
        {"speaker": np.arange(4) / 2},
    ],
)
def test_npz_of_another_layout(tmp_path, changed):
    np.savez(tmp_path / "a.npz", **arrays(**changed))
    with pytest.raises(DataError, match=r"a\.npz: .*; give an npz with audio") as caught:
        load_speech_corpus(tmp_path)
    assert "\n" not in str(caught.value)


def without(name):
    return lambda path: np.savez(path, **{k: v for k, v in arrays().items() if k != name})


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\x03\x04 damaged"),
        lambda path: np.savez(path, **arrays(speaker=np.array([None] * 4, object))),
        without("text"),
    ],
)
def test_corrupt_npz_is_named(tmp_path, write):
    write(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz: (not readable|no array text)") as caught:
        load_speech_corpus(tmp_path)
    assert "\n" not in str(caught.value)


def test_names_of_bytes(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(speaker=np.array([b"mina", b"mina", b"\xe9", b"\xe9"])))
    assert load_speech_corpus(tmp_path).speakers == ("mina", "\u00e9")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_damaged_content(tmp_path, save):
    rng = np.random.default_rng(0)
    many = rng.integers(-999, 999, 9000).astype(np.int16)
    save(tmp_path / "a.npz", **arrays(audio=many, offsets=np.array([0, 3, 7, 12, 9000])))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[3000:3100] = bytes(100)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not readable"):
        load_speech_corpus(tmp_path)


def test_folder_without_speech(tmp_path):
    with pytest.raises(DataError, match="no speech of 2 speakers or more; give"):
        load_speech_corpus(tmp_path)
    (tmp_path / "one").mkdir()
    soundfile.write(tmp_path / "one" / "a.wav", np.zeros(9), 8000)
    with pytest.raises(DataError, match="no speech of 2 speakers or more; give"):
        load_speech_corpus(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder; give an npz"):
        load_speech_corpus(tmp_path / "nowhere")


def test_several_npz_files(tmp_path):
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, **arrays())
    with pytest.raises(DataError, match=r"several npz files \(a.npz, b.npz\); name one"):
        load_speech_corpus(tmp_path)


@pytest.mark.parametrize("content", [b"", b"noise"])
def test_unreadable_recording_is_named(tmp_path, content):
    for speaker in ("a", "b"):
        (tmp_path / speaker).mkdir()
        soundfile.write(tmp_path / speaker / "x.wav", np.zeros(99), 8000)
    (tmp_path / "b" / "y.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"y\.wav: not readable as audio"):
        load_speech_corpus(tmp_path)


def test_import_loads_no_optional_package():
    heavy = "jax librosa soundfile tensorflow_datasets espeakng_loader scipy"
    code = f"import sys, jaxml.data; print([m for m in '{heavy}'.split() if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
