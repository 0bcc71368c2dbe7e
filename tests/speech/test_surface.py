import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxml.multifractal import mfdfa, quadratic_spectrum
from jaxml.speech import utterance_features
from jaxml.speech._surface import SPECTRUM, VIEWS, Q

RATE = 8000
X = np.random.default_rng(0).normal(size=4096)
features = jax.jit(lambda x, n: utterance_features(x, RATE, length=n))


def test_each_view_is_the_plain_analysis_of_its_series():
    found = utterance_features(X, RATE)
    scales = [s for s in range(8, 513) if s in _expected_scales()]
    views = (X, np.diff(X), np.abs(X))
    for v, series in enumerate(views):
        plain = mfdfa(series, q=Q, scales=scales)
        surface = plain.log_fluctuation - plain.log_fluctuation.mean()
        # The padded difference rounds in another order.
        np.testing.assert_allclose(found.surface[v], surface, atol=1e-9)
        np.testing.assert_allclose(found.h[v], plain.h, atol=1e-9)
        quadratic = quadratic_spectrum(plain.alpha, plain.f)
        expected = {"width": plain.width, "peak": quadratic.peak, "h(2)": plain.h[14]}
        for name, value in expected.items():
            got = found.spectrum[v, SPECTRUM.index(name)]
            np.testing.assert_allclose(got, value, atol=1e-8)
    assert found.surface.shape == (len(VIEWS), len(Q), len(scales))


def _expected_scales():
    return {b << k for b in (8, 10, 11, 13) for k in range(7)}


def test_padding_does_not_count():
    padded = np.concatenate([X, np.full(1000, 7.0)])
    plain, cut = features(X, 4096), features(padded, 4096)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(cut), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_loudness_does_not_count():
    quiet = features(X * 1e-3, 4096)
    np.testing.assert_allclose(quiet.surface, features(X, 4096).surface, atol=1e-9)


def test_batch_equals_one_by_one():
    rows = np.stack([X, X[::-1], np.roll(X, 99)])
    lengths = jnp.array([4096, 3000, 200])
    batch = jax.vmap(features)(rows, lengths)
    for i in range(3):
        one = features(rows[i], lengths[i])
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-9)


def test_silence_and_short_utterances_are_finite_with_finite_gradients():
    for x, n in ((np.zeros(4096), 4096), (X, 5), (X, 0), (X, 300)):
        found, back = jax.vjp(lambda x, n=n: features(x, n), jnp.asarray(x))
        (gradient,) = back(jax.tree.map(jnp.ones_like, found))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found))
        assert bool(jnp.isfinite(gradient).all())


def test_dtype_is_kept():
    leaves = jax.tree.leaves(features(X.astype(np.float32), 4096))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


@pytest.mark.parametrize("length", [4097, -1])
def test_a_length_beyond_the_waveform_is_rejected(length):
    with pytest.raises(ValueError, match=f"length={length}: accepted is 0 to 4096"):
        utterance_features(X, RATE, length=length)


def test_samples_that_are_not_finite_are_rejected():
    with pytest.raises(
        ValueError, match=r"waveform=float64\[4096\] with NaN or infinity at sample 7"
    ):
        utterance_features(jnp.asarray(X).at[7].set(jnp.nan), RATE)


def test_too_short_a_waveform_is_rejected(unchecked):
    with pytest.raises(
        ValueError, match=r"scales=\(8, .* with values from 8 to 512: accepted is 3, "
    ):
        utterance_features(X[:400], RATE)
    with pytest.raises(ValueError, match=r"waveform=float64\[2, 4096\]: accepted is \[time\]"):
        utterance_features(np.ones((2, 4096)), RATE)
