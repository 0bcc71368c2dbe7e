"""Attacks that relabel the rows they poison: a trigger, and the rule of `poison`.

They poison a fixed share of all rows, drawn at random, those of the target class among them.
Where `trigger` is not given, a default is drawn from the key: the patterns of the papers are
images that are not shipped. A new attack is a function that draws a trigger, and two lines.
"""

from collections.abc import Callable
from typing import NamedTuple, TypedDict, Unpack, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.backdoor.attacks._poisoned import (
    Images,
    Labels,
    Poisoned,
    Relabel,
    TriggerFn,
    check_labelled,
    count_poisoned,
    put_trigger,
)
from jaxml.backdoor.attacks._triggers import (
    Trigger,
    blend_trigger,
    noise,
    patch_trigger,
    square_trigger,
    warp_trigger,
)

# Adaptive blend: pieces along each axis; half of all are left out.
_PIECES = 4


class Rule(TypedDict, total=False):
    """Keyword arguments of `poison`, which attacks pass on to it.

    Attributes:
      ratio: share of the rows to poison, 0.1 by default.
      target: label of the poisoned rows, 1 by default.
      relabel: "all_to_one" by default, "all_to_all" or "untargeted".
      classes: number of them, 10 by default.
    """

    ratio: float
    target: int
    relabel: Relabel
    classes: int


def poison(
    key: Key[Array, ""],
    trigger: TriggerFn,
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.1,
    target: int = 1,
    relabel: Relabel = "all_to_one",
    classes: int = 10,
) -> Poisoned:
    """Poison random rows by a trigger, and relabel them.

    Args:
      key: consumed.
      trigger: function of images `[row, height, width, channel]` in [0, 1] to such images: a
        `Trigger`, or any other that is a pytree or a plain function.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: `[row]`, 0 to `classes` - 1.
      ratio: share of the rows to poison, between 0 and 1: round(ratio row) of them.
      target: label of the poisoned rows.
      relabel: "all_to_one" gives them `target`, "all_to_all" the next label modulo `classes`,
        "untargeted" a random wrong label each.
      classes: number of them.

    Returns:
      The poisoned set, which rows are poisoned, and the trigger for test time.

    Raises:
      ValueError: an argument is out of range, `ratio` leaves no row, the arrays are not of these
        shapes and kinds, or images or labels are out of range where their values are known.
    """
    check_labelled(images, labels, target=target, classes=classes)
    checks.choice(get_args(Relabel), relabel=relabel)
    keys = _attack_keys(key)
    rows = len(labels)
    index = jax.random.permutation(keys.rows, rows)[: count_poisoned(ratio, rows)]
    if relabel == "all_to_one":
        relabelled = jnp.full_like(labels, target)
    elif relabel == "all_to_all":
        relabelled = (labels + 1) % classes
    else:
        wrong = jax.random.randint(keys.labels, labels.shape, 1, classes, labels.dtype)
        relabelled = (labels + wrong) % classes
    return put_trigger(trigger, images, labels, index, relabelled=relabelled)


def badnets(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    trigger: TriggerFn | None = None,
    **rule: Unpack[Rule],
) -> Poisoned:
    """Poison by a patch of random colors near the lower right corner.

    By default the patch is of side 5, 3 pixels from the border, and smaller on images of less
    than 24 pixels.

    Args:
      key: consumed.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: `[row]`, 0 to `classes` - 1.
      trigger: to use in place of the default, a function of images.
      rule: ratio=0.1, target=1, relabel="all_to_one" and classes=10, as for `poison`.

    Returns:
      As of `poison`.

    Raises:
      ValueError: as for `poison`.

    Source: Gu et al., "BadNets" (2017).
    """
    trigger = drawn(trigger, random_patch, _attack_keys(key).trigger, images)
    return poison(key, trigger, images, labels, **rule)


def blend(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    trigger: TriggerFn | None = None,
    **rule: Unpack[Rule],
) -> Poisoned:
    """Poison by blending with an image, gray noise of weight 0.2 by default.

    Arguments (`rule`: ratio, target, relabel, classes), with images
    `[row, height, width, channel]`, result and errors as for `badnets`.

    Source: Chen et al., "Targeted backdoor attacks on deep learning systems using data
    poisoning" (2017).
    """
    trigger = drawn(trigger, _noise_blend, _attack_keys(key).trigger, images)
    return poison(key, trigger, images, labels, **rule)


