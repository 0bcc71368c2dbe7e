import functools

import jax
import jax.numpy as jnp
import mfdfa_reference as reference
import numpy as np
import pytest
from scipy.special import softmax

from jaxml.multifractal._moments import log_moments, mean_by_scale

SCALE_OF_TILE = np.array([0, 1, 1, 2, 0, 2])
SCALES = 4  # No tile belongs to the last.
GRID = tuple(np.arange(-5, 5.01, 0.25).tolist())
UNEVEN = (-5.0, -1.3, -0.0999, -1e-4, 0.0, 1e-9, 2e-4, 0.05, 0.7, 2.0, 4.9)


def segments(spread=1.0, level=0.0, seed=0):
    """Return F2 of log-normal spread, and validity with holes."""
    rng = np.random.default_rng(seed)
    f2 = np.exp(spread * rng.normal(size=(SCALE_OF_TILE.size, 32)) + level)
    return f2, rng.uniform(size=f2.shape) < 0.8


def expected_moments(f2, valid, q):
    """Return ln F_q and its weighted mean of ln F, `[q, scale]`, of the scales that have tiles."""
    parts = [f2[SCALE_OF_TILE == i][valid[SCALE_OF_TILE == i]].astype(float) for i in range(3)]
    log_f = np.array([[reference.log_moments(p, v) for p in parts] for v in q])
    weighted = lambda p, v: softmax(v / 2 * np.log(p)) @ np.log(p) / 2
    return log_f, np.array([[weighted(p, v) for p in parts] for v in q])


@functools.partial(jax.jit, static_argnames="q")
def moments(f2, valid, q):
    return log_moments(f2, valid, SCALE_OF_TILE, SCALES, q)


@pytest.mark.parametrize("q", [GRID, UNEVEN, (0.0,), (2.0,)], ids=["even", "uneven", "0", "2"])
@pytest.mark.parametrize(("spread", "level"), [(1, 0), (1e-6, 3), (12, 0), (1, 300), (1, -300)])
def test_equals_log_sum_exp(q, spread, level):
    f2, valid = segments(spread, level)
    log_f, a = moments(f2, valid, q)
    expected_log_f, expected_a = expected_moments(f2, valid, q)
    # The series in q that serves |q| < 0.001 leaves out the fourth cumulant.
    tolerance = 1e-12 * max(1, abs(level) / 100, spread**4 / 10)
    np.testing.assert_allclose(log_f[:, :3], expected_log_f, rtol=0, atol=tolerance)
    np.testing.assert_allclose(a[:, :3], expected_a, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(log_f[:, 3], 0)
    np.testing.assert_array_equal(a[:, 3], 0)


@pytest.mark.parametrize("q", [GRID, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("level", [-60, 0, 60])
def test_float32_keeps_its_digits(q, level):
    f2, valid = segments(2.0, level)
    f2 = f2.astype(np.float32)
    log_f, _ = moments(f2, valid, q)
    assert log_f.dtype == jnp.float32
    expected, _ = expected_moments(f2, valid, q)
    np.testing.assert_allclose(log_f[:, :3], expected, rtol=3e-7, atol=3e-6)


def test_even_grid_equals_traced_orders():
    f2, valid = segments()
    run = jax.jit(lambda q: log_moments(*map(jnp.asarray, (f2, valid)), SCALE_OF_TILE, SCALES, q))
    for even, traced in zip(moments(f2, valid, GRID), run(jnp.array(GRID)), strict=True):
        np.testing.assert_allclose(even, traced, rtol=0, atol=1e-13)


def test_chunks_of_tiles_change_nothing(monkeypatch):
    f2, valid = segments()
    whole = moments(f2, valid, GRID)
    slope = jax.jit(jax.grad(lambda f: moments(f, valid, GRID)[0].sum()))
    expected = slope(jnp.asarray(f2))
    monkeypatch.setattr("jaxml.multifractal._moments._CHUNK", 4)
    for one, other in zip(moments(f2, valid, GRID), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)
    slope = jax.jit(jax.grad(lambda f: moments(f, valid, GRID)[0].sum()))
    np.testing.assert_allclose(slope(jnp.asarray(f2)), expected, rtol=1e-10)


def test_zero_order_is_the_geometric_mean():
    f2, valid = segments()
    log_f, a = moments(f2, valid, (0.0, 1.0))
    for i in range(3):
        inside = (SCALE_OF_TILE == i)[:, None] & valid
        np.testing.assert_allclose(log_f[0, i], np.log(f2[inside]).mean() / 2, rtol=1e-13)
        np.testing.assert_allclose(a[0, i], np.log(f2[inside]).mean() / 2, rtol=1e-13)


@pytest.mark.parametrize("q", [-3.0, -0.05, 1e-4, 2.0])
def test_a_is_the_derivative_of_q_times_log_f(q):
    f2, valid = segments()
    step = 1e-4
    around = np.array([q - step, q, q + step])
    log_f, a = log_moments(
        *map(jnp.asarray, (f2, valid)), SCALE_OF_TILE, SCALES, jnp.asarray(around)
    )
    difference = (around[2] * log_f[2] - around[0] * log_f[0]) / (2 * step)
    np.testing.assert_allclose(a[1, :3], difference[:3], rtol=1e-7)


@pytest.mark.parametrize("q", [0.0, 5e-4, 0.05, -2.0])
def test_derivative_in_traced_order(q):
    """At 0 it is var(ln F2) / 8; elsewhere (A - ln F_q) / q."""
    f2, valid = segments()
    run = lambda q: log_moments(*map(jnp.asarray, (f2, valid)), SCALE_OF_TILE, SCALES, q)
    (log_f, a), (slope, _) = jax.jvp(run, (jnp.array([q]),), (jnp.ones(1),))
    if q == 0:
        inside = [(SCALE_OF_TILE == i)[:, None] & valid for i in range(3)]
        expected = [np.log(f2[i]).var() / 8 for i in inside]
    else:
        expected = (a - log_f)[0, :3] / q
    np.testing.assert_allclose(slope[0, :3], expected, rtol=1e-5 if 0 < q < 1e-3 else 1e-10)


@pytest.mark.parametrize("q", [GRID, UNEVEN], ids=["even", "uneven"])
def test_gradient_is_the_weight_of_each_segment(q):
    f2, valid = segments()
    run = lambda f2: log_moments(f2, jnp.asarray(valid), SCALE_OF_TILE, SCALES, q)[0]
    gradient = jax.jit(jax.jacrev(run))(jnp.asarray(f2))
    inside = (SCALE_OF_TILE == 1)[:, None] & valid
    for row, order in zip(gradient, q, strict=True):
        # d ln F_q / d F2 = softmax(q/2 ln F2) / (2 F2)
        expected = softmax(order / 2 * np.log(f2[inside])) / (2 * f2[inside])
        np.testing.assert_allclose(
            row[1][inside], expected, rtol=1e-3 if 0 < abs(order) < 1e-3 else 1e-9
        )
        np.testing.assert_array_equal(row[1][~inside], 0)


def test_mean_by_scale():
    f2, valid = segments()
    found = mean_by_scale(jnp.asarray(f2), jnp.asarray(valid), SCALE_OF_TILE, SCALES)
    expected = [f2[(SCALE_OF_TILE == i)[:, None] & valid].mean() for i in range(3)]
    np.testing.assert_allclose(found, [*expected, 0], rtol=1e-14)
