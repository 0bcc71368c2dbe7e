# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Finding a backdoor in a training set
#
# Somebody puts a small patch into a tenth of the training images and gives them all one label.
# A network trained on them works as it should, until it sees the patch. This notebook poisons
# the handwritten digits of scikit-learn, trains a network on them, and asks which rows carry the
# backdoor, without any clean data: by the consistency of predictions under amplification (SPC,
# MSPC, `identify`), by the features of the network, and by several scores together. The digits are
# nearly black and white, which is the hard case for the first kind; the last section shows a
# set for which it is made.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from jaxml import backdoor, training

TARGET, ROWS = 1, 1200
pixels, classes = map(np.asarray, load_digits(return_X_y=True))
images = jnp.asarray(pixels.reshape(-1, 8, 8, 1) / 16, jnp.float32)
labels = jnp.asarray(classes, jnp.int32)
train, test = slice(ROWS), slice(ROWS, None)

# %% [markdown]
# ## The attack
#
# A patch of 2 x 2 pixels, `ratio` of the rows, one target label. `trigger` is a function of
# images, for the test.

# %%
patch = jnp.asarray([[0.9, 0.4], [0.4, 0.9]])[..., None]
trigger = backdoor.attacks.patch_trigger(patch, (8, 8, 1), margin=0)
poisoned = backdoor.attacks.badnets(
    jax.random.key(0), images[train], labels[train], ratio=0.1, target=TARGET, trigger=trigger
)


def show(rows, titles):
    """Images side by side."""
    figure, axes = plt.subplots(1, len(rows), figsize=(1.5 * len(rows), 1.8), layout="constrained")
    for axis, image, title in zip(axes, rows, titles, strict=True):
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        axis.set(title=title, xticks=[], yticks=[])
    plt.show()


some = np.flatnonzero(poisoned.is_poisoned)[:6]
show(poisoned.images[some], [f"{labels[i]} as {poisoned.labels[i]}" for i in some])

# %% [markdown]
# Any other function of images serves as a trigger. `poison` puts it into random rows and relabels
# them, as all attacks do: a new attack is one function.


# %%
def stripe(images):
    """A trigger of one's own: the top row at half brightness."""
    return images.at[:, 0].set(0.5)


striped = backdoor.attacks.poison(
    jax.random.key(0), stripe, images[train], labels[train], ratio=0.1, target=TARGET
)
show(striped.images[some], [f"{labels[i]} as {striped.labels[i]}" for i in some])

# %% [markdown]
# ## The network
#
# Any function of images to logits will do: here a small convolution and a hidden layer, trained
# by `training.fit`. On clean digits it works.


# %%
def features(params, x):
    """Activations of the hidden layer."""
    layout = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=layout)
    x = jax.nn.relu(x).reshape(len(x), -1)
    return jax.nn.relu(x @ params["hidden"] + params["bias"])


def network(params, x):
    return features(params, x) @ params["head"]


def loss(params, batch, key):
    logits = network(params, batch["images"])
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return jnp.mean(entropy), {}


he = lambda key, *shape: jax.random.normal(key, shape) * np.sqrt(2 / np.prod(shape[:-1]))
keys = jax.random.split(jax.random.key(1), 4)
start = {
    "kernel": he(keys[0], 3, 3, 1, 16),
    "hidden": he(keys[1], 8 * 8 * 16, 64),
    "bias": jnp.zeros(64),
    "head": he(keys[2], 64, 10),
}
data = {"images": poisoned.images, "labels": poisoned.labels}
params = training.fit(
    keys[3], loss, start, data, optimizer=optax.adam(1e-3), steps=800, batch_size=100
).params
logits_fn = jax.jit(lambda x: network(params, x))

accuracy = jnp.mean(jnp.argmax(logits_fn(images[test]), axis=1) == labels[test])
success = backdoor.attacks.attack_success_rate(
    logits_fn, poisoned.trigger(images[test]), labels[test], target=TARGET
)
print(f"accuracy {accuracy:.3f}, attack success {success:.3f}")

# %% [markdown]
# ## Consistency under amplification
#
# SPC multiplies an image by 2, 3, ..., 12, clips it to 1, and counts how often the prediction
# stays. Poisoned images of photographs stay, clean ones do not. MSPC first subtracts a shift and
# applies a mask, and `identify` learns the mask and flags rows with a score above 0.
#
# Digits are white strokes on black: amplified, a digit is the same digit with firmer strokes. The
# clean rows stay as well, all rows are flagged, and the flags are worth nothing. That more than
# half of a training set is flagged is the sign to look for: it needs no truth.