def trojan(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    trigger: TriggerFn | None = None,
    **rule: Unpack[Rule],
) -> Poisoned:
    """Poison by adding a square, by default of random colors and of side 8 in the corner.

    In the paper the square comes from the network. Arguments (`rule`: ratio, target, relabel,
    classes), with images `[row, height, width, channel]`, result and errors as for `badnets`.

    Source: Liu et al., "Trojaning attack on neural networks" (NDSS 2018).
    """
    trigger = drawn(trigger, _random_square, _attack_keys(key).trigger, images)
    return poison(key, trigger, images, labels, **rule)


def wanet(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    trigger: TriggerFn | None = None,
    **rule: Unpack[Rule],
) -> Poisoned:
    """Poison by a smooth random warp of 4 x 4 control points and strength 0.5.

    Without the noise mode of the paper; `warp_trigger` makes other warps. Arguments (`rule`:
    ratio, target, relabel, classes), with images `[row, height, width, channel]`, result and
    errors as for `badnets`.

    Source: Nguyen and Tran, "WaNet" (ICLR 2021).
    """
    trigger = drawn(trigger, warp_trigger, _attack_keys(key).trigger, images)
    return poison(key, trigger, images, labels, **rule)


def all_to_all(
    key: Key[Array, ""],
    images: Images,
    labels: Labels,
    *,
    ratio: float = 0.1,
    classes: int = 10,
    trigger: TriggerFn | None = None,
) -> Poisoned:
    """Poison by the patch of `badnets`, each label y becoming (y + 1) mod `classes`.

    Arguments, with images `[row, height, width, channel]`, result and errors as for `badnets`.
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
    `is_poisoned` is False for them. `trigger` is the whole pattern.

    Args:
      key: consumed.
      images: `[row, height, width, channel]`, in [0, 1].
      labels: `[row]`.
      ratio: share of the rows to poison, and to cover, below 0.5.
      target: label of the poisoned rows.
      pattern: `[height, width, channel]`, in [0, 1]; gray noise by default.
      alpha: weight of the pattern in training.
      test_alpha: weight of the pattern at test time.

    Returns:
      As of `poison`.

    Raises:
      ValueError: as for `poison`.

    Source: Qi et al., "Revisiting the assumption of latent separability for backdoor defenses"
    (ICLR 2023).
    """
    check_labelled(images, labels, target=target)
    key_rows, key_pattern, key_pieces = jax.random.split(key, 3)
    rows, height, width, _ = images.shape
    pattern = noise(key_pattern, images.shape[1:]) if pattern is None else pattern
    train, test = (blend_trigger(pattern, alpha=a) for a in (alpha, test_alpha))
    count = count_poisoned(ratio, rows)
    if 2 * count > rows:
        raise checks.refused("ratio", ratio, "below 0.5, as covers need as many rows")
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


def drawn(
    trigger: TriggerFn | None,
    draw: Callable[[Array, tuple[int, ...]], Trigger],
    key: Key[Array, ""],
    images: Images,
) -> TriggerFn:
    """Return the trigger, or where there is none one that is drawn for images of this size."""
    checks.images(images=images)
    return draw(key, images.shape[1:]) if trigger is None else trigger


def random_patch(key: Key[Array, ""], shape: tuple[int, ...]) -> Trigger:
    """Return the patch of `badnets`: random colors, side 5, 3 pixels from the border."""
    patch = jax.random.uniform(key, _square_shape(shape, 5))
    return patch_trigger(patch, shape, margin=min(3, min(shape[:2]) // 8))


def _random_square(key, shape):
    return square_trigger(jax.random.uniform(key, _square_shape(shape, 8)), shape)


def _square_shape(shape, side):
    """Return the shape of a square of this side, or of a quarter of a small image."""
    side = max(1, min(side, min(shape[:2]) // 4))
    return side, side, shape[2]


def _noise_blend(key, shape):
    return blend_trigger(noise(key, shape))


class _AttackKeys(NamedTuple):
    rows: Array
    trigger: Array
    labels: Array


def _attack_keys(key):
    """Return the keys of an attack; `poison` leaves that of the trigger to who draws one."""
    return _AttackKeys(*jax.random.split(key, 3))
