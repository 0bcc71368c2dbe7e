"""A recorded waveform made ready for analysis: silence trimmed, quantisation hidden."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxml import checks
from jaxml.extras import extra

Waveform = Float[Array | np.ndarray, " time"]
# librosa's frame and hop, in seconds at its own rate.
FRAME = 2048 / 22050
HOPS_A_FRAME = 4


def dither(key: PRNGKeyArray, waveform: Waveform, *, bits: int = 8) -> Float[Array, " time"]:
    """Add triangular noise of one least significant bit, which hides quantisation.

    After it, recordings of `bits` and of more bits carry alike noise, and a flat run of
    quantised silence no longer stands out in a fluctuation analysis.

    Args:
      key: consumed.
      waveform: samples `[time]` in [-1, 1].
      bits: word length whose LSB, 2**(1 - bits), is the half-width of the triangle.

    Returns:
      `[time]`, dtype of `waveform`.

    Raises:
      ValueError: `waveform` is empty, of another rank or not floating, or `bits` is below 1.

    Source: Lipshitz, Wannamaker and Vanderkooy 1992 (J. Audio Eng. Soc. 40:355).
    """
    checks.counts(bits=bits)
    waveform = checked_waveform(waveform)
    halves = jax.random.uniform(key, (2, waveform.shape[0]), waveform.dtype, -0.5, 0.5)
    return waveform + 2.0 ** (1 - bits) * jnp.sum(halves, axis=0)


def trim_silence(
    waveform: Float[np.ndarray, " time"], rate: int, *, threshold_db: float = 40.0
) -> slice:
    """Return the slice between the leading and the trailing silence of a waveform.

    A frame is silent where its mean square lies `threshold_db` below the loudest frame's.
    A waveform of zeros has no loudest frame and is kept whole.

    Args:
      waveform: samples `[time]`, in numpy: this is for the loading of data, not for `jit`.
      rate: samples a second; frames last as long as librosa's do at 22,050 Hz (93 ms).
      threshold_db: silence below the peak, above 0.

    Returns:
      Slice of `waveform`, never empty.

    Raises:
      ValueError: `waveform` is empty, not finite, of another rank or not floating, or a
        parameter is out of range.

    Source: `librosa.effects.trim`.
    """
    with extra("speech"):
        import librosa

    if not isinstance(waveform, np.ndarray):
        raise checks.refused("waveform", type(waveform), "a numpy array")
    _check(waveform)
    checks.finite(waveform=waveform)
    checks.at_least(1, rate=rate)
    checks.positive(threshold_db=threshold_db)
    hop = max(1, round(FRAME / HOPS_A_FRAME * rate))
    _, (start, stop) = librosa.effects.trim(
        waveform, top_db=threshold_db, frame_length=hop * HOPS_A_FRAME, hop_length=hop
    )
    return slice(int(start), int(stop))


def checked_waveform(waveform: Waveform) -> Float[Array, " time"]:
    """Return a waveform as a JAX array.

    Args:
      waveform: samples `[time]`.

    Returns:
      The same, dtype kept.

    Raises:
      ValueError: it is empty, of another rank, or neither float32 nor float64.
    """
    _check(waveform)
    return jnp.asarray(waveform)


def _check(waveform) -> None:
    checks.axes("time", waveform=waveform)
    # Half precision holds neither the steps of 16 bits nor the sums of a spectrum.
    checks.single_or_double(waveform=waveform)
