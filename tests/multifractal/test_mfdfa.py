import functools
import warnings

import jax
import jax.numpy as jnp
import mfdfa_reference as reference
import numpy as np
import pytest

from jaxml.multifractal import default_scales, fluctuation, hurst, mfdfa
from jaxml.multifractal.synthetic import cascade, cascade_h, fgn, levy_stable, levy_stable_h

LONG = 2**16
SHORT = 4096
Q = np.arange(-5, 5.01, 0.25)
ENDS = (-5.0, 5.0)
# Odd parts too large for the pyramid: these take the explicit fit.
ARBITRARY = (37, 333, 5003)
ALL_SCALES = tuple(sorted({*default_scales(LONG), *ARBITRARY}))
DYADIC = tuple(2**k for k in range(4, 14))
FEW = (16, 19, 32, 64, 100)


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


@functools.cache
def reference_of_noise(order):
    """Seen by both precisions: the series is rounded to float32 first."""
    x = noise(LONG).astype(np.float32)
    return x, reference.mfdfa(x, ALL_SCALES, Q, order)


@functools.cache
def analysed(order, dtype):
    return mfdfa(jnp.asarray(reference_of_noise(order)[0], dtype), scales=ALL_SCALES, order=order)


@pytest.mark.parametrize(
    ("order", "dtype", "tolerance"),
    [(1, "float64", 1e-12), (2, "float64", 1e-12), (3, "float64", 1e-12), (3, "float32", 3e-6)],
)
def test_log_fluctuation_equals_reference(order, dtype, tolerance):
    found = analysed(order, dtype)
    _, expected = reference_of_noise(order)
    np.testing.assert_allclose(found.log_fluctuation, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.h, reference.slopes(ALL_SCALES, expected), atol=tolerance)
    np.testing.assert_array_equal(found.dropped, 0)