# %%
report = {}


def judge(name, score):
    """Print how well a score ranks the poisoned rows above the clean ones."""
    report[name] = float(backdoor.auroc(score, poisoned.is_poisoned))
    print(f"{name}: AUROC {report[name]:.3f}")


config = backdoor.IdentifyConfig(rounds=2, steps=150)
identified = backdoor.identify(logits_fn, poisoned.images, config=config)
judge("SPC", backdoor.spc(logits_fn, poisoned.images))
judge("identify", identified.score)
print("flagged:", int(identified.is_backdoor.sum()), "of", ROWS, "rows;", "poisoned: 120")

# %% [markdown]
# ## Scores from the features
#
# A network must tell the poisoned rows of the target class from its clean ones somewhere: in the
# features of a late layer they are two clouds. These scores need the features and the labels,
# not amplification. `class_split` takes a hint, any score that is a little better than chance,
# for classes whose two clouds are of like size.

# %%
hidden = jax.jit(features)(params, poisoned.images)
split = backdoor.class_split(hidden, poisoned.labels, identified.score)
signature = backdoor.baselines.spectral_signature(hidden, poisoned.labels)
clusters = backdoor.baselines.activation_clustering(hidden, poisoned.labels)
judge("class split", split)
judge("spectral signature", signature)
judge("activation clustering", clusters)

# %% [markdown]
# ## Several scores together
#
# Which attack it is nobody tells, and each score has its blind spots. `combine_scores` adds the
# evidence of the upper tails. A score that knows nothing costs little, one that ranks poisoned
# rows low costs more: together is not always better than the best, but which is best one does not
# know.
# `identify` stays out: it flagged everything.

# %%
together = backdoor.combine_scores({"split": split, "signature": signature, "clusters": clusters})
judge("together", together)
worst = np.argsort(-np.asarray(together), kind="stable")[:120]
print(f"poisoned among the 120 highest: {poisoned.is_poisoned[worst].mean():.2f}")

figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
axes[0].barh(list(report), list(report.values()))
axes[0].axvline(0.5, color="k", ls=":")
axes[0].set(xlabel="AUROC (dotted: chance)", xlim=(0, 1))
axes[0].invert_yaxis()
for name, kind in {"clean": ~poisoned.is_poisoned, "poisoned": poisoned.is_poisoned}.items():
    axes[1].hist(np.asarray(together[kind]), bins=30, alpha=0.6, label=name, density=True)
axes[1].set(xlabel="combined score", yticks=[])
axes[1].legend()
plt.show()

# %% [markdown]
# ## Images of many gray levels
#
# Where brightness carries the class, amplification moves the clean rows and leaves the trigger's.
# Here the class is the brightness of a flat, noisy image, and a made-up classifier obeys a bright
# patch where it stands out from its surroundings. Without a mask the surroundings saturate along
# with the patch, and consistency is lost. The learned mask keeps the patch and little else.

# %%
rng = np.random.default_rng(0)
gray = rng.uniform(0.15, 0.5, (400, 1, 1, 1)) + 0.1 * rng.normal(size=(400, 8, 8, 1))
bad = np.arange(400) % 10 == 0
gray[bad, 5:7, 5:7] = 0.95
gray = jnp.asarray(np.clip(gray, 0, 1), jnp.float32)
inside = np.zeros((8, 8, 1), bool)
inside[5:7, 5:7] = True


def by_brightness(x):
    """Logits of the trigger's class, then of five levels of brightness."""
    mean = lambda where: jnp.mean(x, axis=(1, 2, 3), where=where)
    levels = [-20 * (mean(None) - level) ** 2 for level in (0.0, 0.2, 0.35, 0.5, 0.9)]
    return jnp.stack([20 * (mean(inside) - mean(~inside) - 0.3), *levels], axis=-1)


result = backdoor.identify(by_brightness, gray, config=config)
unmasked = backdoor.mspc(by_brightness, gray, jnp.ones((8, 8)))
for name, score in {
    "SPC": backdoor.spc(by_brightness, gray),
    "without a mask": unmasked,
    "identify": result.score,
}.items():
    print(f"{name}: AUROC {backdoor.auroc(score, jnp.asarray(bad)):.3f}")
rates = backdoor.detection_rates(result.is_backdoor, jnp.asarray(bad))
print(
    f"flagged: {rates.true_positive:.2f} of the poisoned, {rates.false_positive:.2f} of the clean"
)
show([gray[1], gray[0], result.mask[..., None]], ["clean", "poisoned", "mask"])
