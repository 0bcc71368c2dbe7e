"""The metrics against brute force in numpy, and against maps whose determinant is known."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxml.registration._evaluate import (
    dice_per_label,
    fold_percentages,
    hausdorff95,
    non_diffeomorphic_volume,
    sd_log_jacobian,
)

SHAPES = [(13, 11), (7, 9, 8)]


def blobs(shape, seed):
    """Labels 0 to 3 in coherent patches."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, [-(-n // 3) for n in shape])
    for axis in range(len(shape)):
        coarse = np.repeat(coarse, 3, axis)
    return coarse[tuple(slice(n) for n in shape)]


def field(shape, scale):
    return scale * np.random.default_rng(0).standard_normal((*shape, len(shape)))


def surface(mask):
    """Voxels of a mask with a face neighbour outside of it, one voxel after another."""
    padded = np.pad(mask, 1)
    found = []
    for voxel in np.argwhere(mask):
        steps = [sign * axis for axis in np.eye(mask.ndim, dtype=int) for sign in (1, -1)]
        if not all(padded[tuple(voxel + 1 + step)] for step in steps):
            found.append(voxel)
    return np.array(found)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_dice_matches_sets_of_voxels(shape, dtype):
    fixed, moved = blobs(shape, 0).astype(dtype), blobs(shape, 1).astype(dtype)
    labels = (0, 2, 3, 300)
    found = jax.jit(lambda f, m: dice_per_label(f, m, labels))(fixed, moved)
    for value, label in zip(found, labels, strict=True):
        f, m = ({*map(tuple, np.argwhere(v == label))} for v in (fixed, moved))
        expected = 2 * len(f & m) / (len(f) + len(m)) if f or m else np.nan
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_dice_of_a_label_in_one_volume_only_is_zero():
    fixed = jnp.array([[1, 1], [0, 2]])
    moved = jnp.array([[1, 1], [0, 0]])
    np.testing.assert_array_equal(dice_per_label(fixed, moved, (1, 2, 3)), [1, 0, np.nan])


@pytest.mark.parametrize("shape, spacing", [(SHAPES[0], (2.0, 0.5)), (SHAPES[1], None)])
def test_hausdorff_matches_all_pairs_of_surface_voxels(shape, spacing):
    fixed, moved = blobs(shape, 0), blobs(shape, 1)
    found = hausdorff95(fixed, jnp.asarray(moved), (1, 2, 3), spacing=spacing)
    scale = np.ones(len(shape)) if spacing is None else np.array(spacing)
    for value, label in zip(found, (1, 2, 3), strict=True):
        pairs = cdist(surface(fixed == label) * scale, surface(moved == label) * scale)
        directed = [np.percentile(pairs.min(axis), 95) for axis in (0, 1)]
        assert value > 0
        np.testing.assert_allclose(value, max(directed), rtol=1e-12)


def test_hausdorff_of_a_shifted_box_is_the_shift():
    fixed = np.zeros((20, 20, 20), int)
    fixed[3:9, 4:10, 5:11] = 7
    # One in twenty voxels of the surface may be farther: the face that moves away is more.
    moved = np.roll(fixed, 4, axis=0)
    np.testing.assert_allclose(hausdorff95(fixed, moved, (7,), spacing=(0.5, 1, 1)), [2.0])
    np.testing.assert_array_equal(hausdorff95(fixed, fixed, (7,)), [0])


def test_hausdorff_of_absent_labels():
    fixed, moved = np.zeros((5, 5), int), np.zeros((5, 5), int)
    fixed[2, 2] = 1
    np.testing.assert_array_equal(hausdorff95(fixed, moved, (1, 2)), [np.inf, np.nan])


@pytest.mark.parametrize("shape", SHAPES)
def test_sd_log_jacobian_matches_numpy(shape):
    u = field(shape, 0.5)
    ndim = len(shape)
    gradient = [np.stack(np.gradient(u[..., k]), -1) for k in range(ndim)]
    determinant = np.linalg.det(np.stack(gradient, -2) + np.eye(ndim))
    assert determinant.min() < 0
    expected = np.log(np.clip(determinant, 1e-9, None)).std()
    np.testing.assert_allclose(sd_log_jacobian(jnp.asarray(u)), expected, rtol=1e-9)
    raised = np.log(np.clip(determinant, 0.1, None)).std()
    np.testing.assert_allclose(sd_log_jacobian(jnp.asarray(u), floor=0.1), raised, rtol=1e-9)


def test_sd_log_jacobian_of_an_affine_map_is_zero():
    grid = jnp.stack(jnp.meshgrid(*3 * [jnp.arange(6.0)], indexing="ij"), -1)
    u = grid @ jnp.array([[0.3, 0.1, 0], [0, -0.2, 0.1], [0, 0, 0.4]])
    np.testing.assert_allclose(sd_log_jacobian(u), 0, atol=1e-12)


