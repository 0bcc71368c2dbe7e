"""Mel-frequency cepstral coefficients, for `jit`, `vmap` and `grad`.

They are those of librosa with its defaults: the baseline that every other description of an
utterance is measured against.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxml import checks
from jaxml.speech._waveform import Waveform, checked_waveform

WINDOW = 2048
HOP = 512
MELS = 128
FLOOR = 1e-10
RANGE_DB = 80.0


def mfcc(
    waveform: Waveform, rate: int, *, coefficients: int = 20
) -> Float[Array, "coefficients frame"]:
    """Return the mel-frequency cepstral coefficients of a waveform.

    Args:
      waveform: samples `[time]`; frames are centred, zeros stand beyond both ends.
      rate: samples a second, static.
      coefficients: how many of the 128 cepstral coefficients to keep, the lowest first.

    Returns:
      `[coefficients, 1 + time // 512]`, dtype of `waveform`.

    Raises:
      ValueError: `waveform` is empty, of another rank or not floating, `rate` is below 1, or
        `coefficients` is outside 1..128.

    Source: Davis and Mermelstein 1980 (IEEE TASSP 28:357); constants of librosa 0.11.
    """
    waveform = _checked(waveform, rate, coefficients)
    power = _mel_power(waveform, rate)
    return _cepstrum(power, jnp.ones(power.shape[1], bool), coefficients)


def mfcc_summary(
    waveform: Waveform,
    rate: int,
    *,
    coefficients: int = 20,
    length: Int[Array | np.ndarray, ""] | int | None = None,
) -> Float[Array, " feature"]:
    """Return the mean and the standard deviation over time of each MFCC.

    Args:
      waveform: samples `[time]`.
      rate: samples a second, static.
      coefficients: cepstral coefficients.
      length: number of valid samples, 1..time, may be traced. Samples beyond it count as the
        zeros beyond the end, so a row of a padded batch equals the call without padding.

    Returns:
      `[2 * coefficients]`: the means, then the deviations (divisor: number of frames).

    Raises:
      ValueError: as `mfcc`, or a concrete `length` is outside 1..time.
    """
    waveform = _checked(waveform, rate, coefficients)
    size = waveform.shape[0]
    if length is not None:
        checks.within(1, size, length=length)
    length = jnp.asarray(size if length is None else length, jnp.int32)
    waveform = jnp.where(jnp.arange(size, dtype=jnp.int32) < length, waveform, 0)
    power = _mel_power(waveform, rate)
    frames = 1 + length // HOP
    valid = jnp.arange(power.shape[1], dtype=jnp.int32) < frames
    cepstrum = _cepstrum(power, valid, coefficients)
    count = jnp.asarray(frames, waveform.dtype)
    mean = jnp.sum(jnp.where(valid, cepstrum, 0), axis=1) / count
    deviation = jnp.where(valid, cepstrum - mean[:, None], 0)
    variance = jnp.sum(deviation**2, axis=1) / count
    # sqrt has no derivative at 0, which a single frame always gives.
    constant = variance <= 0
    spread = jnp.where(constant, 0, jnp.sqrt(jnp.where(constant, 1, variance)))
    return jnp.concatenate([mean, spread])


def _checked(waveform, rate, coefficients):
    checks.at_least(1, rate=rate)
    checks.within(1, MELS, coefficients=coefficients)
    return checked_waveform(waveform)


def _mel_power(waveform, rate) -> Float[Array, "mel frame"]:
    """Return the mel spectrum of Hann-windowed frames centred at multiples of HOP."""
    frames = 1 + waveform.shape[0] // HOP
    # A frame is WINDOW // HOP neighbouring blocks: shifted views, where a gather would copy.
    blocks = frames + WINDOW // HOP - 1
    padding = (WINDOW // 2, blocks * HOP - WINDOW // 2 - waveform.shape[0])
    block = jnp.pad(waveform, padding).reshape(blocks, HOP)
    shifted = [block[k : k + frames] for k in range(WINDOW // HOP)]
    window = np.sin(np.pi * np.arange(WINDOW) / WINDOW) ** 2
    spectrum = jnp.fft.rfft(jnp.concatenate(shifted, 1) * jnp.asarray(window[None], waveform.dtype))
    power = spectrum.real**2 + spectrum.imag**2
    filters = jnp.asarray(_mel_filters(rate), waveform.dtype)
    return jnp.matmul(filters, power.T, precision=jax.lax.Precision.HIGHEST)


def _cepstrum(power, valid, coefficients) -> Float[Array, "coefficients frame"]:
    """Return the DCT of the mel spectrum in dB, cut 80 dB below the loudest valid cell."""
    decibel = 10 * jnp.log10(jnp.maximum(power, FLOOR))
    loudest = jnp.max(jnp.where(valid, decibel, -jnp.inf))
    transform = jnp.asarray(_cosines(coefficients), power.dtype)
    cut = jnp.maximum(decibel, loudest - RANGE_DB)
    # The level goes round the matmul: a sum of 128 alike numbers costs float32 a digit.
    level = jnp.mean(cut, axis=0)
    shape = jnp.matmul(transform, cut - level[None], precision=jax.lax.Precision.HIGHEST)
    return shape.at[0].add(np.sqrt(MELS).astype(power.dtype) * level)


@functools.lru_cache
def _mel_filters(rate: int) -> np.ndarray:
    """Return Slaney's triangles of unit area on the mel scale, [mel, frequency], float64."""
    # Linear below 1 kHz (200/3 Hz a mel), then a factor of 6.4 every 27 mels.
    top = rate / 2
    mels = 3 * top / 200 if top < 1e3 else 15 + 27 * np.log(top / 1e3) / np.log(6.4)
    mel = np.linspace(0, mels, MELS + 2)
    corner = np.where(mel < 15, 200 * mel / 3, 1e3 * 6.4 ** ((mel - 15) / 27))
    frequency = np.arange(WINDOW // 2 + 1) * rate / WINDOW
    ramp = (frequency - corner[:, None]) / np.diff(corner, append=np.inf)[:, None]
    triangle = np.maximum(0, np.minimum(ramp[:-2], 1 - ramp[1:-1]))
    return triangle * (2 / (corner[2:] - corner[:-2]))[:, None]


@functools.lru_cache
def _cosines(coefficients: int) -> np.ndarray:
    """Return the first rows of the orthonormal DCT-II of length MELS, float64."""
    k, n = np.arange(coefficients)[:, None], np.arange(MELS)
    rows = np.sqrt(2 / MELS) * np.cos(np.pi * k * (2 * n + 1) / (2 * MELS))
    return np.where(k == 0, rows / np.sqrt(2), rows)
