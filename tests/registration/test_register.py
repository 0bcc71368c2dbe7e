"""Registration of synthetic images whose displacement is known, and of a real pair."""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from jaxml.registration import _register
from jaxml.registration._energy import energy_level, roughness
from jaxml.registration._energy import smoothed as means
from jaxml.registration._evaluate import dice_per_label, fold_percentages
from jaxml.registration._field import count_folds, warp
from jaxml.registration._similarity import grad_l2, mse, ncc
from jaxml.registration._symmetric import symmetric_level

# (1, 2, 1) / 4 along each axis.
smoothed = lambda plane: means((plane,), ((2, 2),) * plane.ndim)[0]
# The deformable stage alone; the affine one has its own tests.
register = functools.partial(_register.register, affine=None)


def texture(shape, seed=0):
    """Smooth image of 0 to 1, with structures of some voxels."""
    image = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return ((image - image.min()) / np.ptp(image)).astype("float32")


def pair(shape, seed=0, size=1.5):
    """Return fixed and moving, and the displacement, 0 on the faces, between them."""
    rng = np.random.default_rng(seed + 1)
    u = [gaussian_filter(rng.standard_normal(shape), 5) for _ in shape]
    for axis, n in enumerate(shape):
        taper = np.sin(np.pi * np.arange(n) / (n - 1))
        u = [c * np.expand_dims(taper, [a for a in range(len(shape)) if a != axis]) for c in u]
    u = size * np.stack(u, -1) / np.std(u)
    moving = texture(shape, seed)
    points = np.moveaxis(u, -1, 0) + np.indices(shape)
    fixed = map_coordinates(moving, points, order=1, mode="constant")
    return jnp.asarray(fixed), jnp.asarray(moving), u


def error(found, u, margin):
    """Median endpoint error away from the faces, relative to that of no registration."""
    inner = tuple(slice(margin, -margin) for _ in u.shape[:-1])
    length = lambda v: np.median(np.linalg.norm(v[inner], axis=-1))
    return length(np.asarray(found) - u) / length(u)


@pytest.mark.parametrize("method, steps", [("both", 150), ("symmetric", 100), ("energy", 100)])
@pytest.mark.parametrize(
    "shape, size, similarity, smoothness",
    [((32, 28), 1.2, ncc, 0.2), ((21, 20, 23), 0.6, mse, 0.001)],
)
def test_a_known_smooth_warp_is_recovered(shape, size, similarity, smoothness, method, steps):
    fixed, moving, u = pair(shape, size=size)
    settings = dict(similarity=similarity, smoothness=smoothness, method=method)
    found = register(fixed, moving, levels=2, steps=50, **settings)
    assert found.displacement.dtype == found.moved.dtype == "float32"
    assert found.loss.shape == (steps,)
    # Smoother than the warp, which is as rough as a small volume can hold.
    assert error(found.displacement, u, 3) < (0.3 if method == "symmetric" else 0.25)
    np.testing.assert_allclose(found.moved, warp(moving, found.displacement), atol=1e-4)
    assert found.folds == count_folds(found.displacement, scheme="digital") == 0


def test_a_similarity_of_ones_own_registers_images_of_opposite_contrast():
    fixed, moving, u = pair((32, 28), size=1.2)

    def opposite(fixed, moved):
        return jnp.mean((fixed + moved - 1) ** 2)

    settings = dict(levels=2, steps=50, smoothness=0.001, method="energy")
    found = register(1 - fixed, moving, similarity=opposite, **settings)
    assert error(found.displacement, u, 3) < 0.25
    alike = register(fixed, moving, similarity=mse, **settings)
    np.testing.assert_allclose(found.loss, alike.loss, rtol=1e-2, atol=1e-6)


def test_a_translation_is_recovered():
    image = np.pad(texture((24, 24)), 8)
    fixed, moving = (jnp.asarray(np.roll(image, s, (0, 1))) for s in ((0, 0), (3, -2)))
    found = register(fixed, moving, levels=3, steps=60, similarity=mse, smoothness=0.01)
    inside = found.displacement[14:-14, 14:-14]
    np.testing.assert_allclose(np.median(inside, (0, 1)), [3, -2], atol=0.2)


def test_equal_images_stay_where_they_are():
    image = jnp.asarray(texture((16, 16)))
    found = register(image, image, steps=20)
    # Steps of Adam do not shrink with the gradient, here of rounding: they come back instead.
    assert float(jnp.abs(found.displacement).max()) < 0.25
    assert float(jnp.median(jnp.abs(found.displacement))) < 0.05
    assert found.loss[-1] < -0.999