def test_fold_percentages_of_known_folds():
    # A voxel thrown beyond its neighbour turns the differences on one side of it inside out.
    u = np.zeros((10, 10, 2))
    u[4, 5, 0] = 1.5
    found = fold_percentages(jnp.asarray(u))
    # Forward: x grows by 1 - 1.5 from the voxel; backward: the same at the voxel after it.
    assert (found.forward, found.backward, found.central) == (1, 1, 0)
    # Over five points: 1 - 8 / 12 * 1.5 at the voxel after it.
    assert found.five_point == 1
    assert found.digital >= 2
    at_rest = fold_percentages(jnp.zeros((10, 10, 2)))
    assert jax.tree.leaves(at_rest) == [0] * 5


@pytest.mark.parametrize("shape", SHAPES)
def test_fold_percentages_match_numpy(shape):
    u = field(shape, 0.6)
    found = fold_percentages(jnp.asarray(u))
    ndim = len(shape)
    padded = np.pad(u, [(1, 1)] * ndim + [(0, 0)], mode="edge")
    inner = tuple(slice(1, -1) for _ in shape)
    for name, sign in (("forward", 1), ("backward", -1)):
        steps = [sign * (np.roll(padded, -sign, a)[inner] - u) for a in range(ndim)]
        determinant = np.linalg.det(np.stack(steps, -1) + np.eye(ndim))
        np.testing.assert_allclose(getattr(found, name), 100 * np.mean(determinant <= 0))
    assert found.digital >= max(found.forward, found.backward, found.central) > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_non_diffeomorphic_volume_is_that_of_simplices_inside_out(shape):
    """Half of the sum of their volumes, from the corners of each in the map."""
    u, ndim = field(shape, 0.6), len(shape)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    simplices = [np.diag(s) for s in itertools.product((1, -1), repeat=ndim)]
    if ndim == 3:
        simplices += [sign * (1 - np.eye(3, dtype=int)[::-1]) for sign in (1, -1)]
    expected = np.zeros(shape)
    for simplex in simplices:
        edges = []
        for offset in simplex:
            there = np.clip(grid + offset, 0, np.array(shape) - 1)
            edges.append(u[tuple(np.moveaxis(there, -1, 0))] + offset - u)
        volume = np.linalg.det(np.stack(edges, -1)) / math.factorial(ndim)
        # Listed so that at rest each has the orientation of the axes.
        volume *= np.sign(np.linalg.det(simplex))
        expected += np.maximum(-volume, 0) / 2
    assert np.mean(expected > 0) > 0.2
    for dtype, tolerance in (("float64", 1e-13), ("float32", 1e-5)):
        found = non_diffeomorphic_volume(jnp.asarray(u, dtype))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_non_diffeomorphic_volume_of_a_mirror_is_the_volume(shape):
    grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, shape), indexing="ij"), -1).astype(float)
    mirrored = jnp.zeros_like(grid).at[..., 0].set(-2 * grid[..., 0])
    inner = tuple(slice(1, -1) for _ in shape)
    np.testing.assert_allclose(non_diffeomorphic_volume(mirrored)[inner], 1)
    np.testing.assert_array_equal(non_diffeomorphic_volume(0 * grid), 0)


def test_what_is_not_finite_has_no_volume():
    found = jax.jit(non_diffeomorphic_volume)(jnp.zeros((5, 6, 2)).at[2, 3, 0].set(jnp.inf))
    assert np.isnan(found[2, 3]) and found[0, 0] == 0


def test_bad_input_is_named(unchecked):
    volume = jnp.zeros((4, 4), int)
    with pytest.raises(
        ValueError, match=r"fixed_labels=int64\[4\]: accepted is \[H, W\] or \[D, H, W\]"
    ):
        dice_per_label(jnp.zeros(4, int), volume, (1,))
    with pytest.raises(
        ValueError,
        match=r"moved_labels=int64\[4, 5\]: accepted is \[4, 4\], the shape of fixed_labels",
    ):
        hausdorff95(volume, jnp.zeros((4, 5), int), (1,))
    with pytest.raises(ValueError, match=r"moved_labels=float64\[4, 4\]: accepted is integers"):
        dice_per_label(volume, jnp.zeros((4, 4)), (1,))
    with pytest.raises(ValueError, match=r"labels=\(\): accepted is one label or more"):
        dice_per_label(volume, volume, ())
    with pytest.raises(ValueError, match=r"spacing=\(1, 0\): accepted is 2 positive numbers"):
        hausdorff95(volume, volume, (1,), spacing=(1, 0))
    with pytest.raises(ValueError, match=r"spacing=\(1, inf\): accepted is 2 positive numbers"):
        hausdorff95(volume, volume, (1,), spacing=(1, np.inf))
    with pytest.raises(ValueError, match=r"spacing=\(1, 1, 1\): accepted is 2 positive numbers"):
        hausdorff95(volume, volume, (1,), spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="floor=0: accepted is a positive number"):
        sd_log_jacobian(jnp.zeros((4, 4, 2)), floor=0)
    with pytest.raises(ValueError, match=r"u=float64\[4, 4, 3\]: accepted is"):
        fold_percentages(jnp.zeros((4, 4, 3)))
