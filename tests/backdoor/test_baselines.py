"""Baselines against closed cases, and numpy and scikit-learn re-implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from jaxml.backdoor import baselines

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(7, 8, 8, 3))
LEVELS = np.arange(1, 4)


def two_clouds(classes=3, rows=60, poisoned=12, width=20, seed=0):
    """Return features, labels and flags: in class 0 a far second cloud, shuffled rows."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), rows)
    features = rng.normal(size=(classes * rows, width)) + 5 * labels[:, None]
    flags = np.arange(classes * rows) < poisoned
    features[flags] += 4
    order = rng.permutation(len(labels))
    return features[order], labels[order], flags[order]


FEATURES, CLASSES, FLAGS = two_clouds()


def linear_logits(images):
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(192, 4)), images.dtype)
    return images.reshape(len(images), -1) @ weight


def amplified(level, images):
    return linear_logits(images) * level.astype(images.dtype)


def test_strip_is_minus_the_entropy_of_a_constant_network():
    p = np.array([0.7, 0.2, 0.1])
    constant = lambda x: jnp.broadcast_to(jnp.log(jnp.asarray(p)), (len(x), 3))
    found = baselines.strip(KEY, constant, jnp.asarray(IMAGES), blends=2, batch_size=3)
    np.testing.assert_allclose(found, -stats.entropy(p))


def test_strip_blends_each_of_two_rows_with_the_other():
    images = jnp.asarray(IMAGES[:2])
    found = baselines.strip(KEY, linear_logits, images, blends=3, weight=0.25)
    blend = 0.75 * IMAGES[:2] + 0.25 * IMAGES[1::-1]
    p = np.exp(np.asarray(jax.nn.log_softmax(linear_logits(jnp.asarray(blend)))))
    np.testing.assert_allclose(found, -stats.entropy(p, axis=1))


def test_strip_sees_a_trigger_that_survives_blending():
    """Logits are 20 times the brightest corner pixel for class 0 and pixel noise for the rest."""
    images = RNG.uniform(0, 0.5, size=(40, 8, 8, 3))
    images[:4, 0, 0] = 1
    logits = lambda x: linear_logits(x).at[:, 0].add(40 * jnp.maximum(x[:, 0, 0, 0] - 0.5, 0) * 5)
    found = baselines.strip(KEY, logits, jnp.asarray(images))
    assert np.min(found[:4]) > np.max(found[4:])


def test_abl_is_minus_the_mean_early_loss():
    losses = RNG.uniform(size=(3, 5))
    np.testing.assert_allclose(baselines.abl(jnp.asarray(losses)), -losses.mean(0))
    np.testing.assert_allclose(baselines.abl(jnp.asarray(losses[0])), -losses[0])


def test_abl_loss_descends_above_gamma_and_ascends_below():
    loss = jnp.asarray([0.2, 0.5, 2.0])
    np.testing.assert_allclose(baselines.abl_loss(loss), [-0.2, 0, 2])
    slope = jax.grad(lambda x: jnp.sum(baselines.abl_loss(x)))(loss)
    np.testing.assert_allclose(slope, [-1, 0, 1])


def test_sd_fct_of_pixels_is_the_distance_to_scipys_rotation():
    flat = lambda x: x.reshape(len(x), -1)
    found = baselines.sd_fct(KEY, flat, jnp.asarray(IMAGES), batch_size=3)
    limit = np.pi
    angle = np.asarray(jax.random.uniform(KEY, (7,), float, minval=-limit, maxval=limit))
    for score, image, a in zip(found, IMAGES, angle, strict=True):
        matrix = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        offset = 3.5 - matrix @ [3.5, 3.5]
        rotate = lambda p, m=matrix, o=offset: ndimage.affine_transform(
            p, m, o, order=1, mode="grid-constant"
        )
        turned = np.stack([rotate(image[..., c]) for c in range(3)], -1)
        np.testing.assert_allclose(score, np.sum((turned - image) ** 2), rtol=1e-9)


def test_sd_fct_is_0_without_rotation():
    found = baselines.sd_fct(KEY, linear_logits, jnp.asarray(IMAGES), degrees=0.0)
    np.testing.assert_allclose(found, 0, atol=1e-20)


def test_spectral_signature_equals_numpys_svd():
    found = baselines.spectral_signature(jnp.asarray(FEATURES), jnp.asarray(CLASSES), classes=3)
    for label in range(3):
        rows = FEATURES[CLASSES == label]
        rows = rows - rows.mean(0)
        top = np.linalg.svd(rows, full_matrices=False)[2][0]
        np.testing.assert_allclose(found[CLASSES == label], (rows @ top) ** 2, rtol=1e-8)


