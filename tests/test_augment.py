"""Augmentations against dm-pix, SciPy, colorsys and torchvision, and what they do at random."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxml import augment
from jaxml.augment import rand_augment as rand_augment_function
from jaxml.augment._color import gray
from jaxml.augment._geometry import affine_map, rotation
from jaxml.augment._rand_augment import OPERATIONS, operate
from jaxml.sharding import data_mesh

HEIGHT, WIDTH = 12, 10
IMAGES = np.random.default_rng(0).uniform(size=(16, HEIGHT, WIDTH, 3))
IMAGE = IMAGES[0]
KEYS = jax.random.split(jax.random.key(0), 16)
SINGLE = {
    "affine": augment.affine,
    "color_jitter": augment.color_jitter,
    "cutout": augment.cutout,
    "horizontal_flip": augment.horizontal_flip,
    "flip_crop": augment.flip_crop,
    "gaussian_blur": augment.gaussian_blur,
    "grayscale": augment.grayscale,
    "identity": augment.identity,
    "padded_crop": augment.padded_crop,
    "rand_augment": rand_augment_function,
    "resized_crop": augment.resized_crop,
    "rotate": augment.rotate,
    "simclr_view": functools.partial(augment.simclr_view, blur=0.5),
    "sometimes": augment.sometimes(augment.cutout, 0.5),
}
every = pytest.mark.parametrize("name", SINGLE)
NEUTRAL = dict(brightness=(1, 1), contrast=(1, 1), saturation=(1, 1), hue=(0, 0))
STILL = dict(degrees=(0, 0), shift=(0, 0), scale=(1, 1), shear=(0, 0))


def same(found, expected, *, tolerance=1e-9):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@functools.cache
def mapped(name):
    return jax.jit(jax.vmap(SINGLE[name]))


# What all of them share ------------------------------------------------------------------------


@every
def test_batch_equals_image_by_image_and_the_key_decides(name):
    found = mapped(name)(KEYS, jnp.asarray(IMAGES))
    one = jax.jit(SINGLE[name])
    for i in (0, 7):
        same(one(KEYS[i], jnp.asarray(IMAGES[i])), found[i])
    np.testing.assert_array_equal(mapped(name)(KEYS, jnp.asarray(IMAGES)), found)
    other = mapped(name)(KEYS[::-1], jnp.asarray(IMAGES))
    assert np.any(other != found) == (name != "identity")


@every
def test_eight_devices_equal_one(name):
    rows = NamedSharding(data_mesh(), P("data"))
    keys, images = jax.device_put((KEYS, jnp.asarray(IMAGES)), rows)
    found = mapped(name)(keys, images)
    assert len(found.sharding.device_set) == 8
    same(found, mapped(name)(KEYS, jnp.asarray(IMAGES)))


@every
def test_values_stay_in_the_unit_range_and_single_precision(name):
    extreme = jnp.asarray(IMAGES > 0.5, jnp.float32)
    found = mapped(name)(KEYS, extreme)
    assert found.dtype == "float32" and found.shape == extreme.shape
    assert found.min() >= 0 and found.max() <= 1
    assert jnp.any(found != 0)


# The draws of the two precisions differ, so that only fixed settings can be compared.
FIXED = {
    "affine": dict(degrees=(9, 9), shift=(0.1, 0.1), scale=(1.1, 1.1), shear=(5, 5)),
    "color_jitter": dict(
        brightness=(1.2, 1.2), contrast=(0.8, 0.8), saturation=(1.3, 1.3), hue=(0.1, 0.1)
    ),
    "gaussian_blur": dict(sigma=(0.7, 0.7)),
    "grayscale": dict(probability=1.0),
    "rotate": dict(degrees=(20, 20)),
}


@pytest.mark.parametrize("name", FIXED)
def test_single_precision_is_close_to_double(name):
    one = jax.jit(lambda x: SINGLE[name](KEYS[0], jnp.asarray(x), **FIXED[name]))
    same(one(IMAGE.astype("float32")), one(IMAGE), tolerance=1e-5)


@pytest.mark.parametrize("name", sorted(set(SINGLE) - {"identity", "sometimes"}))
def test_bytes_and_batches_are_refused(name, unchecked):
    with pytest.raises(
        ValueError, match=r"image=uint8\[4, 4, 3\]: accepted is floating-point numbers"
    ):
        SINGLE[name](KEYS[0], jnp.zeros((4, 4, 3), jnp.uint8))
    with pytest.raises(
        ValueError, match=r"image=float64\[2, 4, 4, 3\]: accepted is \[height, width"
    ):
        SINGLE[name](KEYS[0], jnp.zeros((2, 4, 4, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda k, x: augment.horizontal_flip(k, x, probability=1.5),
            "probability=1.5: accepted is 0 to 1",
        ),
        (lambda k, x: augment.grayscale(k, x, probability=-0.1), "probability=-0.1"),
        (
            lambda k, x: augment.padded_crop(k, x, padding=-1),
            "padding=-1: accepted is a whole number, 0",
        ),
        (lambda k, x: augment.resized_crop(k, x, area=(0.0, 1.0)), r"area=\(0.0, 1.0\)"),
        (lambda k, x: augment.resized_crop(k, x, aspect=(2.0, 1.0)), r"aspect=\(2.0, 1.0"),
        (lambda k, x: augment.color_jitter(k, x, contrast=(-1.0, 1.0)), r"contrast=\(-1.0, 1.0"),
        (lambda k, x: augment.color_jitter(k, x, hue=(-0.6, 0.0)), r"hue=\(-0.6, 0.0\)"),
        (
            lambda k, x: augment.color_jitter(k, x[..., :2]),
            r"image=.*\[12, 10, 2\]: accepted is 1 or 3 channels",
        ),
        (lambda k, x: augment.gaussian_blur(k, x, sigma=(0.0, 1.0)), r"sigma=\(0.0, 1.0\)"),
        (lambda k, x: augment.gaussian_blur(k, x, radius=10), "radius=10: accepted is 1 to 9"),
        (lambda k, x: augment.rotate(k, x, degrees=(5.0, np.inf)), r"degrees=\(5.0, inf\)"),
        (lambda k, x: augment.affine(k, x, scale=(0.0, 1.0)), r"scale=\(0.0, 1.0\)"),
        (lambda k, x: augment.affine(k, x, shear=(-90.0, 1.0)), r"shear=\(-90.0, 1.0\)"),
        (lambda k, x: augment.cutout(k, x, side=0), "side=0"),
        (lambda k, x: augment.cutout(k, x, fill=1.5), "fill=1.5"),
        (
            lambda k, x: augment.sometimes(augment.horizontal_flip, 2.0),
            "probability=2.0: accepted is 0 to 1",
        ),
        (
            lambda k, x: augment.simclr_view(k, x, strength=3.0),
            "strength=3.0: accepted is 0 to 2.5",
        ),
        (lambda k, x: augment.simclr_view(k, x, blur=2.0), "blur=2.0: accepted is 0 to 1"),
        (lambda k, x: augment.horizontal_flip(k, x, probability=np.nan), "probability=nan"),
        (lambda k, x: augment.rotate(k, x, degrees=(np.nan, 1.0)), r"degrees=\(nan, 1.0\)"),
        (lambda k, x: augment.mixup(k, x[None], jnp.ones((1, 3)), alpha=np.nan), "alpha=nan"),
        (lambda k, x: augment.rand_augment(k, x, count=1.5), "count=1.5: accepted is a whole"),
        (lambda k, x: augment.rand_augment(k, x, count=-1), "count=-1"),
        (lambda k, x: augment.rand_augment(k, x, magnitude=31), "magnitude=31"),
        (
            lambda k, x: augment.mixup(k, x[None][:0], jnp.ones((0, 3))),
            r"images=.*\[0, 12.*none of length 0",
        ),
        (
            lambda k, x: augment.mixup(k, x[None], jnp.ones((2, 3))),
            r"targets=float64\[2, 3\]: accepted is \[1, class\]",
        ),
        (lambda k, x: augment.mixup(k, x[None], jnp.ones((1, 3)), alpha=0.0), "alpha=0.0"),
        (
            lambda k, x: augment.cutmix(k, x[None], jnp.ones((1, 3), int)),
            r"targets=int64\[1, 3\]: accepted is floating",
        ),
        (
            lambda k, x: augment.cutmix(k, x, jnp.ones((1, 3))),
            r"images=float64\[12, 10, 3\]: accepted is \[row",
        ),
    ],
)
def test_bad_settings_are_named(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(KEYS[0], jnp.asarray(IMAGE))


# Mirror images and crops -----------------------------------------------------------------------


def test_flip_swaps_left_and_right_with_its_probability():
    pix = pytest.importorskip("dm_pix")
    image = jnp.asarray(IMAGE)
    same(
        augment.horizontal_flip(KEYS[0], image, probability=1.0),
        pix.flip_left_right(image),
        tolerance=0,
    )
    same(augment.horizontal_flip(KEYS[0], image, probability=0.0), image, tolerance=0)
    keys = jax.random.split(jax.random.key(1), 4000)
    flips = jax.vmap(
        lambda k: augment.horizontal_flip(k, image, probability=0.3)[0, 0, 0] != image[0, 0, 0]
    )
    # Six standard deviations of a share of 4000.
    assert abs(np.mean(np.asarray(flips(keys))) - 0.3) < 6 * np.sqrt(0.21 / 4000)


def test_padded_crop_takes_every_window_of_the_padded_image():
    keys = jax.random.split(jax.random.key(2), 400)
    crop = lambda k: augment.padded_crop(k, jnp.asarray(IMAGE), padding=1)
    padded = np.pad(IMAGE, ((1, 1), (1, 1), (0, 0)))
    windows = {padded[i : i + HEIGHT, j : j + WIDTH].tobytes() for i in range(3) for j in range(3)}
    assert {np.asarray(x).tobytes() for x in jax.vmap(crop)(keys)} == windows
    same(augment.padded_crop(KEYS[0], jnp.asarray(IMAGE), padding=0), IMAGE, tolerance=0)


def bilinear(box):
    """The box resized to the size of the image, by SciPy on coordinates clamped to it."""
    places = [
        np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        for n, m in zip((HEIGHT, WIDTH), box.shape, strict=False)
    ]
    grid = np.meshgrid(*places, indexing="ij")
    planes = [scipy.ndimage.map_coordinates(box[..., c], grid, order=1) for c in range(3)]
    return np.stack(planes, axis=-1)


def test_resized_crop_is_a_resized_box():
    share, aspect = 0.4, 1.2
    h = round(np.sqrt(share * HEIGHT * WIDTH / aspect))
    w = round(np.sqrt(share * HEIGHT * WIDTH * aspect))
    crop = functools.partial(augment.resized_crop, area=(share, share), aspect=(aspect, aspect))
    boxes = {
        (top, left): bilinear(IMAGE[top : top + h, left : left + w])
        for top in range(HEIGHT - h + 1)
        for left in range(WIDTH - w + 1)
    }
    keys = jax.random.split(jax.random.key(3), 150)
    places = set()
    for found in jax.vmap(lambda k: crop(k, jnp.asarray(IMAGE)))(keys):
        error = {place: np.abs(found - box).max() for place, box in boxes.items()}
        nearest = min(error, key=lambda place: error[place])
        assert error[nearest] < 1e-12
        places.add(nearest)
    assert {top for top, _ in places} == set(range(HEIGHT - h + 1))
    assert {left for _, left in places} == set(range(WIDTH - w + 1))


def test_resized_crop_keeps_to_its_ranges():
    # On a ramp, the values at the rim tell the box.
    n = 60
    ramp = np.broadcast_to(np.arange(n) / n, (n, n))
    image = jnp.asarray(np.stack([ramp.T, ramp], axis=-1))
    keys = jax.random.split(jax.random.key(4), 500)
    crop = jax.vmap(lambda k: augment.resized_crop(k, image, area=(0.3, 0.8)))
    found = np.asarray(crop(keys)) * n
    h, w = (np.ptp(found[..., c], axis=(1, 2)) + 1 for c in (0, 1))
    share, aspect = h * w / n**2, w / h
    # A box has whole pixels.
    assert 0.28 < share.min() < 0.33 and 0.77 < share.max() < 0.82
    assert 0.73 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.36
    assert abs(share.mean() - 0.55) < 0.04 and abs(np.log(aspect).mean()) < 0.05


def test_resized_crop_takes_the_centre_where_no_box_fits():
    image = jnp.asarray(IMAGE)
    found = augment.resized_crop(KEYS[0], image, area=(1.0, 1.0), aspect=(3.0, 3.0))
    h = round(WIDTH / 3)
    top = (HEIGHT - h) // 2
    same(found, bilinear(IMAGE[top : top + h]))


# Colors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [-0.37, 0.0, 0.1, 0.5])
def test_hue_is_that_of_colorsys_and_of_dm_pix(turn):
    pix = pytest.importorskip("dm_pix")
    image = np.concatenate([IMAGE, np.round(IMAGE), np.repeat(IMAGE[..., :1], 3, -1)])
    found = augment.color_jitter(KEYS[0], jnp.asarray(image), **{**NEUTRAL, "hue": (turn, turn)})
    expected = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*image[place])
        expected[place] = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
    same(found, expected)
    with jax.numpy_dtype_promotion("standard"):
        same(found, pix.adjust_hue(jnp.asarray(image), turn), tolerance=1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.7])
def test_brightness_contrast_and_saturation(factor):
    luma = IMAGE @ [0.2989, 0.587, 0.114]
    centres = {
        "brightness": 0,
        "contrast": luma.mean(),
        "saturation": luma[..., None],
    }
    for name, d in centres.items():
        settings = {**NEUTRAL, name: (factor, factor)}
        found = augment.color_jitter(KEYS[0], jnp.asarray(IMAGE), **settings)
        same(found, np.clip(d + factor * (IMAGE - d), 0, 1))


def test_jitter_does_nothing_at_probability_0_and_all_at_1():
    same(augment.color_jitter(KEYS[0], jnp.asarray(IMAGE), probability=0.0), IMAGE)
    changed = augment.color_jitter(KEYS[0], jnp.asarray(IMAGE))
    assert np.abs(changed - IMAGE).max() > 0.05
    one = augment.color_jitter(KEYS[0], jnp.asarray(IMAGE[..., :1]))
    assert one.shape == (HEIGHT, WIDTH, 1) and np.abs(one - IMAGE[..., :1]).max() > 0.01


def test_grayscale_is_that_of_dm_pix():
    pix = pytest.importorskip("dm_pix")
    image = jnp.asarray(IMAGE)
    expected = pix.rgb_to_grayscale(image, keep_dims=True)
    same(augment.grayscale(KEYS[0], image, probability=1.0), expected, tolerance=2e-4)
    same(gray(image), (IMAGE @ [0.2989, 0.587, 0.114])[..., None])
    same(augment.grayscale(KEYS[0], image, probability=0.0), image, tolerance=0)


@pytest.mark.parametrize(("sigma", "radius"), [(0.4, 1), (1.3, 3)])
def test_blur_is_that_of_scipy_and_inside_that_of_dm_pix(sigma, radius):
    pix = pytest.importorskip("dm_pix")
    blur = functools.partial(augment.gaussian_blur, sigma=(sigma, sigma), radius=radius)
    weight = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    expected = IMAGE
    for axis in (0, 1):
        expected = scipy.ndimage.convolve1d(
            expected, weight / weight.sum(), axis=axis, mode="mirror"
        )
    found = blur(KEYS[0], jnp.asarray(IMAGE))
    same(found, expected)
    with jax.numpy_dtype_promotion("standard"):
        peer = pix.gaussian_blur(jnp.asarray(IMAGE, jnp.float32), sigma, 2 * radius + 1)
    inside = slice(radius, -radius)
    same(found[inside, inside], peer[inside, inside], tolerance=1e-6)


# Rotations and affine maps ---------------------------------------------------------------------


def scipy_affine(inverse, offset):
    """`affine_map` by SciPy: places from the centre, zeros outside."""
    middle = (np.array([HEIGHT, WIDTH]) - 1) / 2
    shift = middle + offset - inverse @ middle
    one = functools.partial(
        scipy.ndimage.affine_transform, matrix=inverse, offset=shift, order=1, mode="grid-constant"
    )
    return np.stack([one(IMAGE[..., c]) for c in range(3)], axis=-1)


@pytest.mark.parametrize("degrees", [-200.0, 30.0, 90.0])
def test_rotation_is_that_of_scipy(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    found = augment.rotate(KEYS[0], jnp.asarray(IMAGE), degrees=(degrees, degrees))
    same(found, scipy_affine(np.array([[c, s], [-s, c]]), 0))


def test_a_quarter_turn_is_counter_clockwise():
    square = jnp.asarray(IMAGE[:WIDTH])
    found = augment.rotate(KEYS[0], square, degrees=(90, 90))
    same(found, np.rot90(IMAGE[:WIDTH]))


def test_rotation_is_that_of_dm_pix_inside():
    pix = pytest.importorskip("dm_pix")
    found = augment.rotate(KEYS[0], jnp.asarray(IMAGE), degrees=(25, 25))
    with jax.numpy_dtype_promotion("standard"):
        turned = functools.partial(pix.rotate, angle=np.radians(25), order=1, mode="constant")
        peer = turned(jnp.asarray(IMAGE))
        inside = turned(jnp.ones(IMAGE.shape)) > 1 - 1e-9
    assert inside.sum() > 150
    same(np.where(inside, found, 0), np.where(inside, peer, 0), tolerance=1e-6)


@pytest.mark.parametrize(
    "settings",
    [dict(degrees=20.0), dict(scale=1.3), dict(shear=25.0), dict(degrees=-40, scale=0.7, shear=9)],
)
def test_affine_inverts_rotation_after_scale_after_shear(settings):
    ranges = {name: (value, value) for name, value in settings.items()}
    found = augment.affine(KEYS[0], jnp.asarray(IMAGE), **{**STILL, **ranges})
    c, s = (f(np.radians(settings.get("degrees", 0))) for f in (np.cos, np.sin))
    tangent = np.tan(np.radians(settings.get("shear", 0)))
    # Rows run down: up and to the right is one row less and some columns more.
    forward = (
        np.array([[c, -s], [s, c]]) * settings.get("scale", 1) @ np.array([[1, 0], [-tangent, 1]])
    )
    same(found, scipy_affine(np.linalg.inv(forward), 0))


def test_affine_moves_by_shares_of_the_image_within_the_range():
    found = augment.affine(KEYS[0], jnp.asarray(IMAGE), **{**STILL, "shift": (0.5, 0.5)})
    expected = np.zeros_like(IMAGE)
    expected[HEIGHT // 2 :, WIDTH // 2 :] = IMAGE[: HEIGHT // 2, : WIDTH // 2]
    same(found, expected)


# Pieces and mixtures ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", [3, 4])
def test_cutout_fills_one_square_anywhere(side):
    keys = jax.random.split(jax.random.key(5), 400)
    cut = jax.vmap(lambda k: augment.cutout(k, jnp.asarray(IMAGE), side=side, fill=0.25))
    found = np.asarray(cut(keys))
    filled = (found == 0.25).all(axis=-1)
    same(found, np.where(filled[..., None], 0.25, IMAGE), tolerance=0)
    rows, columns = filled.any(axis=2), filled.any(axis=1)
    np.testing.assert_array_equal(filled, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(axis=1).max() == columns.sum(axis=1).max() == side
    centres = (np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None, :])
    assert len(np.unique(filled, axis=0)) > 0.9 * np.broadcast(*centres).size


BATCH = np.random.default_rng(1).uniform(size=(6, HEIGHT, WIDTH, 3))
ONE_HOT = np.eye(6)


def partners(targets):
    """The other row of each, and its share: with six classes the targets tell both."""
    own = np.diag(targets)
    rest = targets - np.diag(own)
    other = np.where(own > 1 - 1e-12, np.arange(6), rest.argmax(axis=1))
    return other, np.where(own > 1 - 1e-12, 0, rest.max(axis=1))


@pytest.mark.parametrize("seed", range(3))
def test_mixup_mixes_images_as_targets(seed):
    images, targets = augment.mixup(jax.random.key(seed), jnp.asarray(BATCH), jnp.asarray(ONE_HOT))
    other, share = partners(np.asarray(targets))
    assert sorted(other) == list(range(6)) and (other != np.arange(6)).any()
    share = share[:, None, None, None]
    same(images, (1 - share) * BATCH + share * BATCH[other])
    same(np.sum(targets, axis=1), 1)


def test_mixup_draws_its_share_from_the_beta_distribution():
    keys = jax.random.split(jax.random.key(6), 2000)
    images, targets = jnp.asarray(BATCH[:2, :1, :1]), jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    found = jax.vmap(lambda k: augment.mixup(k, images, targets, alpha=2.0)[1][0, 0])(keys)
    mixed = np.asarray(found[found < 1])
    # Mean 1/2 and variance 1 / (4 (2 alpha + 1)) of Beta(alpha, alpha).
    assert abs(mixed.mean() - 1 / 2) < 0.04 and abs(mixed.var() - 1 / 20) < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_cutmix_takes_the_share_of_its_box(seed):
    images, targets = augment.cutmix(jax.random.key(seed), jnp.asarray(BATCH), jnp.asarray(ONE_HOT))
    other, share = partners(np.asarray(targets))
    assert sorted(other) == list(range(6))
    moved = np.argmax(other != np.arange(6))
    box = (np.asarray(images)[moved] != BATCH[moved]).all(axis=-1)
    assert 0 < box.sum() < box.size
    np.testing.assert_array_equal(box, box.any(1)[:, None] & box.any(0)[None, :])
    same(images, np.where(box[..., None], BATCH[other], BATCH), tolerance=0)
    same(share[moved], box.mean())
    same(np.sum(targets, axis=1), 1)


@pytest.mark.parametrize("mix", [augment.mixup, augment.cutmix])
def test_mixtures_of_batches_spread_over_devices(mix):
    arrays = KEYS[:8], jnp.asarray(np.stack([BATCH] * 8)), jnp.asarray(np.stack([ONE_HOT] * 8))
    spread = jax.jit(jax.vmap(mix))(*jax.device_put(arrays, NamedSharding(data_mesh(), P("data"))))
    for row in (2, 7):
        for far, near in zip(spread, mix(*(a[row] for a in arrays)), strict=True):
            same(far[row], near)


# RandAugment and compositions ------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=1)
def operation(number, share, sign, image):
    return operate(image, number, sign, share)


def applied(name, share, sign=1.0, image=IMAGE):
    number = jnp.asarray(OPERATIONS.index(name))
    return np.asarray(operation(number, share, jnp.asarray(sign), jnp.asarray(image)))


def test_operations_that_torchvision_has():
    functional = pytest.importorskip("torchvision.transforms.functional")
    torch = pytest.importorskip("torch")
    x = torch.tensor(IMAGE.transpose(2, 0, 1))
    back = lambda y: y.numpy().transpose(1, 2, 0)
    share, sign = 0.57, -1.0
    factor = 1 + 0.9 * share * sign
    lean = float(np.degrees(np.arctan(0.3 * share * sign)))
    affine = lambda **k: functional.affine(
        x, **{**dict(angle=0.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0]), **k}
    )
    down, right = (int(150 / 331 * share * n * sign) for n in (HEIGHT, WIDTH))
    expected = {
        "identity": x,
        "shear_x": affine(shear=[lean, 0.0]),
        "shear_y": affine(shear=[0.0, lean]),
        "translate_x": affine(translate=[right, 0]),
        "translate_y": affine(translate=[0, down]),
        "rotate": functional.rotate(x, 30 * share * sign),
        "brightness": functional.adjust_brightness(x, factor),
        "color": functional.adjust_saturation(x, factor),
        "contrast": functional.adjust_contrast(x, factor),
        "sharpness": functional.adjust_sharpness(x, factor),
        "solarize": functional.solarize(x, 1 - share),
        "autocontrast": functional.autocontrast(x),
    }
    assert set(expected) == set(OPERATIONS) - {"posterize"}
    for name, y in expected.items():
        # torchvision samples with float32 places: a tie may fall on the other pixel.
        wrong = np.abs(applied(name, share, sign) - back(y)).max(axis=-1) > 2e-4
        assert wrong.mean() < 0.02, name


def test_posterize_keeps_the_highest_bits():
    bits = 8 - round(4 * 0.6)
    byte = np.arange(256).reshape(16, 16, 1)
    # Bytes as the middle of their interval.
    found = applied("posterize", 0.6, image=(byte + 0.5) / 256)
    same(found, (byte & ~(2 ** (8 - bits) - 1)) / 256)


def test_every_operation_is_drawn_alike():
    image = jnp.asarray(IMAGE)
    keys = jax.random.split(jax.random.key(7), 1500)
    found = np.asarray(
        jax.vmap(lambda k: rand_augment_function(k, image, count=1, magnitude=20))(keys)
    )
    total = 0
    for name in OPERATIONS:
        is_one = lambda sign: np.abs(found - applied(name, 20 / 30, sign)).max((1, 2, 3)) < 1e-12  # noqa: B023
        hits = (is_one(1.0) | is_one(-1.0)).sum()
        assert abs(hits - 1500 / 13) < 6 * np.sqrt(1500 / 13), name
        total += hits
    assert total == 1500


def test_no_operation_is_the_image():
    same(rand_augment_function(KEYS[0], jnp.asarray(IMAGE), count=0), IMAGE, tolerance=0)


def test_compose_gives_each_its_own_key_in_order():
    image = jnp.asarray(IMAGE)
    both = augment.compose(augment.padded_crop, augment.cutout)(KEYS[0], image)
    first = augment.padded_crop(jax.random.fold_in(KEYS[0], 0), image)
    same(both, augment.cutout(jax.random.fold_in(KEYS[0], 1), first), tolerance=0)
    same(augment.compose()(KEYS[0], image), image, tolerance=0)


def test_simclr_without_color_is_crop_and_flip():
    image = jnp.asarray(np.repeat(IMAGE[..., :1], 3, axis=-1))
    found = augment.simclr_view(KEYS[3], image, strength=0.0)
    expected = augment.compose(
        functools.partial(augment.resized_crop, area=(0.08, 1.0)), augment.horizontal_flip
    )(KEYS[3], image)
    # Gray stays gray: 0.9999 is the sum of the weights of luma.
    same(found, expected, tolerance=2e-4)


def test_affine_map_of_the_identity_is_the_image():
    image = jnp.asarray(IMAGE)
    still = affine_map(image, rotation(jnp.asarray(0.0)), jnp.zeros(2))
    same(still, image, tolerance=1e-15)
