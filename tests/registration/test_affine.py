"""The affine stage on images whose map is known, and where images tell nothing of each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from jaxml.registration import affine, register, warp
from jaxml.registration._linear import exponential, generators, of_kind, rotations


def head(shape, seed=0):
    """Image of 0 to 1 without symmetries: textured ellipsoid on a background of 0."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    radii = np.array([0.75, 0.55, 0.62])[: len(shape)].reshape(-1, *[1] * len(shape))
    inside = gaussian_filter((np.sum((grid / radii) ** 2, 0) < 1).astype(float), 1)
    texture = gaussian_filter(rng.standard_normal(shape), 2.5)
    image = inside * (1 + 0.6 * grid[0] + 0.4 * grid[-1] + 0.5 * texture / texture.std())
    return (np.clip(image, 0, None) / image.max()).astype("float32")


def seen_through(image, matrix, shape):
    """Return the image at the places of a map of voxels: it moves back by that map."""
    places = np.tensordot(matrix[:, :-1], np.indices(shape), 1)
    places += matrix[:, -1].reshape(-1, *[1] * len(shape))
    return map_coordinates(image, places, order=1).astype("float32")


def around_middle(linear, shift, shape, other):
    """Return the map of voxels that turns about the middles of two volumes, then shifts."""
    middles = [(np.array(n) - 1) / 2 for n in (shape, other)]
    return np.column_stack([linear, middles[1] + shift - linear @ middles[0]])


def largest_error(matrix, expected, shape):
    """Largest distance, in voxels, of where two maps send the middles of the faces."""
    corners = np.stack(np.meshgrid(*([0.2 * n, 0.8 * n] for n in shape))).reshape(len(shape), -1)
    difference = np.asarray(matrix, float) - expected
    return np.linalg.norm(difference[:, :-1] @ corners + difference[:, -1:], axis=0).max()


def turn(ndim, degrees, seed=0):
    if ndim == 2:
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        return np.array([[c, -s], [s, c]])
    axis = np.random.default_rng(seed).standard_normal(3)
    return Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix()


@pytest.mark.parametrize(
    "shape, degrees, contrast",
    [((48, 44), 130, 1), ((40, 36, 44), 40, 1), ((40, 36, 44), 40, -1)],
)
def test_turned_and_shifted_images_are_found(shape, degrees, contrast):
    moving = head(shape)
    linear = turn(len(shape), degrees)
    truth = around_middle(linear, 5.0, shape, shape)
    fixed = seen_through(moving, truth, shape)
    if contrast < 0:
        # As T2 to T1: what is bright is dark, and the background stays.
        moving = np.where(moving > 0.02, 1.02 - moving, 0).astype("float32")
    result = affine(jnp.asarray(fixed), jnp.asarray(moving), kind="rigid")
    assert largest_error(result.matrix, truth, shape) < 0.5
    assert result.mutual_information > result.mutual_information_before + 0.1
    rotation = np.asarray(result.matrix)[:, :-1]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(len(shape)), atol=1e-5)


def test_affine_maps_of_other_shape_and_voxels():
    shape, other = (36, 40, 30), (44, 26, 40)
    moving = head(other)
    # Voxels of the moving image are 1, 2 and 1 long, those of the fixed one 1.
    stretch = np.array([[1.1, 0.05, 0], [0, 0.92, 0.04], [0.03, 0, 1.05]])
    linear = np.diag([1, 0.5, 1]) @ stretch @ turn(3, 15, seed=1)
    truth = around_middle(linear, np.array([2.0, -1, 1]), shape, other)
    fixed = seen_through(moving, truth, shape)
    spacing = ((1.0, 1.0, 1.0), (1.0, 2.0, 1.0))
    found = {
        kind: affine(jnp.asarray(fixed), jnp.asarray(moving), kind=kind, spacing=spacing)
        for kind in ("rigid", "affine")
    }
    assert largest_error(found["affine"].matrix, truth, shape) < 0.6
    assert found["affine"].mutual_information > found["rigid"].mutual_information
    # A rigid map keeps lengths in mm.
    lengths = np.diag([1, 2, 1]) @ np.asarray(found["rigid"].matrix)[:, :-1]
    np.testing.assert_allclose(lengths @ lengths.T, np.eye(3), atol=1e-5)
    # One interpolation through the map gives the fixed image back.
    moved = warp(
        jnp.asarray(moving), jnp.zeros((*shape, 3), "float32"), affine=found["affine"].matrix
    )
    assert np.corrcoef(np.ravel(moved), np.ravel(fixed))[0, 1] > 0.99


def test_images_that_tell_nothing_of_each_other_stay():
    rng = np.random.default_rng(0)
    # Many voxels that tell nothing of each other: of few some map fits by chance.
    images = [gaussian_filter(rng.standard_normal((160, 150)), 1).astype("float32") for _ in "ab"]
    initial = jnp.asarray([[1.0, 0.1, 2], [-0.1, 1, 3]], "float32")
    result = affine(*map(jnp.asarray, images), initial=initial)
    np.testing.assert_allclose(result.matrix, initial, atol=1e-5)


