import subprocess
import sys

import numpy as np
import pytest

from jaxml.data import DataError
from jaxml.data.sources import espeak
from jaxml.data.sources.espeak import synthesise

TEXTS = ("আকাশে অনেক মেঘ জমেছে।", "মা।")


def test_speaks_every_sentence_in_every_voice():
    spoken, rate = synthesise(TEXTS, ("bn", "bn+f2"))
    assert rate == 22050
    assert [w.dtype for w in spoken] == [np.int16] * 4
    seconds = [len(w) / rate for w in spoken]
    # In the order voice, sentence: the long sentence comes first in each voice.
    assert 1 < seconds[0] < 4 and 1 < seconds[2] < 4
    assert seconds[1] < seconds[0] / 2 and seconds[3] < seconds[2] / 2
    assert min(np.abs(w).max() for w in spoken) > 3000


def pitch(waveform, rate):
    """Frequency of the strongest autocorrelation between 60 and 250 Hz."""
    spectrum = np.abs(np.fft.rfft(waveform, 2 * len(waveform))) ** 2
    lags = np.arange(rate // 250, rate // 60)
    return rate / lags[np.fft.irfft(spectrum)[lags].argmax()]


def test_voices_differ_in_pitch_as_their_names_say():
    spoken, rate = synthesise(TEXTS[:1], ("bn+m3", "bn+f2"))
    male, female = (pitch(w.astype(float), rate) for w in spoken)
    assert male < 150 < female


def test_same_call_same_samples():
    first, second = (synthesise(TEXTS, ("bn+m1",))[0] for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_unknown_voice_is_named():
    with pytest.raises(DataError, match="no voice 'nobody'"):
        synthesise(TEXTS, ("nobody",))


def test_missing_package_is_named(monkeypatch, tmp_path):
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError('espeakng_loader is gone')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="espeakng_loader is gone"):
        synthesise(TEXTS, ("bn",))


def test_crash_of_the_library_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "espeakng_loader.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="exit status -6"):
        synthesise(TEXTS, ("bn",))


def test_hanging_library_is_ended(monkeypatch, tmp_path):
    (tmp_path / "espeakng_loader.py").write_text("import time; time.sleep(60)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(espeak, "SECONDS", 1)
    with pytest.raises(DataError, match="no answer within 1 s"):
        synthesise(TEXTS, ("bn",))


def test_modules_where_it_is_started_are_not_imported(monkeypatch, tmp_path):
    """That may be a folder of data, with files of anyone."""
    for name in ("espeakng_loader", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert len(synthesise(TEXTS[1:], ("bn",))[0]) == 1
    assert not (tmp_path / "run").exists()


def test_data_under_a_long_path(monkeypatch, tmp_path):
    """The library alone fails on paths of 160 characters and more."""
    find = "import espeakng_loader as e; print(e.get_library_path()); print(e.get_data_path())"
    found = subprocess.run([sys.executable, "-c", find], capture_output=True, text=True, check=True)
    library, data = found.stdout.split("\n")[:2]
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    (deep / "espeak-ng-data").symlink_to(data)
    (tmp_path / "espeakng_loader.py").write_text(
        f"get_library_path = lambda: {library!r}\n"
        f"get_data_path = lambda: {str(deep / 'espeak-ng-data')!r}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spoken, _ = synthesise(TEXTS, ("bn",))
    assert len(spoken) == 2
