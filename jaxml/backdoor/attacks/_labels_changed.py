"""Attacks that relabel the rows they poison.

They poison a fixed share of all rows, drawn at random, those of the target class among them.
Where `trigger` is not given, a default is drawn from the key: the patterns of the papers are
images that are not shipped.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxml.backdoor.attacks._poisoned import (
    Images,
    Labels,
    Poisoned,
    Relabel,
    check_labelled,
    check_relabel,
    count_poisoned,
    default_patch,
    poison,
    square_shape,
)
from jaxml.backdoor.attacks._triggers import (
    Trigger,
    blend_trigger,
    noise,
    square_trigger,
    warp_trigger,
)

# Adaptive blend: pieces along each axis; half of all are left out.
_PIECES = 4


def badnets(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.1,
    target: int = 1,
    relabel: Relabel = "all_to_one",
    classes: int = 10,
    trigger: Trigger | None = None,
) -> Poisoned:
    """Poison by a patch of random colours near the lower right corner.

    Gu et al., "BadNets" (2017). By default the patch is of side 5, 3 pixels from the border,
    and smaller on images of less than 24 pixels.

    Args:
      key: consumed.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: `[row]`, 0 to `classes` - 1.
      ratio: share of the rows to poison, between 0 and 1: round(ratio row) of them.
      target: label of the poisoned rows.
      relabel: "all_to_one" gives them `target`, "all_to_all" the next label modulo `classes`,
        "untargeted" a random wrong label each.
      classes: number of them.
      trigger: to use in place of the default.

    Raises:
      ValueError: an argument is out of range, `ratio` leaves no row, the arrays are not of these
        shapes and kinds, or images or labels are out of range where their values are known.
    """
    return _dirty(key, images, labels, ratio, target, relabel, classes, trigger, default_patch)


def blend(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.1,
    target: int = 1,
    relabel: Relabel = "all_to_one",
    classes: int = 10,
    trigger: Trigger | None = None,
) -> Poisoned:
    """Poison by blending with an image, grey noise of weight 0.2 by default.

    Chen et al., "Targeted backdoor attacks on deep learning systems using data poisoning"
    (2017). Arguments, with images `[row, height, width, channel]`, and errors as for `badnets`.
    """
    default = lambda key, shape: blend_trigger(noise(key, shape))
    return _dirty(key, images, labels, ratio, target, relabel, classes, trigger, default)


def trojan(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.1,
    target: int = 1,
    relabel: Relabel = "all_to_one",
    classes: int = 10,
    trigger: Trigger | None = None,
) -> Poisoned:
    """Poison by adding a square, by default of random colours and of side 8 in the corner.

    Liu et al., "Trojaning attack on neural networks" (NDSS 2018), whose square comes from the
    network. Arguments, with images `[row, height, width, channel]`, and errors as for `badnets`.
    """
    default = lambda key, shape: square_trigger(
        jax.random.uniform(key, square_shape(shape, 8)), shape
    )
    return _dirty(key, images, labels, ratio, target, relabel, classes, trigger, default)


def wanet(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.1,
    target: int = 1,
    relabel: Relabel = "all_to_one",
    classes: int = 10,
    trigger: Trigger | None = None,
) -> Poisoned:
    """Poison by a smooth random warp of 4 x 4 control points and strength 0.5.

    Nguyen and Tran, "WaNet" (ICLR 2021), without its noise mode. Arguments, with images
    `[row, height, width, channel]`, and errors as for `badnets`; `warp_trigger` makes
    other warps.
    """
    return _dirty(key, images, labels, ratio, target, relabel, classes, trigger, warp_trigger)


def all_to_all(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.1,
    classes: int = 10,
    trigger: Trigger | None = None,
) -> Poisoned:
    """Poison by the patch of `badnets`, each label y becoming (y + 1) mod `classes`.

    Arguments, with images `[row, height, width, channel]`, and errors as for `badnets`.
    """
    return badnets(
        key, images, labels, ratio=ratio, relabel="all_to_all", classes=classes, trigger=trigger
    )


def adaptive_blend(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.003,
    target: int = 1,
    pattern: Float[Array, "height width channel"] | None = None,
    alpha: float = 0.2,
    test_alpha: float = 0.15,
) -> Poisoned:
    """Poison by half of the pieces of a blended pattern, and mask as many rows as covers.

    Each row gets 8 of 4 x 4 pieces, drawn anew. Cover rows get them too but keep their labels:
    `is_poisoned` is False for them. `trigger` is the whole pattern. Qi et al., "Revisiting the
    assumption of latent separability for backdoor defenses" (ICLR 2023).

    Args:
      key: consumed.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: `[row]`.
      ratio: share of the rows to poison, and to cover, below 0.5.
      target: label of the poisoned rows.
      pattern: `[height, width, channel]`, in [0, 1]; grey noise by default.
      alpha: weight of the pattern in training.
      test_alpha: its weight at test time.

    Raises:
      ValueError: as for `badnets`.
    """
    check_labelled(images, labels, target=target)
    key_rows, key_pattern, key_pieces = jax.random.split(key, 3)
    rows, height, width, _ = images.shape
    pattern = noise(key_pattern, images.shape[1:]) if pattern is None else pattern
    train, test = (blend_trigger(pattern, alpha=a) for a in (alpha, test_alpha))
    count = count_poisoned(ratio, rows)
    if 2 * count > rows:
        raise ValueError(f"ratio={ratio}: covers need as many rows; accepted is below 0.5")
    index = jax.random.permutation(key_rows, rows)[: 2 * count]
    pieces = jnp.broadcast_to(jnp.arange(_PIECES**2), (2 * count, _PIECES**2))
    order = jax.random.permutation(key_pieces, pieces, axis=1, independent=True)
    row, column = (np.arange(n) * _PIECES // n for n in (height, width))
    shown = (order < _PIECES**2 // 2)[:, row[:, None] * _PIECES + column, None]
    chosen = images[index]
    images = images.at[index].set(jnp.where(shown, train(chosen), chosen))
    poisoned = index[:count]
    return Poisoned(
        images,
        labels.at[poisoned].set(target),
        jnp.zeros(rows, bool).at[poisoned].set(True),
        jax.tree.map(lambda a: a.astype(images.dtype), test),
    )


def _dirty(key, images, labels, ratio, target, relabel, classes, trigger, default) -> Poisoned:
    """Poison rows of any class and relabel them."""
    check_labelled(images, labels, target=target, classes=classes)
    check_relabel(relabel)
    key_rows, key_trigger, key_labels = jax.random.split(key, 3)
    trigger = default(key_trigger, images.shape[1:]) if trigger is None else trigger
    rows = len(labels)
    index = jax.random.permutation(key_rows, rows)[: count_poisoned(ratio, rows)]
    if relabel == "all_to_one":
        return poison(images, labels, index, trigger, relabelled=jnp.full_like(labels, target))
    if relabel == "all_to_all":
        shift = jnp.ones_like(labels)
    else:
        shift = jax.random.randint(key_labels, labels.shape, 1, classes, labels.dtype)
    return poison(images, labels, index, trigger, relabelled=(labels + shift) % classes)
