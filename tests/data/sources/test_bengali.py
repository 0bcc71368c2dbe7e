import numpy as np
import pytest

from jaxml.data.sources import bengali, espeak
from jaxml.data.sources.bengali import SENTENCES, VOICES, spoken_by_voices


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache folder of the test's own, and a quick stand-in for the synthesiser."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def synthesise(sentences, voices):
        calls.append(len(sentences) * len(voices))
        rng = np.random.default_rng(0)
        sizes = range(100, 100 + calls[-1])
        return [rng.integers(-9000, 9000, n).astype(np.int16) for n in sizes], 16000

    monkeypatch.setattr(espeak, "synthesise", synthesise)
    return tmp_path / "jaxml", calls


def test_sentences_are_enough_and_distinct():
    assert len(set(SENTENCES)) == len(SENTENCES) >= 40
    assert len(set(VOICES)) == len(VOICES) >= 5
    assert all(any("\u0980" <= letter <= "\u09ff" for letter in s) for s in SENTENCES)


def test_layout(cache):
    arrays = spoken_by_voices(8000)
    utterances = len(SENTENCES) * len(VOICES)
    assert arrays["audio"].dtype == np.int16
    np.testing.assert_array_equal(np.diff(arrays["offsets"])[:4], [50, 51, 51, 52])
    assert arrays["offsets"][-1] == len(arrays["audio"])
    assert len(arrays["offsets"]) == utterances + 1
    assert arrays["speaker"].tolist()[:: len(SENTENCES)] == list(VOICES)
    assert arrays["text"].tolist() == [*range(len(SENTENCES))] * len(VOICES)


def test_made_once_then_read(cache):
    folder, calls = cache
    first, second = spoken_by_voices(8000), spoken_by_voices(8000)
    assert len(calls) == 1
    assert [path.suffix for path in folder.iterdir()] == [".npz"]
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_damaged_cache_is_made_anew(cache):
    folder, calls = cache
    spoken_by_voices(8000)
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    spoken_by_voices(8000)
    spoken_by_voices(8000)
    assert len(calls) == 2


def test_interrupted_write_leaves_nothing(cache, monkeypatch):
    folder, _ = cache

    def interrupt(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupt)
    with pytest.raises(KeyboardInterrupt):
        spoken_by_voices(8000)
    assert list(folder.iterdir()) == []


def test_no_place_for_the_cache_is_no_obstacle(cache, caplog):
    folder, _ = cache
    folder.write_text("a file where the folder should be")
    assert len(spoken_by_voices(8000)["audio"]) > 0
    assert "not kept" in caplog.text


def test_real_voices_have_no_clipping_and_no_silence(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bengali, "SENTENCES", SENTENCES[:3])
    arrays = spoken_by_voices(8000)
    spoken = np.split(arrays["audio"].astype(float), arrays["offsets"][1:-1])
    assert len(spoken) == 3 * len(VOICES)
    assert all(np.sqrt(np.mean(w**2)) > 500 for w in spoken)
    assert all(0.5 < len(w) / 8000 < 6 for w in spoken)
    assert np.mean(np.abs(arrays["audio"].astype(int)) >= 32767) < 1e-4
