"""Multifractal features of an utterance: spectrum, h(q) and the whole ln F_q(s) surface."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxml.multifractal import default_scales, mfdfa, quadratic_spectrum
from jaxml.multifractal._validate import check_length, check_series
from jaxml.speech._waveform import Waveform, checked_waveform

VIEWS = ("waveform", "difference", "modulus")
SPECTRUM = ("width", "peak", "skewness", "quadratic width", "asymmetry", "h(2)")
Q = tuple(np.arange(-5, 5.01, 0.5).tolist())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UtteranceFeatures:
    """Multifractal features of three views of a waveform: itself, its difference, its modulus.

    Attributes:
      spectrum: `[view, 6]`, the parameters named in `SPECTRUM`; "h(2)" is h of the q nearest 2.
      h: `[view, q]`, generalised Hurst exponents.
      surface: `[view, q, scale]`, ln F_q(s) less its mean over the view: the shape without
        the loudness. 0 at scales longer than the utterance.
    """

    spectrum: Float[Array, "*batch view parameter"]
    h: Float[Array, "*batch view q"]
    surface: Float[Array, "*batch view q scale"]


def utterance_features(
    waveform: Waveform,
    rate: int,
    *,
    length: Int[Array | np.ndarray, ""] | int | None = None,
    q: Sequence[float] = Q,
    scales: Sequence[int] | None = None,
) -> UtteranceFeatures:
    """Return the multifractal features of one utterance.

    Args:
      waveform: samples `[time]`.
      rate: samples a second.
      length: number of valid samples, may be traced; all by default.
      q: moment orders.
      scales: segment lengths, samples; 1 to 64 ms by default, four an octave: the range of
        pitch and formants.

    Returns:
      `UtteranceFeatures` of the dtype of `waveform`.

    Raises:
      ValueError: as `mfdfa`; with the default scales a waveform shorter than 64 ms.

    Source: MFDFA of Kantelhardt et al. 2002; the parameters of Sarkar et al. 2020
    (arXiv 2004.07820), after its abstract.
    """
    # Here, as `mfdfa` below sees traced views alone and could not look at them.
    x = check_series(checked_waveform(waveform), name="waveform")
    length = check_length(length, x.shape[0])
    if scales is None:
        scales = default_scales(x.shape[0], minimum=rate // 1000, maximum=rate * 64 // 1000)
    inside = jnp.arange(x.shape[0], dtype=jnp.int32) < length - 1
    difference = jnp.where(inside, jnp.roll(x, -1) - x, 0)
    views = jnp.stack([x, difference, jnp.abs(x)])
    lengths = length - jnp.array([0, 1, 0], jnp.int32)
    analyze = functools.partial(mfdfa, q=tuple(q), scales=tuple(scales))
    result = jax.vmap(lambda v, n: analyze(v, length=n))(views, jnp.maximum(lengths, 0))
    quadratic = jax.vmap(quadratic_spectrum)(result.alpha, result.f)
    two = int(np.argmin(np.abs(np.asarray(q) - 2)))
    parameters = (
        result.width,
        quadratic.peak,
        quadratic.skewness,
        quadratic.width,
        result.asymmetry,
        result.h[:, two],
    )
    # A scale without a usable segment has -inf; NaN stays, and is seen.
    usable = ~jnp.isneginf(result.log_fluctuation)
    surface = jnp.where(usable, result.log_fluctuation, 0)
    count = jnp.maximum(jnp.sum(usable, axis=(1, 2), keepdims=True), 1)
    level = jnp.sum(surface, axis=(1, 2), keepdims=True) / count.astype(surface.dtype)
    return UtteranceFeatures(
        jnp.stack(parameters, axis=-1), result.h, jnp.where(usable, surface - level, 0)
    )
