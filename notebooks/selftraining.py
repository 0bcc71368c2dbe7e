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
# # Self-training that loses a backdoor
#
# Somebody poisoned a labelled set: a faint pattern in some of the images, and one label for all
# of these. There are more images without labels. A network trained on the labelled ones, the
# teacher, labels the rest, and a student learns from all of them. Does it obey the pattern?
# It does, if the labels are taken as they come. It does not, if the teacher labels augmented
# views: an augmentation that is strong enough to break the pattern, and proper, which means that
# the class survives. The digits of scikit-learn serve as images.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from jaxml import augment, backdoor, selftraining, training

TARGET = 1
pixels, classes = map(np.asarray, load_digits(return_X_y=True))
rng = np.random.default_rng(0)
# Like photographs, they get 16 pixels a side, a background of some brightness, and noise.
large = np.kron(pixels.reshape(-1, 8, 8) / 16, np.ones((2, 2)))
background = rng.uniform(0.1, 0.4, (len(large), 1, 1))
seen = background + 0.5 * large + 0.05 * rng.normal(size=large.shape)
images = jnp.asarray(np.clip(seen, 0, 1)[..., None], jnp.float32)
labels = jnp.asarray(classes, jnp.int32)
train, held_out, pool, test = slice(700), slice(700, 900), slice(900, 1400), slice(1400, None)

# %% [markdown]
# ## The attack

# %%
noise = backdoor.attacks.noise(jax.random.key(7), (16, 16, 1))
trigger = backdoor.attacks.blend_trigger(noise, alpha=0.2)
poisoned = backdoor.attacks.blend(
    jax.random.key(0), images[:900], labels[:900], ratio=0.15, target=TARGET, trigger=trigger
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
# ## A network, and how it is trained
#
# `self_train` asks for one function: of a key, images, targets `[row, class]` and weights to a
# network, here a small convolution and a hidden layer. A network is a function of images to
# logits; as a `Partial` of its parameters it needs no new compilation for the next ones.


# %%
@jax.jit
def network(params, x):
    layout = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, params["kernel"], (2, 2), "SAME", dimension_numbers=layout)
    x = jax.nn.relu(x).reshape(len(x), -1)
    return jax.nn.relu(x @ params["hidden"] + params["bias"]) @ params["head"]


def loss(params, batch, key):
    entropy = optax.softmax_cross_entropy(network(params, batch["images"]), batch["targets"])
    return jnp.mean(batch["weight"] * entropy), {}


def train_network(key, x, targets, weight):
    """Train from a random start."""
    he = lambda key, *shape: jax.random.normal(key, shape) * np.sqrt(2 / np.prod(shape[:-1]))
    keys = jax.random.split(key, 4)
    start = {
        "kernel": he(keys[0], 3, 3, 1, 16),
        "hidden": he(keys[1], 8 * 8 * 16, 64),
        "bias": jnp.zeros(64),
        "head": he(keys[2], 64, 10),
    }
    data = {"images": x, "targets": targets, "weight": weight}
    trained = training.fit(keys[3], loss, start, data, optimizer=adam, steps=600, batch_size=100)
    return jax.tree_util.Partial(network, trained.params)


adam = optax.adam(1e-3)
teacher = train_network(
    jax.random.key(1),
    poisoned.images[train],
    jax.nn.one_hot(poisoned.labels[train], 10),
    jnp.ones(700),
)


def rates(network):
    """Accuracy, and how often the pattern gets its label."""
    accuracy = jnp.mean(jnp.argmax(network(images[test]), axis=1) == labels[test])
    success = backdoor.attacks.attack_success_rate(
        network, poisoned.trigger(images[test]), labels[test], target=TARGET
    )
    return f"accuracy {accuracy:.3f}, attack success {success:.3f}"


print("teacher:", rates(teacher))

# %% [markdown]
# ## Strong but proper
#
# Each augmentation has two sides: how many clean images keep their label, and how many images
# with the pattern get the attack's. The best ones lie low and to the right.

# %%
views = {
    "none": augment.identity,
    "colors": functools.partial(augment.color_jitter, hue=(0.0, 0.0)),
    "slight blur": functools.partial(augment.gaussian_blur, sigma=(0.3, 0.5)),
    "blur": functools.partial(augment.gaussian_blur, sigma=(0.8, 1.5)),
    "shift": functools.partial(augment.padded_crop, padding=2),
    "affine": augment.affine,
    "resized crop": functools.partial(augment.resized_crop, area=(0.4, 0.9)),
    "cutout": augment.cutout,
    "noise alone": lambda key, image: jax.random.uniform(key, image.shape),
}
key = jax.random.key(2)
figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
for name, view in views.items():
    label = lambda x, view=view: selftraining.pseudo_label(key, teacher, view, x).labels
    right = jnp.mean(label(images[test]) == labels[test])
    hijacked = jnp.mean(
        label(poisoned.trigger(images[test])) == TARGET, where=labels[test] != TARGET
    )
    axis.scatter(right, hijacked, label=name)
    print(f"{name}: {right:.2f} of the clean images right, {hijacked:.2f} of the others hijacked")
axis.set(xlabel="clean images: true label", ylabel="images with the pattern: attack's label")
axis.legend()
plt.show()

# %% [markdown]
# Whoever defends does not know the pattern, and cannot draw that plot. `choose_augmentation`
# compares the classes instead: on labelled rows that the teacher was not trained on, an
# augmentation that breaks a trigger takes many rows from the target class alone.

# %%
names = [name for name in views if name != "none"]
choice = selftraining.choose_augmentation(
    key,
    teacher,
    [views[name] for name in names],
    poisoned.images[held_out],
    poisoned.labels[held_out],
    classes=10,
    tolerance=0.1,
)
for name, cost, excess in zip(names, choice.cost, choice.excess, strict=True):
    print(f"{name}: takes {cost:.2f} of a class, and {excess:.2f} more of one of them")
chosen = names[int(choice.chosen)]
print("chosen:", chosen, "- suspected target:", int(choice.suspect[choice.chosen]))

# %% [markdown]
# ## Students
#
# The vanilla student learns from the labelled images as they are and from the teacher's labels of
# the pool. The proposed one trusts no label: all images get those of augmented views.

# %%
data = poisoned.images, poisoned.labels, images[pool]
self_train = functools.partial(selftraining.self_train, jax.random.key(3), train_network)
relabel = functools.partial(selftraining.pseudo_label, augment=augment.identity, views=1)
vanilla = self_train(relabel, *data, classes=10, teacher=teacher, labelled="kept")
print("vanilla student:", rates(vanilla.student))

relabel = functools.partial(selftraining.pseudo_label, augment=views[chosen])
proposed = self_train(relabel, *data, classes=10, teacher=teacher)
print("proposed student:", rates(proposed.student))
new = proposed.labels[-1].labels[:900]
bad = poisoned.is_poisoned
print(
    f"poisoned rows that got their own label back: {jnp.mean(new == labels[:900], where=bad):.2f}"
)