def test_activation_clustering_equals_sklearns_pca_and_two_means():
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    found = baselines.activation_clustering(
        jnp.asarray(FEATURES), jnp.asarray(CLASSES), classes=3, components=5, iterations=100
    )
    member = CLASSES == 0
    rows = PCA(5).fit_transform(FEATURES[member])
    clusters = KMeans(2, n_init=10, random_state=0).fit(rows)
    smaller = np.argmin(np.bincount(clusters.labels_))
    distance = clusters.transform(rows)
    near, far = distance.min(1), distance.max(1)
    silhouette = np.mean(1 - near / far)
    to_smaller, to_larger = distance[:, smaller], distance[:, 1 - smaller]
    expected = silhouette * (to_larger - to_smaller) / (to_larger + to_smaller)
    np.testing.assert_allclose(found[member], expected, rtol=1e-6)
    assert np.min(found[FLAGS]) > np.max(found[~FLAGS])


@pytest.mark.parametrize("score", ["activation_clustering", "spectral_signature"])
def test_classes_without_rows_or_with_one_row_score_finitely(score):
    features = jnp.asarray(FEATURES[:4])
    found = getattr(baselines, score)(features, jnp.asarray([0, 0, 0, 3]), classes=5)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[3], 0, atol=1e-12)


def test_cognitive_distillation_keeps_the_pixel_that_a_linear_network_reads():
    """A network of one pixel keeps a mask that one of no pixel loses."""
    images = jnp.asarray(IMAGES[:2])
    logits = lambda x: 50 * x[:, 3, 3, :2]
    score = lambda logits: baselines.cognitive_distillation(KEY, logits, images, tv=0.0, steps=60)
    reading, blind = score(logits), score(lambda x: 0 * logits(x))
    np.testing.assert_allclose(blind, 0, atol=0.1)
    np.testing.assert_allclose(reading - blind, -1, atol=0.2)


def test_cognitive_distillation_of_a_constant_network_only_shrinks_the_mask():
    """With no data term and no variation each theta follows the same Adam on l1 (1 - t^2) / 2."""
    constant = lambda x: 0 * x[:, 0, 0, :2]
    images = jnp.asarray(IMAGES[:2])
    found = baselines.cognitive_distillation(KEY, constant, images, steps=5)
    theta, m, v = 1.0, 0.0, 0.0
    for t in range(1, 6):
        g = 0.01 * (1 - np.tanh(theta) ** 2) / 2
        m, v = 0.1 * m + 0.9 * g, 0.1 * v + 0.9 * g * g
        theta -= 0.1 * (m / (1 - 0.1**t)) / (np.sqrt(v / (1 - 0.1**t)) + 1e-8)
    np.testing.assert_allclose(found, -64 * (np.tanh(theta) + 1) / 2, rtol=1e-6)


def test_ibd_psc_is_the_mean_probability_of_the_own_choice():
    images = jnp.asarray(IMAGES)
    found = baselines.ibd_psc(linear_logits, amplified, images, jnp.asarray(LEVELS), batch_size=3)
    logits = np.asarray(linear_logits(images))
    # Amplified without a change of order, the chosen class is the likeliest one.
    p = [np.exp(k * logits).max(1) / np.exp(k * logits).sum(1) for k in LEVELS]
    np.testing.assert_allclose(found, np.mean(p, axis=0), rtol=1e-9)


@pytest.mark.parametrize("error, level", [(0.0, 2), (0.5, 3), (1.0, 3)])
def test_ibd_psc_level_is_the_first_with_too_many_errors(error, level):
    """At level 1 all rows are right, at level 2 a third is wrong, at level 3 all are."""
    images, labels = jnp.asarray(IMAGES[:6]), jnp.zeros(6, int)
    wrong = jnp.asarray([0, 0, 2, 6])
    logits = lambda level, x: jax.nn.one_hot((jnp.arange(len(x)) < wrong[level]).astype(int), 2)
    levels = jnp.asarray(LEVELS)
    assert baselines.ibd_psc_level(logits, images, labels, levels, error=error) == level


def test_activation_likelihood_is_scipys_smallest_log_density():
    activations, mean, variance = RNG.normal(size=(4, 3, 2, 5)), RNG.normal(size=5), np.arange(1, 6)
    found = baselines.activation_likelihood(
        jnp.asarray(activations), jnp.asarray(mean), jnp.asarray(variance, float)
    )
    expected = stats.norm(mean, np.sqrt(variance)).logpdf(activations).min((1, 2, 3))
    np.testing.assert_allclose(found, expected)


def test_flare_with_all_rows_is_the_mahalanobis_distance():
    rows = RNG.normal(size=(300, 4)) @ RNG.normal(size=(4, 4))
    found = baselines.flare(jnp.asarray(rows), share=1.0)
    scale = np.median(np.abs(rows - np.median(rows, 0)), 0)
    z = (rows - rows.mean(0)) / scale
    covariance = z.T @ z / 300 + 1e-3 * np.eye(4)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", z, np.linalg.inv(covariance), z))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_flare_ranks_a_small_cluster_above_the_large_one():
    rows = RNG.normal(size=(300, 5))
    rows[:60] += 8
    found = baselines.flare(jnp.asarray(rows))
    assert np.min(found[:60]) > np.max(found[60:])