@pytest.mark.parametrize("shape, levels", [((32, 28), 2), ((16, 17, 18), 1)])
def test_fold_free_has_no_folds_by_any_criterion(shape, levels):
    fixed, moving, _ = pair(shape, size=3.0)
    run = functools.partial(register, fixed, moving, levels=levels, steps=40, smoothness=0.01)
    assert run(projection=None).folds > 0
    found = run(projection="fold_free")
    assert found.folds == 0
    percentages = vars(fold_percentages(found.displacement))
    # No simplex bounds what differences over five points show.
    assert all(v == 0 for k, v in percentages.items() if k != "five_point")
    assert ncc(fixed, found.moved) < 1.2 * ncc(fixed, moving)


def test_layer_folds_less_and_still_registers():
    fixed, moving, u = pair((32, 28), size=2.0)
    settings = dict(levels=2, steps=60, smoothness=0.01, method="energy")
    run = functools.partial(register, fixed, moving, **settings)
    plain, layer = run(projection=None), run(projection="layer")
    assert layer.folds < plain.folds
    assert ncc(fixed, layer.moved) < 1.2 * ncc(fixed, moving)
    # The layer is 0 on all faces.
    assert not jnp.any(layer.displacement[0]) and not jnp.any(layer.displacement[:, -1])
    # Its loss takes part: without weight the field is another.
    free = run(projection="layer", poisson_weight=0.0)
    assert float(jnp.abs(free.displacement - layer.displacement).max()) > 1e-3


@pytest.mark.parametrize("projection", [None, "fold_free"])
def test_jit_and_vmap_equal_the_plain_call(projection):
    pairs = [pair((16, 18), seed) for seed in (0, 1)]
    fixed, moving = (jnp.stack([p[i] for p in pairs]).astype("float64") for i in (0, 1))
    run = functools.partial(
        register, levels=2, steps=(8, 5), smoothness=0.01, projection=projection
    )
    alone = run(fixed[0], moving[0])
    compiled = jax.jit(run)(fixed[0], moving[0])
    together = jax.vmap(run)(fixed, moving)
    assert alone.displacement.dtype == "float64"
    for one, other, row in zip(*map(jax.tree.leaves, (alone, compiled, together)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
        np.testing.assert_allclose(one, row[0], atol=1e-9)


def test_steps_are_those_of_adam_on_a_smoothed_variable():
    """A second implementation: autodiff through the smoothing, and the update in numpy."""
    fixed, moving, _ = pair((12, 13))
    fixed, moving = fixed.astype("float64"), moving.astype("float64")
    field = lambda w: jnp.stack([smoothed(c) for c in w], -1)
    loss = lambda w: mse(fixed, warp(moving, field(w))) + 0.3 * grad_l2(field(w))
    w = np.zeros((2, 12, 13))
    mean, square, losses = np.zeros_like(w), np.zeros_like(w), []
    for i in range(6):
        value, g = jax.value_and_grad(loss)(jnp.asarray(w))
        losses.append(value)
        mean, square = 0.9 * mean + 0.1 * np.asarray(g), 0.999 * square + 0.001 * np.square(g)
        rate = 0.2 * np.cos(np.pi * i / 12) ** 2
        unbiased = mean / (1 - 0.9 ** (i + 1)), square / (1 - 0.999 ** (i + 1))
        w = w - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    settings = dict(similarity=mse, smoothness=0.3, learning_rate=0.2, method="energy")
    found = register(fixed, moving, levels=1, steps=6, **settings)
    np.testing.assert_allclose(found.loss, losses, rtol=1e-9)
    np.testing.assert_allclose(found.displacement, field(jnp.asarray(w)), atol=1e-7)


def test_smoothing_is_self_adjoint_and_keeps_constants():
    x, y = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 6, 7)))
    np.testing.assert_allclose(jnp.vdot(x, smoothed(y)), jnp.vdot(y, smoothed(x)), rtol=1e-12)
    np.testing.assert_allclose(smoothed(jnp.ones((4, 5))), 1, rtol=1e-12)
    impulse = jnp.zeros((7, 7)).at[3, 3].set(16)
    np.testing.assert_allclose(smoothed(impulse)[2:5, 2:5], np.outer([1, 2, 1], [1, 2, 1]))


def test_roughness_equals_grad_l2():
    u = jnp.asarray(np.random.default_rng(0).standard_normal((5, 6, 7, 3)))
    np.testing.assert_allclose(
        roughness(tuple(jnp.moveaxis(u, -1, 0)), jnp.ones(3)), grad_l2(u), rtol=1e-12
    )


def test_a_second_call_compiles_nothing():
    fixed, moving, _ = pair((12, 12))
    register(fixed, moving, levels=1, steps=3)
    before = energy_level._cache_size(), symmetric_level._cache_size()
    register(moving, fixed, levels=1, steps=3, smoothness=2.0, learning_rate=0.3)
    assert (energy_level._cache_size(), symmetric_level._cache_size()) == before