def test_what_is_masked_or_nan_is_not_seen():
    shape = (48, 44)
    moving = head(shape)
    truth = around_middle(turn(2, 25), 3.0, shape, shape)
    fixed = seen_through(moving, truth, shape)
    lesion = (slice(16, 30), slice(18, 30))
    mask = np.ones(shape, "float32")
    mask[lesion] = 0
    fixed[lesion] = 1
    hidden = affine(jnp.asarray(fixed), jnp.asarray(moving), fixed_mask=jnp.asarray(mask))
    fixed[lesion] = np.nan
    absent = affine(jnp.asarray(fixed), jnp.asarray(moving))
    assert largest_error(hidden.matrix, truth, shape) < 1
    np.testing.assert_allclose(absent.matrix, hidden.matrix, atol=1e-5)


def test_register_takes_any_turn_and_interpolates_once():
    shape = (48, 44)
    moving = head(shape)
    truth = around_middle(turn(2, 60), 4.0, shape, shape)
    fixed = jnp.asarray(seen_through(moving, truth, shape))
    run = functools.partial(register, fixed, jnp.asarray(moving), steps=20)
    result, without = run(), run(affine=None)
    correlation = lambda image: np.corrcoef(np.ravel(image), np.ravel(fixed))[0, 1]
    assert correlation(result.moved) > 0.99 > 0.95 > correlation(without.moved)
    moved = warp(jnp.asarray(moving), result.displacement, affine=result.affine)
    np.testing.assert_allclose(result.moved, moved, atol=1e-5)


def test_images_of_other_shapes_have_one_program():
    from jaxml.registration import _affine

    run = lambda *shape: affine(jnp.asarray(head(shape)), jnp.asarray(head(shape, seed=1)))
    run(48, 44)
    before = _affine._improved._cache_size()
    run(47, 41)
    assert _affine._improved._cache_size() == before


def test_gradient_equals_finite_differences():
    """Of a coefficient of the map in the weight of a second, brighter image."""
    shape = (20, 18)
    moving, other = (head(shape, seed).astype("float64") for seed in (0, 1))
    fixed = seen_through(moving, around_middle(turn(2, 12), 1.0, shape, shape), shape).astype(
        "float64"
    )

    def angle(weight):
        images = jnp.asarray(fixed) + weight * jnp.asarray(other), jnp.asarray(moving)
        return affine(*images, kind="rigid").matrix[0, 1]

    slope = jax.grad(angle)(0.01)
    step = 1e-6
    expected = (angle(0.01 + step) - angle(0.01 - step)) / (2 * step)
    # Points that pass from voxel to voxel turn the direction of steps, which has no derivative.
    np.testing.assert_allclose(slope, expected, rtol=0.1)


def test_bad_input_is_named(unchecked):
    image = jnp.asarray(head((20, 18)))
    bad = [
        (r"kind='warp': accepted is one of", dict(kind="warp")),
        (
            r"initial=float32\[3, 4\]: accepted is a map \[2, 3\]",
            dict(initial=jnp.ones((3, 4), "float32")),
        ),
        (r"spacing=", dict(spacing=((1.0,), (1.0, 1.0)))),
        (r"fixed_mask=", dict(fixed_mask=jnp.ones((3, 3)))),
    ]
    for message, settings in bad:
        with pytest.raises(ValueError, match=message):
            affine(image, image, **settings)
    with pytest.raises(ValueError, match="same value everywhere"):
        affine(image, jnp.ones((9, 9), "float32"))


@pytest.mark.parametrize("ndim", [2, 3])
def test_linear_parts(ndim):
    rng = np.random.default_rng(0)
    for kind, free in (("rigid", ndim * (ndim - 1) // 2), ("affine", ndim**2)):
        basis = generators(kind, ndim)
        assert np.linalg.matrix_rank(basis.reshape(len(basis), -1)) == len(basis) == free
        matrix = np.tensordot(rng.standard_normal(free), basis, 1)
        np.testing.assert_allclose(exponential(jnp.asarray(matrix)), expm(matrix), rtol=1e-6)
    every = rotations(ndim)
    np.testing.assert_allclose(
        every @ np.swapaxes(every, 1, 2), np.broadcast_to(np.eye(ndim), every.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(every), 1)
    # Any rotation is near one of them.
    trace = lambda a: (np.trace(a, axis1=-2, axis2=-1) - (ndim - 2)) / 2
    draws = [turn(ndim, angle, seed) for seed, angle in enumerate(np.linspace(0, 180, 60))]
    farthest = max(np.rad2deg(np.arccos(np.clip(trace(every @ d.T), -1, 1).max())) for d in draws)
    assert farthest < {2: 8, 3: 22}[ndim]
    # The closest rotation of a scaled one is that rotation.
    np.testing.assert_allclose(of_kind(jnp.asarray(1.3 * draws[7]), "rigid"), draws[7], atol=1e-6)
    np.testing.assert_allclose(
        of_kind(jnp.asarray(1.3 * draws[7]), "similarity"), 1.3 * draws[7], atol=1e-6
    )
