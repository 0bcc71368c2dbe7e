"""Volumes in the corner of larger arrays: the same results whatever room there is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from jaxml.registration import (
    _affine,
    _energy,
    _images,
    _register,
    _symmetric,
    affine,
    count_folds,
    fold_free,
    register,
)
from jaxml.registration._extent import extended, placed, roomy_shapes
from jaxml.registration._field import count_digital_folds
from jaxml.registration._foldfree import unfolded


def blobs(shape, seed):
    image = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return (image - image.min()) / np.ptp(image)


def pair(shape, other):
    """An image that does not end in background, and the same one moved and cut."""
    fixed, rng = blobs(shape, 0), np.random.default_rng(1)
    shift = np.stack([40 * gaussian_filter(rng.normal(size=shape), 5) for _ in shape])
    moved = map_coordinates(fixed, np.indices(shape) + shift, order=3, mode="nearest")
    return jnp.asarray(fixed), jnp.asarray(moved[tuple(map(slice, other))])


def with_rooms(monkeypatch, run):
    """Return the results of volumes as they are, and of volumes in larger arrays."""
    roomy = run()
    for module in (_register, _affine):
        monkeypatch.setattr(module, "with_room", lambda *pair, **_: pair)
    return run(), roomy


def test_arrays_have_room_for_their_volumes():
    assert roomy_shapes((70, 90, 67), (75, 94, 65)) == [(80, 96, 80)] * 2
    assert roomy_shapes((37, 16, 1), (34, 17, 2)) == [(40, 24, 4)] * 2
    # One shape for both would make the smaller image's much larger.
    assert roomy_shapes((91, 109, 91), (182, 218, 182)) == [(96, 112, 96), (192, 224, 192)]
    assert roomy_shapes((4, 512), (512, 4)) == [(4, 512), (512, 4)]


def test_border_of_the_volume_is_repeated():
    volume = np.random.default_rng(2).normal(size=(5, 7, 3))
    array = placed(jnp.asarray(volume), (8, 9, 6), beyond=np.nan)
    rest = [(0, 3), (0, 2), (0, 3)]
    expected = np.pad(volume, rest, mode="edge")
    np.testing.assert_array_equal(jax.jit(extended)(array, volume.shape), expected)
    # Of the derivative of what is repeated, each voxel of the border has all.
    pulled = jax.grad(lambda x: jnp.sum(extended(x, volume.shape)))(array)
    counts = np.ones((8, 9, 6))
    for axis, n in enumerate(volume.shape):
        counts = np.add.reduceat(counts, range(n), axis=axis)
    np.testing.assert_array_equal(pulled, np.pad(counts, rest))


@pytest.mark.parametrize("shape", [(34, 37, 41), (29, 38), (48, 32)])
def test_folds_are_undone_alike(shape):
    """Above and below the side that half a resolution takes, with folds at the border."""
    rng = np.random.default_rng(3)
    u = jnp.asarray(np.stack([gaussian_filter(9 * rng.normal(size=shape), 1.5) for _ in shape], -1))
    room = tuple(n + 11 for n in shape)
    planes = tuple(placed(u[..., k], room, beyond=np.nan) for k in range(len(shape)))
    inside = (*map(slice, shape),)
    assert int(count_folds(u, scheme="digital")) > 50
    assert int(count_digital_folds(planes, shape)) == int(count_folds(u, scheme="digital"))
    expected, projected = fold_free(u).displacement, jax.jit(unfolded)(planes, shape)
    assert int(count_folds(expected, scheme="digital")) == 0
    for k, plane in enumerate(projected):
        np.testing.assert_allclose(plane[inside], expected[..., k], atol=1e-9)

    if len(shape) == 3:
        return
    weights = jnp.asarray(rng.normal(size=u.shape))
    pulled = jax.grad(lambda u: jnp.sum(weights * fold_free(u).displacement))(u)
    loss = lambda planes: sum(
        jnp.sum(weights[..., k] * plane[inside]) for k, plane in enumerate(unfolded(planes, shape))
    )
    for k, plane in enumerate(jax.grad(loss)(planes)):
        np.testing.assert_allclose(plane[inside], pulled[..., k], atol=1e-7)


@pytest.mark.parametrize("case", ["plain", "masks", "spacing", "far shapes"])
def test_registration_does_not_depend_on_the_room(monkeypatch, case):
    if case == "masks":
        # In 3-D, and so rough that there are folds to be undone.
        fixed, moving = pair((37, 34, 41), (37, 34, 41))
        setting = {
            "affine": None,
            "smoothness": 0.001,
            "learning_rate": 0.4,
            "fixed_mask": jnp.ones(fixed.shape, bool).at[10:20, 5:, :12].set(False),
            "moving_mask": jnp.ones(moving.shape, bool).at[20:, 20:, 20:].set(False),
        }
    else:
        shape = (120, 120) if case == "far shapes" else (37, 50)
        fixed, moving = pair(shape, (45, 39))
        setting = {}
    if case == "spacing":
        setting = {
            "affine": "rigid",
            "similarity": "mse",
            "method": "symmetric",
            "spacing": ((1.0, 2.5), (1.2, 1.0)),
        }
    run = functools.partial(register, fixed, moving, steps=(15, 10), levels=2, **setting)
    tight, roomy = with_rooms(monkeypatch, run)
    assert roomy.displacement.shape == (*fixed.shape, fixed.ndim)
    assert int(tight.folds) == int(roomy.folds) == 0
    for name in ("affine", "displacement", "moved", "loss"):
        np.testing.assert_allclose(getattr(roomy, name), getattr(tight, name), atol=1e-7)


def test_mutual_information_does_not_depend_on_the_room(monkeypatch):
    """Slopes of its histogram jump: rounding grows from step to step."""
    fixed, moving = pair((37, 50), (45, 39))
    run = functools.partial(register, fixed, moving, steps=15, levels=1, similarity="mi")
    tight, roomy = with_rooms(monkeypatch, run)
    np.testing.assert_allclose(roomy.loss[0], tight.loss[0], rtol=1e-12)
    np.testing.assert_allclose(roomy.displacement, tight.displacement, atol=0.02)


def test_alignment_does_not_depend_on_the_room(monkeypatch):
    fixed, moving = pair((37, 50), (45, 39))
    tight, roomy = with_rooms(monkeypatch, functools.partial(affine, fixed, moving))
    np.testing.assert_allclose(roomy.matrix, tight.matrix, atol=1e-9)
    np.testing.assert_allclose(roomy.mutual_information, tight.mutual_information, atol=1e-12)


def test_many_shapes_share_the_programs():
    stages = [
        _images._unit,
        _affine._scene,
        _affine._improved,
        _symmetric.symmetric_level,
        _symmetric._whole,
        _energy.restraint_of,
        _energy.energy_level,
    ]
    run = functools.partial(register, steps=2, levels=2)
    run(*pair((37, 41), (35, 39)))
    before = [stage._cache_size() for stage in stages]
    for shape, other in (((33, 47), (34, 36)), ((40, 48), (40, 41))):
        assert run(*pair(shape, other)).displacement.shape == (*shape, 2)
    assert [stage._cache_size() for stage in stages] == before