def test_bad_input_is_named(unchecked):
    image = jnp.ones((16, 16))
    bad = [
        (r"fixed=float64\[16\]: accepted is \[H, W\] or", (jnp.ones(16), jnp.ones(16)), {}),
        ("with 4 voxels or more an axis", (jnp.ones((16, 3)), jnp.ones((16, 3))), {}),
        (
            r"moving=float64\[9, 9, 9\]: accepted is an image of 2 axes",
            (image, jnp.ones((9, 9, 9))),
            {},
        ),
        (
            "moving='2 channels': accepted is 1 channels, as many as fixed",
            (image, (image, image)),
            {},
        ),
        (r"image=float64\[16, 16\] with the same value everywhere", (image, image), {}),
        (
            r"fixed=float32\[16, 16\]: accepted is -1e\+08 to 1e\+08, or NaN outside",
            (jnp.full((16, 16), 1e30, "float32"), jnp.ones((16, 16), "float32")),
            {},
        ),
        (
            r"fixed=float16\[16, 16\]: accepted is float32 or float64",
            (jnp.ones((16, 16), "float16"), jnp.ones((16, 16), "float16")),
            {},
        ),
        (r"fixed=int64\[16, 16\]: accepted is floating", (jnp.ones((16, 16), int), image), {}),
        (r"moving=float32\[16, 16\]: accepted is float64", (image, image.astype("float32")), {}),
        (r"moving=float64\[16, 16\]: accepted is -1e", (image, image.at[3, 3].set(jnp.inf)), {}),
        (r"mask=bool\[16, 16\] with 0 everywhere", (jnp.full((16, 16), jnp.nan), image), {}),
        (r"fixed_mask|mask", (image, image), dict(fixed_mask=jnp.zeros((16, 16)))),
        (r"affine='rotation': accepted is one of", (image, image), dict(affine="rotation")),
        (
            r"similarity='cc': accepted is 'ncc', 'mi', 'mse' or a fun",
            (image, image),
            dict(similarity="cc"),
        ),
        (
            r"similarity=.*: accepted is one, or one for each of 1 ch",
            (image, image),
            dict(similarity=("mi", "mi")),
        ),
        (
            r"spacing=.*: accepted is 2 positive numbers twice",
            (image, image),
            dict(spacing=((1.0, 0.0), (1.0, 1.0))),
        ),
        (
            r"initial=float64\[2, 3\]: accepted is a map \[2, 3\]",
            (image, image),
            dict(initial=jnp.asarray([[-1.0, 0, 15], [0, 1, 0]])),
        ),
        ("levels=4: accepted is 1 to 3", (image, image), dict(levels=4)),
        ("levels=0: accepted is a whole number, 1 or more", (image, image), dict(levels=0)),
        (
            r"steps=\(3, 3, 3\): accepted is .* 2 levels",
            (image, image),
            dict(levels=2, steps=(3, 3, 3)),
        ),
        ("steps=0: accepted is a whole number", (image, image), dict(steps=0)),
        (
            "projection='svf': accepted is one of None, 'layer', 'fold_free'",
            2 * (image,),
            dict(projection="svf"),
        ),
        ("method='syn': accepted is one of 'both', 'symmetric'", 2 * (image,), dict(method="syn")),
        ("smoothness=-1.0: accepted is 0 or more", (image, image), dict(smoothness=-1.0)),
        ("smoothness=inf", (image, image), dict(smoothness=float("inf"))),
        (
            "poisson_weight=nan: accepted is 0 or more",
            (image, image),
            dict(poisson_weight=float("nan")),
        ),
        ("learning_rate=0.0: accepted is a positive", (image, image), dict(learning_rate=0.0)),
    ]
    for message, images, settings in bad:
        with pytest.raises(ValueError, match=message):
            register(*images, **settings)


@pytest.mark.slow
def test_real_brains_reach_the_overlap_of_the_best_tools_without_folds():
    folder = Path(os.environ.get("JAXML_DATA", "")) / "brain"
    if not (folder / "subject_a_80x96x112.npz").is_file():
        pytest.skip("set JAXML_DATA to a folder with brain/subject_{a,b}_80x96x112.npz")
    subjects = [np.load(folder / f"subject_{s}_80x96x112.npz") for s in "ab"]
    labels = tuple(map(int, np.load(folder / "labels30.npz")["labels"]))
    fixed, moving = (jnp.asarray(s["vol"] / np.float32(255)) for s in subjects)
    fixed_labels, moving_labels = (jnp.asarray(s["seg"].astype("int32")) for s in subjects)
    overlap = lambda moved: float(jnp.nanmean(dice_per_label(fixed_labels, moved, labels)))
    after = {}
    for projection in (None, "fold_free"):
        found = register(fixed, moving, projection=projection)
        moved = warp(jnp.asarray(moving_labels, "float32"), found.displacement, order=0)
        after[projection] = overlap(moved.astype("int32")), int(found.folds)
    assert overlap(moving_labels) < 0.54
    assert after[None][0] > 0.77
    assert after["fold_free"][0] > after[None][0] - 0.005
    assert after["fold_free"][1] == 0