def test_order_zero_equals_reference():
    x, scales = noise(5000), (16, 37, 64)
    found = mfdfa(x, scales=scales, order=0).log_fluctuation
    np.testing.assert_allclose(found, reference.mfdfa(x, scales, Q, 0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_equals_mfdfa_package(order):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from MFDFA import MFDFA as package

        x, _ = reference_of_noise(order)
        _, f = package(x.astype(float), np.array(ALL_SCALES), order=order, q=Q)
    ours = np.asarray(analysed(order, "float64").log_fluctuation)[np.abs(Q) > 0.1]
    np.testing.assert_allclose(ours, np.log(f).T, rtol=0, atol=1e-10)


def test_default_scales_are_octaves_of_four_bases():
    assert default_scales(1024) == (16, 19, 23, 27, 32, 38, 46, 54, 64, 76, 92, 108, 128)
    assert default_scales(1024, minimum=10, maximum=40, per_octave=1) == (10, 20, 40)
    np.testing.assert_array_equal(mfdfa(noise(SHORT)).scales, default_scales(SHORT))


def test_default_scales_reject_short_series(unchecked):
    with pytest.raises(
        ValueError, match="n=100: accepted is samples enough for two scales between 16 and 12"
    ):
        default_scales(100)


@pytest.mark.parametrize(("a", "tolerance"), [(0.6, 0.02), (0.75, 0.08)])
@pytest.mark.parametrize("seed", [None, 3])
def test_cascade_has_its_closed_form(a, tolerance, seed):
    key = None if seed is None else jax.random.key(seed)
    found = mfdfa(cascade(key, LONG, a=a), scales=DYADIC)
    np.testing.assert_allclose(found.h, cascade_h(found.q, a=a), atol=tolerance)
    np.testing.assert_allclose(found.tau, found.q * found.h - 1)


def test_fractional_noise_has_its_hurst_exponent():
    exponents = jnp.array([0.3, 0.5, 0.8], jnp.float32)

    @jax.jit
    def each(keys, exponents):
        one = lambda row: hurst(fgn(row[0], LONG, hurst=row[1], dtype=jnp.float32))
        return jax.lax.map(one, (keys, exponents))

    found = each(jax.random.split(jax.random.key(0), 24 * 3), jnp.repeat(exponents, 24))
    assert found.dtype == jnp.float32
    means = found.reshape(3, 24).mean(axis=1)
    np.testing.assert_allclose(means, exponents, rtol=0, atol=0.015)


def test_stable_noise_is_bifractal():
    q = (-5.0, -2.0, 0.0, 2.0, 5.0)

    @jax.jit
    def each(keys):
        return jax.lax.map(lambda key: mfdfa(levy_stable(key, LONG), q=q).h, keys)

    found = each(jax.random.split(jax.random.key(0), 8)).mean(axis=0)
    np.testing.assert_allclose(found, levy_stable_h(jnp.array(q)), rtol=0, atol=0.04)


def test_alpha_is_the_exact_derivative_of_tau():
    x, q = jnp.asarray(noise(SHORT)), jnp.asarray(Q)
    h, slope = jax.jvp(lambda q: mfdfa(x, q=q).h, (q,), (jnp.ones_like(q),))
    found = mfdfa(x)
    np.testing.assert_allclose(found.alpha, h + q * slope, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.f, q * (found.alpha - found.h) + 1, rtol=0, atol=1e-12)


def test_fluctuation_and_hurst_are_parts_of_mfdfa():
    x, scales = noise(2048), (16, 32, 64)
    expected = reference.mfdfa(x, scales, (-1.0, 2.0), 2)
    np.testing.assert_allclose(fluctuation(x, scales, (-1.0, 2.0), order=2), np.exp(expected))
    slope = reference.slopes(scales, expected)[1]
    np.testing.assert_allclose(hurst(x, scales=scales, order=2), slope)


@functools.cache
def flat_run():
    """Spoil 4096 samples of noise by a run of 100 zeros; count the segments inside the run."""
    x, first, last = noise(SHORT, 5), 1000, 1099
    x[first : last + 1] = 0
    inside = []
    for s in DYADIC[:6]:
        forward = np.arange(SHORT // s) * s
        starts = np.concatenate([forward, forward + SHORT % s])
        # The first increment of a segment does not matter to its fit.
        inside.append(np.sum((starts + 1 >= first) & (starts + s - 1 <= last)))
    return x, np.array(inside)


def ends(x, flat="drop"):
    h = mfdfa(x, q=ENDS, scales=DYADIC[:6], flat=flat).h
    return float(h[0] - h[1])


def test_dropping_flat_segments_restores_the_spectrum():
    x, inside = flat_run()
    assert inside.max() > 5
    np.testing.assert_array_equal(mfdfa(x, q=ENDS, scales=DYADIC[:6]).dropped, inside)
    unspoilt = ends(noise(SHORT, 5))
    assert abs(ends(x) - unspoilt) < 0.03
    assert unspoilt + 0.05 < ends(x, "floor") < 5 < ends(x, "keep")


def finite_parts(result):
    """Sum all that a user may differentiate, the infinite marks of no data left out."""
    parts = [result.h, result.tau, result.alpha, result.f, result.width, result.asymmetry]
    marked = [result.r_squared, result.h_stderr, result.log_fluctuation]
    return sum(jnp.sum(jnp.where(jnp.isfinite(p), p, 0)) for p in [*parts, *marked])


@functools.partial(jax.jit, static_argnames="flat")
def value_and_gradient(x, length, flat):
    def total(x):
        result = mfdfa(x, length=length, flat=flat, scales=FEW)
        return finite_parts(result), result

    (_, result), gradient = jax.value_and_grad(total, has_aux=True)(x)
    return result, gradient


DEGENERATE = {
    "flat run": (np.concatenate([noise(400), np.zeros(200), noise(400)]), 1000),
    "zeros": (np.zeros(1000), 1000),
    "constant": (np.full(1000, 0.1), 1000),
    "large constant": (np.full(1000, 12345.678), 1000),
    "one spike": (np.eye(1, 1000, 7)[0], 1000),
    "shorter than the largest scale": (noise(1000), 90),
    "shorter than all but two scales": (noise(1000), 20),
    "shorter than all scales": (noise(1000), 15),
    "one sample": (noise(1000), 1),
    "no sample": (noise(1000), 0),
}


@pytest.mark.parametrize("flat", ["drop", "floor", "keep"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_no_nan_in_value_or_gradient(case, dtype, flat):
    x, length = DEGENERATE[case]
    result, gradient = value_and_gradient(jnp.asarray(x, dtype), length, flat)
    for part in jax.tree.leaves(result):
        assert not np.isnan(part).any()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", ["zeros", "constant", "large constant"])
def test_constant_series_has_every_segment_dropped(case, dtype):
    x, length = DEGENERATE[case]
    result, gradient = value_and_gradient(jnp.asarray(x, dtype), length, "drop")
    np.testing.assert_array_equal(result.dropped, 2 * (1000 // np.array(FEW)))
    np.testing.assert_array_equal(result.log_fluctuation, -np.inf)
    np.testing.assert_array_equal(result.h, 0)
    np.testing.assert_array_equal(result.h_stderr, np.inf)
    np.testing.assert_array_equal(result.r_squared, 0)
    np.testing.assert_array_equal(gradient, 0)


def test_short_rows_use_only_their_own_scales():
    x, length = DEGENERATE["shorter than the largest scale"]
    result, _ = value_and_gradient(jnp.asarray(x), length, "drop")
    own = result.scales <= length
    np.testing.assert_array_equal(np.isfinite(result.log_fluctuation).all(axis=0), own)
    expected = reference.mfdfa(x[:length], np.asarray(result.scales[own]), Q, 1)
    np.testing.assert_allclose(result.log_fluctuation[:, own], expected, rtol=0, atol=1e-12)
    slopes = reference.slopes(result.scales[own], expected)
    np.testing.assert_allclose(result.h, slopes, rtol=0, atol=1e-12)


def test_gradient_equals_central_differences():
    x = jnp.asarray(noise(1000, 2))

    @jax.jit
    def strength(x):
        h = mfdfa(x, q=ENDS, scales=FEW).h
        return h[0] - h[1]

    gradient = np.asarray(jax.grad(strength)(x))
    directions = [noise(1000, 3), noise(1000, 4), np.eye(1000)[5], np.eye(1000)[511]]
    for direction in directions:
        step = 1e-5
        difference = (strength(x + step * direction) - strength(x - step * direction)) / (2 * step)
        np.testing.assert_allclose(gradient @ direction, difference, rtol=1e-5)


def test_padded_batch_equals_one_by_one():
    lengths = np.array([1000, 999, 512, 150])
    rows = np.stack([noise(1000, i) for i in range(4)])
    batch = jax.vmap(lambda x, n: mfdfa(x, length=n, scales=FEW))(rows, lengths)
    for i, n in enumerate(lengths):
        one = reference.mfdfa(rows[i, :n], FEW, Q, 1)
        np.testing.assert_allclose(batch.log_fluctuation[i], one, rtol=0, atol=1e-12)


def test_padding_may_hold_anything():
    scales = (16, 32, 64)
    clean, dirty = noise(500), np.concatenate([noise(500), np.full(100, 1e9)])
    found = mfdfa(dirty, length=500, scales=scales).log_fluctuation
    np.testing.assert_allclose(found, reference.mfdfa(clean, scales, Q, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept(dtype):
    result = mfdfa(jnp.asarray(noise(SHORT), dtype))
    counts = {"scales", "dropped"}
    for name, part in vars(result).items():
        assert part.dtype == ("int32" if name in counts else dtype), name


@pytest.mark.parametrize("unit", [1e-20, 1e20])
def test_float32_in_any_unit(unit):
    x = jnp.asarray(noise(SHORT), jnp.float32)
    plain, scaled = mfdfa(x), mfdfa(x * jnp.float32(unit))
    np.testing.assert_allclose(scaled.h, plain.h, rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        scaled.log_fluctuation, np.asarray(plain.log_fluctuation) + np.log(unit), rtol=0, atol=2e-5
    )


def test_without_x64_results_are_float32_and_right():
    x = noise(500).astype(np.float32)
    expected = reference.mfdfa(x, (16, 32, 37), Q, 1)
    with jax.enable_x64(False):
        result = mfdfa(x, scales=(16, 32, 37))
        integers = hurst(np.arange(100) % 7, scales=(8, 16))
    assert result.h.dtype == integers.dtype == jnp.float32
    np.testing.assert_allclose(result.log_fluctuation, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.array([])}, r"x=float64\[0\]: accepted is a series of 3 samples or more"),
        ({"x": np.ones(2)}, r"x=float64\[2\]: accepted is a series of 3 samples or more"),
        ({"x": np.ones((3, 100))}, r"x=float64\[3, 100\]: accepted is one series"),
        (
            {"x": np.where(np.arange(100) == 7, np.nan, 1)},
            r"x=float64\[100\] with NaN or infinity at sample 7",
        ),
        (
            {"x": np.where(np.arange(100) == 9, np.inf, 1)},
            r"x=float64\[100\] with NaN or infinity at sample 9",
        ),
        (
            {"scales": (2, 16)},
            r"scales=\(2, 16\) with values from 2 to 16: accepted is 3, which is order \+ 2",
        ),
        (
            {"scales": (4, 16), "order": 3},
            r"scales=\(4, 16\) with values from 4 to 16: accepted is 5, which is order \+ 2",
        ),
        (
            {"scales": (16, 101)},
            r"scales=\(16, 101\) with values from 16 to 101: accepted is 3, .* to 100",
        ),
        ({"scales": (16,)}, r"scales=\(16,\): accepted is two different"),
        ({"q": [0.0, np.nan]}, r"q=\[0.0, nan\]: accepted is .* finite moment orders"),
        ({"q": []}, r"q=\[\]: accepted is .* finite moment orders"),
        ({"order": 4}, "order=4: accepted is one of 0, 1, 2, 3"),
        ({"flat": "ignore"}, "flat='ignore': accepted is one of 'drop', 'floor', 'keep'"),
        ({"length": 101}, "length=101: accepted is 0 to 100"),
        ({"length": -1}, "length=-1: accepted is 0 to 100"),
        ({"length": 50.0}, "length=50.0: accepted is one integer"),
    ],
)
def test_bad_input_is_named(arguments, message, unchecked):
    arguments = {"x": np.ones(100), "scales": (8, 16)} | arguments
    with pytest.raises(ValueError, match=message):
        mfdfa(arguments.pop("x"), **arguments)
