import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxml.speech import _features as features
from jaxml.speech._features import mfcc, mfcc_summary

compiled = jax.jit(mfcc, static_argnames="rate")


def noise(size, dtype=np.float64):
    return (0.1 * np.random.default_rng(size).normal(size=size)).astype(dtype)


def sounds():
    time = np.arange(20000) / 16000
    click = np.zeros(20000)
    click[5000] = 1
    return {
        "noise": noise(20000),
        "sine": 0.5 * np.sin(2 * np.pi * 440 * time),
        "fading": noise(20000) * np.exp(-20 * time),
        "click": click,
        "silence": np.zeros(20000),
        "shorter than a frame": noise(700),
        "one sample": noise(1),
    }


@pytest.mark.filterwarnings("ignore:n_fft=2048 is too large")
@pytest.mark.parametrize("name", sounds())
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 5e-4), (np.float64, 1e-5)])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_equals_librosa(name, dtype, tolerance, rate):
    waveform = sounds()[name].astype(dtype)
    found = compiled(waveform, rate)
    assert found.dtype == dtype
    expected = librosa.feature.mfcc(y=waveform, sr=rate)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_keeps_the_lowest_coefficients():
    np.testing.assert_allclose(
        mfcc(noise(4000), 8000, coefficients=40),
        librosa.feature.mfcc(y=noise(4000), sr=8000, n_mfcc=40),
        atol=1e-5,
    )


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_mel_filters_equal_librosa(rate):
    expected = librosa.filters.mel(sr=rate, n_fft=2048, dtype=np.float64)
    np.testing.assert_allclose(features._mel_filters(rate), expected, atol=1e-15)


def test_jit_and_vmap_equal_single_calls():
    batch = np.stack([noise(5000), 3 * noise(5000)[::-1]])
    single = [mfcc(row, 8000) for row in batch]
    together = jax.jit(jax.vmap(lambda row: mfcc(row, 8000)))(batch)
    np.testing.assert_allclose(together, single, atol=1e-9)


def test_summary_is_mean_and_deviation_over_frames():
    cepstrum = librosa.feature.mfcc(y=noise(9000), sr=8000)
    expected = np.concatenate([cepstrum.mean(axis=1), cepstrum.std(axis=1)])
    np.testing.assert_allclose(mfcc_summary(noise(9000), 8000), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_padded_batch_equals_unpadded_calls(dtype):
    lengths = [1, 511, 512, 6143, 6144]
    rows = [noise(n, dtype) for n in lengths]
    # What stands beyond the length is louder than the row: it must not raise the dB reference.
    padded = np.stack([np.concatenate([r, np.full(6144 - len(r), 9, dtype)]) for r in rows])
    summary = jax.jit(jax.vmap(lambda row, n: mfcc_summary(row, 8000, length=n)))
    found = summary(padded, np.asarray(lengths))
    assert found.dtype == dtype
    alone = jax.jit(functools.partial(mfcc_summary, rate=8000))
    expected = [alone(row) for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-9 if dtype == np.float64 else 2e-4)


def test_gradients():
    check_grads(jax.jit(lambda x: mfcc(x, 8000)), (jnp.asarray(noise(3000)),), order=1, rtol=1e-5)
    summary = functools.partial(mfcc_summary, rate=8000, length=2500)
    check_grads(jax.jit(summary), (jnp.asarray(noise(3000)),), order=1, rtol=1e-5)


@pytest.mark.parametrize("size", [100, 4000])
def test_gradient_of_silence_is_finite(size):
    gradient = jax.jit(jax.grad(lambda x: mfcc_summary(x, 8000).sum()))(jnp.zeros(size))
    assert np.isfinite(gradient).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros(0), 8000), {}, r"waveform=float64\[0\]: accepted is \[time\]"),
        ((np.zeros((2, 100)), 8000), {}, r"waveform=float64\[2, 100\]: accepted is \[time\]"),
        (
            (np.zeros(100, np.int16), 8000),
            {},
            r"waveform=int16\[100\]: accepted is float32 or float64",
        ),
        ((np.zeros(100), 0), {}, "rate=0: accepted is 1 or more"),
        ((np.zeros(100), 8000), {"coefficients": 129}, "coefficients=129: accepted is 1 to 128"),
        ((np.zeros(100), 8000), {"length": 101}, "length=101: accepted is 1 to 100"),
        ((np.zeros(100), 8000), {"length": 0}, "length=0: accepted is 1 to 100"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        mfcc_summary(*arguments, **options)
