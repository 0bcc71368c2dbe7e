"""Fields without folds: counted by an independent implementation, and the gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplices_reference as reference

from jaxml.registration import _foldfree as foldfree
from jaxml.registration import diffeomorphic_layer, fold_free

RESTS = {"forward": 0, "backward": 0, "central": 0, "digital": 0}
# Shape, scales of smoothness, shares of forward folds, seeds: a field for each combination.
FEW = [
    ((24, 22), (0, 1, 2.5), (0.001, 0.02, 0.1), 1),
    ((14, 12, 13), (0, 1, 2), (0.001, 0.02, 0.1), 1),
]
MANY = [
    ((48, 48), (0, 0.7, 1, 1.5, 2, 3), (0.001, 0.01, 0.03, 0.1), 5),
    ((24, 24, 24), (0, 0.7, 1, 1.5, 2, 3), (0.001, 0.01, 0.03, 0.1), 4),
]


def folded_fields(shape, sigmas, shares, seeds):
    return np.stack(
        [
            reference.folded_noise(seed, shape, sigma, share)
            for sigma in sigmas
            for share in shares
            for seed in range(seeds)
        ]
    ).astype(np.float32)


@functools.cache
def unfolded(shape, sigmas, shares, seeds):
    fields = folded_fields(shape, sigmas, shares, seeds)
    return fields, jax.jit(jax.vmap(fold_free))(jnp.asarray(fields))


def recounted(u, epsilon):
    return int(np.sum(reference.smallest(np.asarray(u, float)) < epsilon))


def relative_change(found, u):
    return float(np.sqrt(np.mean((np.asarray(found) - u) ** 2) / np.mean(np.square(u))))


def assert_no_folds(fields, found):
    assert np.all(np.asarray(found.folds) == 0)
    for u, displacement in zip(fields, np.asarray(found.displacement), strict=True):
        assert reference.folds(u)["digital"] > 0
        assert reference.folds(displacement) == RESTS
        # The library counts in float32.
        assert reference.smallest(displacement.astype(float)).min() >= 0.01 - 1e-5


@pytest.mark.parametrize("case", FEW, ids=str)
def test_no_fold_is_left_by_any_criterion(case):
    assert_no_folds(*unfolded(*case))


@pytest.mark.slow
@pytest.mark.parametrize("case", MANY, ids=str)
def test_no_fold_is_left_of_many(case, record_property):
    fields, found = unfolded(*case)
    assert_no_folds(fields, found)
    record_property("fields", len(fields))
    record_property("iterations", np.asarray(found.iterations).tolist())
    assert np.max(found.iterations) < 500


@pytest.mark.parametrize("case", FEW, ids=str)
def test_result_tells_iterations_and_change(case):
    fields, found = unfolded(*case)
    assert found.displacement.dtype == found.change_rms.dtype == np.float32
    assert np.all(np.asarray(found.iterations) > 0)
    change = np.asarray(found.displacement, float) - fields
    expected = np.sqrt(np.mean(change**2, axis=tuple(range(1, fields.ndim))))
    np.testing.assert_allclose(found.change_rms, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(20, 22), (10, 12, 11)])
def test_change_is_small_beside_that_of_the_layer(shape):
    u = reference.folded_noise(0, shape, 1.5, 0.01)
    found = fold_free(jnp.asarray(u)).displacement
    layer = diffeomorphic_layer(jnp.asarray(u)).displacement
    assert relative_change(found, u) < relative_change(layer, u) / 4


@pytest.mark.slow
def test_change_of_a_large_smooth_field_is_a_quarter_of_that_of_the_layer():
    """64^3, smoothed by 4 voxels, with 1% of forward folds."""
    u = reference.folded_noise(0, (64, 64, 64), 4.0, 0.0098).astype(np.float32)
    found = jax.jit(fold_free)(jnp.asarray(u))
    assert reference.folds(found.displacement) == RESTS
    layer = diffeomorphic_layer(jnp.asarray(u)).displacement
    assert relative_change(found.displacement, u) <= relative_change(layer, u) / 4


@pytest.mark.parametrize("shape", [(12, 11), (7, 9, 8)])
def test_a_field_without_folds_is_returned_bit_for_bit(shape):
    u = jnp.asarray(reference.smooth_noise(0, shape, 1.5, rms=0.2), jnp.float32)
    assert reference.smallest(np.asarray(u, float)).min() > 0.02
    found = fold_free(u)
    np.testing.assert_array_equal(found.displacement, u)
    assert found.folds == 0 and found.iterations == 0 and found.change_rms == 0


def test_gradient_through_an_unchanged_field_is_the_identity():
    u = jnp.asarray(reference.smooth_noise(0, (8, 7), 1.5, rms=0.2))

    def loss(u):
        found = fold_free(u)
        return jnp.sum(found.displacement**2) + found.change_rms

    np.testing.assert_array_equal(jax.grad(loss)(u), 2 * u)


def test_voxels_far_from_folds_do_not_change():
    u = np.zeros((41, 41, 2))
    u[20, 20, 1] = 1.2
    found = np.asarray(fold_free(jnp.asarray(u)).displacement)
    changed = np.any(found != u, axis=-1)
    assert changed[20, 20]
    assert not np.any(changed[:8]) and not np.any(changed[:, -8:])


@pytest.mark.parametrize("epsilon", [1e-3, 0.01, 0.2, 0.6])
def test_epsilon_is_the_smallest_determinant_left(epsilon):
    u = reference.folded_noise(0, (16, 16), 1.5, 0.03)
    found = fold_free(jnp.asarray(u), epsilon=epsilon)
    assert found.folds == 0
    assert reference.smallest(np.asarray(found.displacement)).min() >= epsilon


@pytest.mark.parametrize("scheme, sign", [("forward", 1), ("backward", -1)])
def test_one_sided_criteria_change_less(scheme, sign):
    u = reference.folded_noise(0, (16, 16), 1.0, 0.05)
    found, digital = fold_free(jnp.asarray(u), scheme=scheme), fold_free(jnp.asarray(u))
    assert found.folds == 0
    left = reference.determinant(np.asarray(found.displacement), sign * np.eye(2, dtype=int))
    assert left.min() >= 0.01
    assert found.change_rms < digital.change_rms


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_folds_that_are_left_are_told(limit):
    u = reference.folded_noise(0, (16, 16), 1.0, 0.1)
    found = fold_free(jnp.asarray(u), max_iterations=limit)
    assert found.iterations == limit
    assert found.folds == recounted(found.displacement, 0.01) > 0
    if limit == 0:
        np.testing.assert_array_equal(found.displacement, u)
        assert found.change_rms == 0


EXTREMES = {
    "huge": lambda u: 1e4 * u,
    "beyond float32 squares": lambda u: 1e25 * u,
    "tiny": lambda u: 1e-30 * u,
    "at rest": lambda u: 0 * u,
    "constant": lambda u: 0 * u + 1e3,
    "collapsed": lambda u: -np.stack(np.meshgrid(*map(np.arange, u.shape[:-1]), indexing="ij"), -1),
    "mirrored": lambda u: (
        -2.0 * np.stack(np.meshgrid(*map(np.arange, u.shape[:-1]), indexing="ij"), -1)
    ),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("shape", [(9, 10), (5, 6, 7)])
def test_extreme_fields_stay_finite_and_are_told_truthfully(name, shape):
    u = EXTREMES[name](reference.smooth_noise(0, shape, 0)).astype(np.float32)
    found = jitted(jnp.asarray(u))
    assert np.all(np.isfinite(found.displacement))
    assert (found.folds == 0) == (found.iterations < 60)
    if name not in ("huge", "beyond float32 squares"):
        assert found.folds == recounted(found.displacement, 0.01)
    if name in ("tiny", "at rest", "constant"):
        np.testing.assert_array_equal(found.displacement, u)


jitted = jax.jit(functools.partial(fold_free, max_iterations=60))


def test_jit_and_vmap_equal_plain_calls():
    fields = jnp.asarray(folded_fields((6, 7, 5), (0, 1), (0.02, 0.1), 1), jnp.float64)
    together = jax.jit(jax.vmap(fold_free))(fields)
    alone, compiled = [fold_free(u) for u in fields], jax.jit(fold_free)
    assert len({int(a.iterations) for a in alone}) > 1
    for i, one in enumerate(alone):
        np.testing.assert_allclose(together.displacement[i], one.displacement, atol=1e-10)
        assert together.iterations[i] == one.iterations
        np.testing.assert_allclose(compiled(fields[i]).displacement, one.displacement)


@pytest.mark.parametrize(
    "shape, sigma",
    [((8, 7), 0), ((33, 34), 4), pytest.param((5, 4, 6), 0, marks=pytest.mark.slow)],
)
def test_gradient_equals_finite_differences(shape, sigma):
    """Over more iterations than are kept at once, at both resolutions of the larger shape."""
    u = jnp.asarray(reference.folded_noise(1, shape, sigma, 0.1))
    rng = np.random.default_rng(2)
    weights, directions = (
        jnp.asarray(rng.standard_normal((2, *u.shape))),
        rng.standard_normal((4, *u.shape)),
    )
    # Every fifth state is kept.
    project = functools.partial(fold_free, max_iterations=30)

    @jax.jit
    def loss(u):
        found = project(u)
        return jnp.sum(weights[0] * found.displacement) + found.change_rms, found.iterations

    (_, iterations), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(u)
    assert iterations > 5
    step = 1e-6
    for direction in jnp.asarray(directions):
        above, below = loss(u + step * direction), loss(u - step * direction)
        assert above[1] == below[1] == iterations
        numerical = (above[0] - below[0]) / (2 * step)
        np.testing.assert_allclose(jnp.sum(gradient * direction), numerical, rtol=1e-5)


def test_gradient_of_a_batch_equals_one_by_one():
    fields = jnp.asarray(folded_fields((8, 7), (0, 1), (0.05, 0.1), 1), jnp.float64)
    loss = lambda u: jnp.sum(fold_free(u).displacement ** 3)
    together = jax.jit(jax.vmap(jax.grad(loss)))(fields)
    alone = jax.jit(jax.grad(loss))
    for found, u in zip(together, fields, strict=True):
        np.testing.assert_allclose(found, alone(u), rtol=1e-9, atol=1e-9)


def test_batch_at_two_resolutions_equals_one_by_one():
    """One of the fields has no folds: what the others get must not reach it."""
    folded = [reference.folded_noise(seed, (33, 34), 4, 0.05) for seed in (0, 1)]
    fields = jnp.asarray(np.stack([folded[0], 0 * folded[0], folded[1]]), jnp.float32)
    together = jax.jit(jax.vmap(fold_free))(fields)
    for i, u in enumerate(fields):
        alone = jax.jit(fold_free)(u)
        np.testing.assert_allclose(together.displacement[i], alone.displacement, atol=1e-5)
        assert together.iterations[i] == alone.iterations
    assert together.iterations[1] == 0 and np.all(together.folds == 0)


def test_bad_arguments_are_named(unchecked):
    u = jnp.zeros((5, 6, 2))
    for epsilon in (0, -0.1, 0.9, 2, float("nan")):
        with pytest.raises(
            ValueError, match=f"epsilon={epsilon}: accepted is a number between 0 and 0.9"
        ):
            fold_free(u, epsilon=epsilon)
    with pytest.raises(
        ValueError, match="max_iterations=-1: accepted is a whole number, 0 or more"
    ):
        fold_free(u, max_iterations=-1)
    with pytest.raises(
        ValueError, match="scheme='central': accepted is one of 'digital', 'forward'"
    ):
        fold_free(u, scheme="central")


def test_wide_folds_are_undone_at_half_the_resolution():
    """They change less than by the iterations alone; a field without folds does not at all."""
    shape = (64, 64)
    u = jnp.asarray(reference.folded_noise(1, shape, 6, 0.05), "float32")
    planes = tuple(jnp.moveaxis(u, -1, 0))
    alone, _, iterations = foldfree._iterate(planes, None, "digital", 0.01, 500, None)
    found = fold_free(u)
    assert reference.folds(np.asarray(found.displacement)) == RESTS
    assert found.iterations < iterations
    alone = relative_change(jnp.stack(alone, axis=-1), u)
    assert relative_change(found.displacement, u) < 0.8 * alone
    again = fold_free(found.displacement)
    assert again.iterations == 0
    np.testing.assert_array_equal(again.displacement, found.displacement)
