import jax
import librosa
import numpy as np
import pytest
import scipy.stats

from jaxml.speech._waveform import dither, trim_silence


def spoken(rate, dtype=np.float32):
    """One second of noise between half a second and a second of near silence."""
    rng = np.random.default_rng(0)
    level = np.repeat([1e-4, 0.3, 1e-4], [rate // 2, rate, rate])
    return (level * rng.normal(size=len(level))).astype(dtype)


def test_trim_equals_librosa_at_its_own_rate():
    waveform = spoken(22050)
    _, (start, stop) = librosa.effects.trim(waveform, top_db=40)
    assert trim_silence(waveform, 22050) == slice(start, stop)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_trim_finds_the_speech_at_every_rate(rate):
    found = trim_silence(spoken(rate), rate)
    frame = rate * 2048 / 22050
    assert rate / 2 - frame <= found.start <= rate / 2
    assert 1.5 * rate <= found.stop <= 1.5 * rate + frame


def test_trim_threshold_and_silence():
    waveform = spoken(8000)
    assert trim_silence(waveform, 8000, threshold_db=100.0) == slice(0, len(waveform))
    assert trim_silence(np.zeros(500, np.float32), 8000) == slice(0, 500)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dither_is_triangular_noise_of_one_bit(dtype):
    waveform = np.full(100_000, 0.25, dtype)
    found = dither(jax.random.key(0), waveform, bits=8)
    assert found.dtype == dtype
    triangle = scipy.stats.triang(0.5, loc=-1, scale=2)
    noise = (np.asarray(found, np.float64) - 0.25) * 2**7
    assert scipy.stats.kstest(noise, triangle.cdf).statistic < 0.01
    assert np.abs(noise).max() <= 1 + 1e-4


def test_dither_makes_the_error_of_quantisation_independent_of_the_signal():
    # Mean and variance of the total error of a dithered quantiser do not depend on its input.
    levels = np.repeat(np.linspace(0, 1 / 128, 5), 40_000)
    noisy = np.asarray(dither(jax.random.key(1), levels, bits=8))
    error = (np.round(noisy * 128) / 128 - levels).reshape(5, -1) * 128
    np.testing.assert_allclose(error.mean(axis=1), 0, atol=0.01)
    np.testing.assert_allclose(error.var(axis=1), 1 / 4, atol=0.01)


def test_dither_under_jit_and_vmap():
    keys = jax.random.split(jax.random.key(2), 3)
    batch = np.random.default_rng(0).normal(size=(3, 100))
    compiled = jax.jit(jax.vmap(dither))(keys, batch)
    np.testing.assert_array_equal(
        compiled, [dither(k, row) for k, row in zip(keys, batch, strict=True)]
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("waveform", "rate", "options", "message"),
    [
        (np.zeros(0), 8000, {}, r"waveform=float64\[0\]: accepted is \[time\], none of length 0"),
        (np.zeros((2, 9)), 8000, {}, r"waveform=float64\[2, 9\]: accepted is \[time\]"),
        (np.zeros(9, int), 8000, {}, r"waveform=int64\[9\]: accepted is float32 or float64"),
        (np.array([0, np.nan]), 8000, {}, r"waveform=float64\[2\] with NaN"),
        ([0.0, 1.0], 8000, {}, "waveform=<class 'list'>: accepted is a numpy array"),
        (np.zeros(9), 0, {}, "rate=0: accepted is 1 or more"),
        (np.zeros(9), 8000, {"threshold_db": 0.0}, "threshold_db=0.0: accepted is a positive"),
    ],
)
def test_trim_rejects(waveform, rate, options, message):
    with pytest.raises(ValueError, match=message):
        trim_silence(waveform, rate, **options)


@pytest.mark.usefixtures("unchecked")
def test_dither_rejects():
    with pytest.raises(ValueError, match="bits=0: accepted is a whole number, 1 or more"):
        dither(jax.random.key(0), np.zeros(9), bits=0)
    with pytest.raises(ValueError, match=r"waveform=int16\[9\]: accepted is float32 or float64"):
        dither(jax.random.key(0), np.zeros(9, np.int16))
