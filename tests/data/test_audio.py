import librosa
import numpy as np
import pytest
import soundfile
from damaged_files import limits

from jaxml.data import DataError, load_audio, load_series
from jaxml.data.audio import resample


def wave(rate=8000, seconds=0.5):
    time = np.arange(int(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * 300 * time)).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [("wav", 1 / 32768), ("flac", 1 / 32768), ("ogg", 0.05)]
)
def test_reads_what_was_written(tmp_path, suffix, tolerance):
    soundfile.write(tmp_path / f"a.{suffix}", wave(), 8000)
    for load in (load_audio, load_series):
        found, rate = load(tmp_path / f"a.{suffix}")
        assert rate == 8000 and found.dtype == np.float32
        np.testing.assert_allclose(found, wave(), atol=tolerance)


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([wave(), -0.5 * wave()], axis=1), 8000)
    found, _ = load_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(found, wave() / 4, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 22050])
def test_resampling_keeps_the_sound(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", wave(16000), 16000)
    found, target = load_audio(tmp_path / "a.wav", rate=rate)
    assert target == rate
    middle = slice(rate // 10, -rate // 10)
    np.testing.assert_allclose(found[middle], wave(rate)[: len(found)][middle], atol=2e-3)
    expected = librosa.resample(wave(16000), orig_sr=16000, target_sr=rate)
    np.testing.assert_array_equal(resample(wave(16000), 16000, rate), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_npy_keeps_floats_and_widens_integers(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.arange(9).astype(dtype))
    found, rate = load_series(str(tmp_path / "a.npy"))
    assert rate is None
    assert found.dtype == (np.float64 if dtype == np.int16 else dtype)
    np.testing.assert_array_equal(found, np.arange(9))


@pytest.mark.parametrize(
    "text",
    [
        "1.5\n-2\n3e2\n",
        "pressure\n1.5\n-2\n3e2",
        '\ufeff"pressure [Pa]"\r\n1.5\r\n-2\r\n3e2\r\n\r\n',
    ],
)
def test_csv_is_one_column_with_or_without_header(tmp_path, text):
    (tmp_path / "a.CSV").write_bytes(text.encode())
    found, rate = load_series(tmp_path / "a.CSV")
    assert rate is None
    np.testing.assert_array_equal(found, [1.5, -2, 300])


def array(values):
    return lambda path: np.save(path, values)


def text(content):
    return lambda path: path.write_bytes(content)


def sound(values):
    return lambda path: soundfile.write(path, values, 8000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.wav", text(b""), "not readable as audio"),
        ("a.wav", text(b"RIFF but nothing more"), "not readable as audio"),
        ("a.wav", sound(np.zeros(0)), "empty"),
        ("a.wav", sound(np.array([0, np.nan, np.inf])), r"2 NaN or inf \(first at sample 1\)"),
        ("a.npy", text(b"\x93NUMPY"), "not readable as .npy"),
        ("a.npy", text(b""), "not readable as .npy"),
        ("a.npy", array(np.array([None, 1], object)), "not readable as .npy"),
        ("a.npy", array(np.zeros((2, 9))), r"shape \(2, 9\); give one axis"),
        ("a.npy", array(np.float64(3)), r"shape \(\); give one axis"),
        ("a.npy", array(np.zeros(9, complex)), "dtype complex128; give real"),
        ("a.npy", array(np.array(["a", "b"])), "dtype <U1; give real"),
        ("a.npy", array(np.zeros(0)), "empty"),
        ("a.npy", array(np.array([1, np.inf])), "1 NaN or inf"),
        ("a.csv", text(b""), "empty"),
        ("a.csv", text(b"header only\n"), "empty"),
        ("a.csv", text(b"1\n2\nthree\n"), r"line 3 is not one number \(three\)"),
        ("a.csv", text(b"1,2\n3,4\n"), r"line 1 is not one number \(1,2\); give one column"),
        ("a.csv", text(b"time,value\n3,4\n"), "line 1 is not one number"),
        ("a.csv", text(b"x\n1\nnan\n"), "1 NaN or inf"),
        ("a.csv", text(b"x\n1\n\n2\n"), "line 3 is empty, and a series has no gaps"),
        ("a.csv", text(b'x\r\n1\r\n""\r\n2\r\n'), "line 3 is empty"),
        ("a.csv", text(b"1\n2\n \n\n3\n\n\n"), "line 3 is empty"),
        ("a.csv", text(b"\n1\n2\n"), "line 1 is empty"),
        ("a.csv", text(b"\xff\xfe\x00"), "not readable as text"),
        ("a.mp4", text(b"x"), "unknown suffix '.mp4'; give .wav, .flac, .ogg, .npy"),
        ("a", text(b"x"), "unknown suffix ''"),
    ],
)
def test_unusable_file_is_named_in_one_line(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        load_series(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [load_audio, load_series])
def test_missing_file_and_folder(tmp_path, load):
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "a.wav")
    with pytest.raises(DataError, match="not a file"):
        load(tmp_path)


def test_npz_under_the_name_of_npy(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match="not an npy file.*one axis"):
        load_series(tmp_path / "a.npy")


def test_samples_that_a_header_claims_are_not_made_room_for(tmp_path):
    soundfile.write(tmp_path / "a.flac", wave(), 8000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    # The number of samples, 36 bits of the first block.
    content[21] |= 15
    content[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(content)
    assert soundfile.info(tmp_path / "a.flac").frames == 2**36 - 1
    with limits(), pytest.raises(DataError, match="a.flac: would take 512 GiB of memory"):
        load_audio(tmp_path / "a.flac")


def test_a_rate_that_a_header_claims_is_not_believed(tmp_path):
    for rate in (1, 79):
        soundfile.write(tmp_path / "a.wav", wave(), rate)
        with pytest.raises(DataError, match=f"{rate} samples a second; give 80 or more"):
            load_audio(tmp_path / "a.wav", rate=8000)
        assert load_audio(tmp_path / "a.wav")[1] == rate
    for rate in (80, 10**6, 2**31 - 1):
        soundfile.write(tmp_path / "a.wav", wave(), rate)
        with limits():
            found, _ = load_audio(tmp_path / "a.wav", rate=8000)
        assert len(found) == np.ceil(4000 * 8000 / rate)


def test_infinities_of_opposite_sign_are_named(tmp_path):
    sound(np.array([[np.inf, -np.inf]] * 3))(tmp_path / "a.wav")
    with pytest.raises(DataError, match="3 NaN or inf"):
        load_audio(tmp_path / "a.wav")


def test_rate_below_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", wave(), 8000)
    with pytest.raises(ValueError, match="rate=0"):
        load_audio(tmp_path / "a.wav", rate=0)
