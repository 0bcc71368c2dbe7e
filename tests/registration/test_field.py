"""Fields against numpy, scipy and closed forms."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import simplices_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxml import registration
from jaxml.registration import (
    compose,
    count_folds,
    integrate_velocity,
    jacobian,
    jacobian_determinant,
    min_jacobian_determinant,
    warp,
)

EACH_VOLUME = pytest.mark.parametrize("shape", [(7, 9), (5, 7, 6)])
DIFFERENCES = ["forward", "backward", "central", "five_point"]
SCHEMES = [*DIFFERENCES, "digital"]
determinant = jax.jit(jacobian_determinant, static_argnames="scheme")
smallest = jax.jit(min_jacobian_determinant)
ROTATIONS = {
    2: np.array([[-0.3, -0.6], [0.6, -0.3]]),
    3: np.array([[-0.3, -0.5, 0.2], [0.5, -0.3, -0.4], [-0.2, 0.4, -0.3]]),
}


def field(shape, rms=0.7, sigma=0.7):
    return reference.smooth_noise(0, shape, sigma, rms=rms)


def places(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(float)


def affine(shape, matrix, shift=0.0):
    """Displacement matrix (p - center) + shift."""
    return (places(shape) - center(shape)) @ matrix.T + shift


def center(shape):
    return (np.array(shape) - 1) / 2


def inside(points):
    """Where points lie in the volume that they were made of."""
    return np.all((points >= 0) & (points <= np.array(points.shape[:-1]) - 1), axis=-1)


@EACH_VOLUME
@pytest.mark.parametrize("scheme", DIFFERENCES)
def test_jacobian_and_determinant_equal_numpy(shape, scheme):
    u = field(shape)
    expected = reference.differences(u, scheme)
    np.testing.assert_allclose(jacobian(jnp.asarray(u), scheme=scheme), expected, atol=1e-14)
    for dtype, tolerance in (("float64", 1e-13), ("float32", 3e-6)):
        found = jacobian_determinant(jnp.asarray(u, dtype), scheme=scheme)
        assert found.dtype == dtype
        exact = np.linalg.det(expected + np.eye(len(shape)))
        np.testing.assert_allclose(found, exact, atol=tolerance)


@EACH_VOLUME
@pytest.mark.parametrize("rms", [0.6, 1.0, 3.0])
def test_folds_of_a_random_field(shape, rms):
    u = field(shape, rms)
    expected = reference.folds(u)
    assert expected["digital"] > 0
    five_point = np.linalg.det(np.eye(len(shape)) + reference.differences(u, "five_point"))
    expected["five_point"] = int(np.sum(five_point <= 0))
    assert {s: int(count_folds(jnp.asarray(u), scheme=s)) for s in SCHEMES} == expected


@pytest.mark.parametrize(
    "step, expected",
    [
        (0.9, (0, 0, 0, 0, 0)),
        (1.0, (1, 1, 0, 0, 2)),
        (1.5, (1, 1, 0, 1, 2)),
        (2.5, (1, 1, 1, 1, 2)),
    ],
)
@pytest.mark.parametrize("ndim", [2, 3])
def test_folds_of_one_voxel_that_passes_its_neighbours(ndim, step, expected):
    """Voxel p moves past p + e: p folds forward, p + e backward, and centrally past two.

    Over five points the difference at p + e is 1 - 8 / 12 of the step.
    """
    u = np.zeros((6,) * ndim + (ndim,))
    u[(2,) * ndim + (ndim - 1,)] = step
    counts = [int(count_folds(jnp.asarray(u), scheme=s)) for s in SCHEMES]
    # In 3-D the central tetrahedra see folds at further voxels.
    assert counts[:4] == list(expected[:4])
    assert counts[4] == (expected[4] if ndim == 2 else reference.folds(u)["digital"])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirror_folds_every_voxel(axis):
    """det = -1, but where a one-sided difference is set to 0 at the border."""
    shape = (4, 5, 6)
    matrix = np.zeros((3, 3))
    matrix[axis, axis] = -2
    u = jnp.asarray(affine(shape, matrix))
    for scheme in ("central", "five_point", "digital"):
        assert count_folds(u, scheme=scheme) == 120
    for scheme in ("forward", "backward"):
        assert count_folds(u, scheme=scheme) == 120 - 120 // shape[axis]
    np.testing.assert_allclose(jacobian_determinant(u, scheme="central"), -1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_not_a_number_counts_as_folded(scheme):
    count = jax.jit(functools.partial(count_folds, scheme=scheme))
    assert count(jnp.full((4, 5, 2), jnp.nan)) == 20


shifts = st.lists(st.floats(-50, 50), min_size=3, max_size=3)


@settings(max_examples=20, deadline=None)
@given(shifts, st.sampled_from(DIFFERENCES))
def test_a_translation_keeps_volumes(shift, scheme):
    u = jnp.broadcast_to(jnp.asarray(shift), (4, 3, 5, 3))
    np.testing.assert_allclose(determinant(u, scheme=scheme), 1, atol=1e-12)
    np.testing.assert_allclose(smallest(u), 1, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    st.permutations([0, 1, 2]), st.sampled_from([(), (0,), (1, 2), (0, 1, 2)]), st.integers(0, 9)
)
def test_criteria_do_not_depend_on_the_order_and_the_direction_of_axes(order, flipped, seed):
    u = 0.5 * np.random.default_rng(seed).standard_normal((4, 4, 4, 3))
    turned = np.flip(u.transpose(*order, 3)[..., order], flipped)
    turned = turned * np.where(np.isin(np.arange(3), flipped), -1, 1)
    measures = [functools.partial(determinant, scheme="central")]
    if len(flipped) in (0, 3):
        # The central tetrahedra lie along one of the four diagonals of the cube.
        measures.append(smallest)
    for measure in measures:
        expected = np.flip(np.asarray(measure(jnp.asarray(u))).transpose(order), flipped)
        np.testing.assert_allclose(measure(jnp.asarray(turned)), expected, atol=1e-12)


@EACH_VOLUME
@pytest.mark.parametrize("order", [0, 1])
def test_warp_equals_scipy(shape, order):
    u, image = field(shape, rms=2.0), np.random.default_rng(1).normal(size=(*shape, 2))
    points = np.moveaxis(places(shape) + u, -1, 0)
    expected = np.stack(
        [
            scipy.ndimage.map_coordinates(c, points, order=order, mode="grid-constant")
            for c in np.moveaxis(image, -1, 0)
        ],
        axis=-1,
    )
    found = warp(jnp.asarray(image), jnp.asarray(u), order=order)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    one = warp(jnp.asarray(image[..., 0]), jnp.asarray(u), order=order)
    np.testing.assert_array_equal(one, found[..., 0])
    # Linear interpolation fades to 0 within a voxel of the border; scipy's "constant" does not.
    within = inside(places(shape) + u)
    assert 0.2 < np.mean(within) < 0.9
    constant = scipy.ndimage.map_coordinates(image[..., 0], points, order=order, mode="constant")
    np.testing.assert_allclose(np.asarray(one)[within], constant[within], atol=1e-12)


@EACH_VOLUME
def test_warp_by_whole_voxels_shifts_the_image(shape):
    image = np.random.default_rng(1).normal(size=shape)
    u = np.broadcast_to(np.eye(len(shape))[0] * 2, (*shape, len(shape)))
    expected = np.concatenate([image[2:], np.zeros_like(image[:2])])
    for order in (0, 1):
        found = warp(jnp.asarray(image), jnp.asarray(u), order=order)
        np.testing.assert_array_equal(found, expected)


@EACH_VOLUME
def test_compose_adds_translations(shape):
    shift = lambda k: jnp.broadcast_to(jnp.linspace(k, k + 3.0, len(shape)), (*shape, len(shape)))
    np.testing.assert_allclose(
        compose(shift(1.0), shift(-7.0)), shift(-6.0) + shift(0.0), atol=1e-12
    )


@EACH_VOLUME
def test_compose_multiplies_affine_maps(shape):
    ndim = len(shape)
    a, b = 0.4 * ROTATIONS[ndim], np.diag(np.linspace(-0.3, 0.2, ndim))
    u, v = affine(shape, a, 0.3), affine(shape, b, -0.2)
    # Where p + v lies in the volume: (I + a) (I + b) p + (I + a) (-0.2) + 0.3.
    product = (np.eye(ndim) + a) @ (np.eye(ndim) + b) - np.eye(ndim)
    expected = affine(shape, product, (np.eye(ndim) + a) @ np.full(ndim, -0.2) + 0.3)
    within = inside(places(shape) + v)
    assert np.mean(within) > 0.3
    found = np.asarray(compose(jnp.asarray(u), jnp.asarray(v)))
    np.testing.assert_allclose(found[within], expected[within], atol=1e-12)


def test_composing_folds_two_fields_that_have_no_folds():
    """Two shears to and fro: every determinant of each is 1, and of both together -1 or 3."""
    row, column = np.meshgrid(np.arange(12), np.arange(14), indexing="ij")
    u, v = np.zeros((2, 12, 14, 2))
    u[..., 1], v[..., 0] = 4.0 * (-1.0) ** row, 0.25 * (-1.0) ** column
    for shear in (u, v):
        np.testing.assert_allclose(smallest(jnp.asarray(shear)), 1, atol=1e-12)
    found = compose(jnp.asarray(u), jnp.asarray(v))
    # A quarter of the way to the next row u is half as large: 1 - 2 (-1)^row (-1)^column.
    expected = 1 - 2 * (-1.0) ** (row + column)
    inner = (slice(1, -2), slice(1, -2))
    np.testing.assert_allclose(determinant(found, scheme="forward")[inner], expected[inner])
    assert registration.fold_free(found).folds == 0


@EACH_VOLUME
def test_compose_repeats_the_border(shape):
    u, far = field(shape), np.full((*shape, len(shape)), 100.0)
    corner = u[(-1,) * len(shape)]
    found = compose(jnp.asarray(u), jnp.asarray(far))
    np.testing.assert_allclose(found, np.broadcast_to(100 + corner, far.shape))


@EACH_VOLUME
@pytest.mark.parametrize("steps", [0, 3, 7])
def test_a_constant_velocity_is_a_translation(shape, steps):
    v = jnp.broadcast_to(jnp.linspace(-3.0, 4.0, len(shape)), (*shape, len(shape)))
    np.testing.assert_allclose(integrate_velocity(v, steps=steps), v, rtol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("steps", [1, 4, 7, 20])
def test_a_linear_velocity_is_a_matrix_exponential(ndim, steps):
    shape, m = (11, 13, 12)[:ndim], ROTATIONS[ndim]
    found = np.asarray(integrate_velocity(jnp.asarray(affine(shape, m)), steps=steps))
    # Flows from a ball around the center spiral inwards and never meet the border.
    ball = np.linalg.norm(places(shape) - center(shape), axis=-1) < 3.5
    eye = np.eye(ndim)
    squared = np.linalg.matrix_power(eye + m / 2**steps, 2**steps) - eye
    np.testing.assert_allclose(found[ball], affine(shape, squared)[ball], atol=1e-9)
    exact = affine(shape, scipy.linalg.expm(m) - eye)[ball]
    assert np.abs(found[ball] - exact).max() < 1.5 / 2**steps


@EACH_VOLUME
def test_opposite_velocities_are_inverse_maps(shape):
    v = jnp.asarray(reference.smooth_noise(0, tuple(2 * n for n in shape), 2.5, rms=0.5))
    there, back = integrate_velocity(v), integrate_velocity(-v)
    round_trip = np.asarray(compose(back, there))
    assert np.sqrt(np.mean(round_trip**2)) < 0.05 * 0.5
    assert count_folds(there, scheme="digital") == 0


def assert_gradient(function, *arguments):
    # Steps that are small beside the distance to the next voxel, where derivatives jump.
    check_grads(jax.jit(function), arguments, 1, modes=["rev"], eps=1e-6, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)])
def test_gradients_of_warp_and_determinants_equal_finite_differences(shape):
    u = jnp.asarray(field(shape, rms=0.4))
    assert_gradient(warp, jnp.asarray(np.random.default_rng(1).normal(size=shape)), u)
    assert_gradient(functools.partial(jacobian_determinant, scheme="forward"), u)
    assert_gradient(min_jacobian_determinant, u)


def test_gradients_of_maps_equal_finite_differences():
    u, v = (jnp.asarray(reference.smooth_noise(s, (4, 5), 0.7, rms=0.4)) for s in (0, 1))
    assert_gradient(compose, u, v)
    assert_gradient(functools.partial(integrate_velocity, steps=3), u)
    for scheme in ("central", "five_point"):
        assert_gradient(functools.partial(jacobian_determinant, scheme=scheme), u)


UNARY = [
    "bending_energy",
    "count_folds",
    "diffeomorphic_layer",
    "integrate_velocity",
    "fold_free",
    "grad_l2",
    "inverse",
    "jacobian",
    "jacobian_determinant",
    "min_jacobian_determinant",
    "non_diffeomorphic_volume",
]


@pytest.mark.parametrize("name", UNARY)
def test_what_is_no_field_is_named(name, unchecked):
    function = getattr(registration, name)
    zeros = jnp.zeros
    fields = "accepted is [H, W, 2] or [D, H, W, 3] with 3 voxels or more an axis"
    bad = [
        (zeros((3, 5, 6, 7)), f"float64[3, 5, 6, 7]: {fields}"),
        (zeros((2, 5, 6)), f"float64[2, 5, 6]: {fields}"),
        (zeros((5, 6)), f"float64[5, 6]: {fields}"),
        (zeros((1, 5, 6, 7, 3)), f"float64[1, 5, 6, 7, 3]: {fields}"),
        (zeros((2, 6, 2)), f"float64[2, 6, 2]: {fields}"),
        (zeros((5, 6, 2, 3)), f"float64[5, 6, 2, 3]: {fields}"),
        (zeros((5, 6, 2), "int32"), "int32[5, 6, 2]: accepted is floating-point numbers"),
        (zeros((5, 6, 2)).at[1, 1, 1].set(jnp.nan), "float64[5, 6, 2] with NaN or infinity"),
        (zeros((5, 6, 2)).at[1, 1, 1].set(jnp.inf), "float64[5, 6, 2] with NaN or infinity"),
    ]
    for array, message in bad:
        with pytest.raises(ValueError, match=f"^[uv]={re.escape(message)}"):
            function(array)


def test_bad_arguments_are_named(unchecked):
    u, other = jnp.zeros((5, 6, 2)), jnp.zeros((5, 7, 2))
    wrong = {
        "scheme='sideways': accepted is one of 'forward', 'backward', 'central', 'five": [
            lambda: jacobian(u, scheme="sideways"),
            lambda: jacobian_determinant(u, scheme="sideways"),
            lambda: count_folds(u, scheme="sideways"),
        ],
        "scheme='digital': accepted is one of 'forward', 'backward', 'central', 'five": [
            lambda: jacobian_determinant(u, scheme="digital"),
        ],
        r"v=float64\[5, 7, 2\]: accepted is \[5, 6, 2\], the shape of u": [
            lambda: compose(u, other)
        ],
        r"v=int32\[5, 6, 2\]: accepted is floating-point numbers": [
            lambda: compose(u, u.astype("int32"))
        ],
        r"image=float64\[5, 7\]: accepted is \[5, 6\], the volume of u": [
            lambda: warp(other[..., 0], u)
        ],
        r"image=float64\[5, 6, 1, 1\]: accepted is \[5, 6\], the volume of u": [
            lambda: warp(jnp.zeros((5, 6, 1, 1)), u)
        ],
        r"image=float64\[5\]: accepted is \[5, 6\], the volume of u": [
            lambda: warp(jnp.zeros(5), u)
        ],
        r"image=int32\[5, 6\]: accepted is floating-point numbers": [
            lambda: warp(jnp.zeros((5, 6), "int32"), u)
        ],
        "order=3: accepted is one of 0, 1": [lambda: warp(u, u, order=3)],
        r"u=float64\[5, 6, 2\] with NaN": [lambda: warp(u, u + jnp.nan)],
        "steps=-1: accepted is a whole number, 0 or more": [
            lambda: integrate_velocity(u, steps=-1)
        ],
    }
    for message, calls in wrong.items():
        for call in calls:
            with pytest.raises(ValueError, match=message):
                call()