CALLS = {
    "abl": lambda x: baselines.abl(x[:, 0, 0, 0]),
    "activation_clustering": lambda x: baselines.activation_clustering(
        x[:, :, 0, 0], jnp.arange(len(x)) % 2, classes=2, components=3
    ),
    "cognitive_distillation": lambda x: baselines.cognitive_distillation(
        KEY, linear_logits, x, steps=2
    ),
    "flare": lambda x: baselines.flare(x[:, :3, 0, 0]),
    "ibd_psc": lambda x: baselines.ibd_psc(linear_logits, amplified, x, jnp.asarray(LEVELS)),
    "sd_fct": lambda x: baselines.sd_fct(KEY, linear_logits, x),
    "spectral_signature": lambda x: baselines.spectral_signature(
        x[:, :, 0, 0], jnp.arange(len(x)) % 2, classes=2
    ),
    "strip": lambda x: baselines.strip(KEY, linear_logits, x, blends=2),
}


@pytest.mark.parametrize("name", CALLS)
def test_jit_vmap_and_float32(name):
    batch = jnp.asarray(np.stack([IMAGES, IMAGES[::-1]]))
    found = jax.jit(jax.vmap(CALLS[name]))(batch)
    np.testing.assert_allclose(found[1], CALLS[name](batch[1]), rtol=1e-7, atol=1e-10)
    assert jax.eval_shape(CALLS[name], batch[0].astype("float32")).dtype == "float32"


BAD = {
    r"images=float64\[3, 4\]: accepted is \[row, height": lambda: baselines.strip(
        KEY, linear_logits, jnp.ones((3, 4))
    ),
    "images=int.*: accepted is floating-point": lambda: baselines.strip(
        KEY, linear_logits, jnp.ones((3, 4, 4, 1), int)
    ),
    r"images=float64\[1, .*: accepted is 2 rows": lambda: baselines.strip(
        KEY, linear_logits, jnp.ones((1, 4, 4, 1))
    ),
    "weight=2": lambda: baselines.strip(KEY, linear_logits, jnp.asarray(IMAGES), weight=2.0),
    "blends=0": lambda: baselines.strip(KEY, linear_logits, jnp.asarray(IMAGES), blends=0),
    r"losses=float64\[2, 2, 2\]: accepted is \[row\] or": lambda: baselines.abl(
        jnp.ones((2, 2, 2))
    ),
    "gamma=-1": lambda: baselines.abl_loss(jnp.ones(2), gamma=-1.0),
    "gamma=nan": lambda: baselines.abl_loss(jnp.ones(2), gamma=np.nan),
    "degrees=200": lambda: baselines.sd_fct(KEY, linear_logits, jnp.asarray(IMAGES), degrees=200.0),
    "features=.* with NaN or infinity: accepted is finite": lambda: baselines.spectral_signature(
        jnp.full((2, 2), jnp.nan), jnp.zeros(2, int)
    ),
    "labels=.* with values from 0 to 3: accepted is 0 to 2": lambda: baselines.spectral_signature(
        jnp.ones((2, 2)), jnp.asarray([0, 3]), classes=3
    ),
    r"labels=int64\[3\]: accepted is integers \[2\]": lambda: baselines.activation_clustering(
        jnp.ones((2, 2)), jnp.zeros(3, int), components=1
    ),
    "components=3": lambda: baselines.activation_clustering(
        jnp.ones((2, 2)), jnp.zeros(2, int), components=3
    ),
    "l1=-1": lambda: baselines.cognitive_distillation(
        KEY, linear_logits, jnp.asarray(IMAGES), l1=-1.0
    ),
    "levels=float": lambda: baselines.ibd_psc(
        linear_logits, amplified, jnp.asarray(IMAGES), jnp.ones(2)
    ),
    **{
        f"{name}=nan": lambda name=name: baselines.cognitive_distillation(
            KEY, linear_logits, jnp.asarray(IMAGES), **{name: np.nan}
        )
        for name in ("learning_rate", "l1", "tv")
    },
    "labels=.* with negative numbers: accepted is 0 or more": lambda: baselines.ibd_psc_level(
        amplified, jnp.asarray(IMAGES), jnp.arange(7) - 1, jnp.asarray(LEVELS)
    ),
    "error=2": lambda: baselines.ibd_psc_level(
        amplified, jnp.asarray(IMAGES), jnp.zeros(7, int), jnp.asarray(LEVELS), error=2.0
    ),
    r"variance=float64\[2\]: accepted is \[3\]": lambda: baselines.activation_likelihood(
        jnp.ones((2, 3)), jnp.ones(3), jnp.ones(2)
    ),
    "share=0": lambda: baselines.flare(jnp.ones((3, 2)), share=0.0),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message, unchecked):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