def test_channels_masks_and_sides_of_voxels():
    fixed, moving, u = pair((32, 28), size=1.2)
    settings = dict(levels=2, steps=50, similarity="mse", smoothness=0.001, projection=None)
    plain = register(fixed, moving, **settings)
    assert error(plain.displacement, u, 3) < 0.25
    # A channel twice is the channel.
    twice = register((fixed, fixed), (moving, moving), **settings)
    np.testing.assert_allclose(twice.loss, plain.loss, rtol=1e-4)
    assert len(twice.moved) == 2
    # What the other channel shows may be of another contrast.
    both = register(
        (fixed, 1 - fixed), (moving, moving), **settings | dict(similarity=("mse", "mi"))
    )
    assert error(both.displacement, u, 3) < 0.35
    # Voxels twice as long, in both images: the same problem in other units.
    longer = register(fixed, moving, spacing=((2.0, 2.0), (2.0, 2.0)), **settings)
    np.testing.assert_allclose(longer.displacement, plain.displacement, atol=1e-3)


@pytest.mark.parametrize("where", ["nan", "fixed_mask", "moving_mask"])
def test_what_is_masked_is_not_seen(where):
    fixed, moving, u = pair((36, 32), size=1.2)
    hole = (slice(12, 20), slice(12, 20))
    settings = dict(levels=2, steps=60, similarity="ncc", smoothness=0.2)
    garbage = lambda seed: jnp.asarray(np.random.default_rng(seed).uniform(0, 1, (8, 8)), "float32")
    if where == "nan":
        run = lambda _: register(fixed.at[hole].set(jnp.nan), moving, **settings)
    elif where == "fixed_mask":
        mask = jnp.ones(fixed.shape).at[hole].set(0)
        run = lambda s: register(
            fixed.at[hole].set(garbage(s)), moving, fixed_mask=mask, **settings
        )
    else:
        mask = jnp.ones(fixed.shape, bool).at[hole].set(False)
        run = lambda s: register(
            fixed, moving.at[hole].set(garbage(s)), moving_mask=mask, **settings
        )
    one, other = run(1), run(2)
    np.testing.assert_array_equal(one.displacement, other.displacement)
    beside = np.ones(fixed.shape, bool)
    beside[8:24, 8:24] = beside[:3] = beside[-3:] = beside[:, :3] = beside[:, -3:] = False
    wrong = np.linalg.norm(np.asarray(one.displacement) - u, axis=-1)[beside]
    assert np.median(wrong) < 0.25 * np.median(np.linalg.norm(u, axis=-1)[beside])


@pytest.mark.parametrize("low, high", [(0, 0.01), (-1024, 3000)])
def test_any_range_of_intensities(low, high):
    fixed, moving, _ = pair((32, 28), size=1.2)
    settings = dict(levels=2, steps=30)
    plain = register(fixed, moving, **settings)
    other = register(low + (high - low) * fixed, low + (high - low) * moving, **settings)
    np.testing.assert_allclose(other.displacement, plain.displacement, atol=0.05)


def test_of_other_shape_voxels_and_orientation():
    """The moving image again on another grid: the same points of it, by one map more."""
    fixed, moving, _ = pair((32, 28), size=1.2)
    fixed, moving = fixed.astype("float64"), moving.astype("float64")
    turned = moving.T[:, ::-1]
    # Voxel (i, j) of the moving image is (j, 31 - i) of the turned one.
    initial = jnp.asarray([[0.0, 1.0, 0.0], [-1.0, 0.0, 31.0]])
    settings = dict(levels=2, steps=40)
    plain, other = (
        register(fixed, moving, **settings),
        register(fixed, turned, initial=initial, **settings),
    )
    np.testing.assert_allclose(other.loss[0], plain.loss[0], rtol=1e-9)
    # Steps of Adam make as much of rounding as of any gradient where there is none.
    np.testing.assert_allclose(other.loss, plain.loss, rtol=1e-2)
    np.testing.assert_allclose(other.moved, plain.moved, atol=2e-2)
    np.testing.assert_allclose(
        other.moved, warp(turned, other.displacement, affine=other.affine), atol=1e-5
    )
