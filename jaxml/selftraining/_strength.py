"""Which augmentation is strong enough for a trigger and still keeps the class, told from labels.

The trigger is not known, nor which labels are poisoned. What is seen is how often the labels of
the teacher under an augmentation agree with those of the set, class by class. Where poison has
one target, the rows that carry it all bear one label: their loss of the trigger lowers the
agreement of that class alone, by their share of it, while a loss of the content of images lowers
it in all classes. So the median over the classes tells the cost, and the class that stands out
from it the effect.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxml import augment as augmentations
from jaxml.augment import Augment
from jaxml.selftraining._checks import check_images, check_labels
from jaxml.selftraining._pseudo_label import LogitsFn, pseudo_label
from jaxml.tracing import known


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["agreement", "cost", "excess", "suspect", "is_proper", "is_visible", "chosen"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Strength:
    """Result of `strength`.

    Attributes:
      agreement: share of the rows of a class whose label the teacher gives back, without
        augmentation first, `[1 + augmentation, class]`.
      cost: median over the classes of what an augmentation takes from it, `[augmentation]`.
      excess: what it takes from one class beyond the cost, at most, `[augmentation]`.
      suspect: that class, `[augmentation]`; the target of the attack, if there is one.
      is_proper: whether the cost is within the tolerance, `[augmentation]`.
      is_visible: whether the excess stands out from the other classes, `[augmentation]`.
      chosen: number of an augmentation, -1 if none is proper.
    """

    agreement: Float[Array, "*batch all class"]
    cost: Float[Array, "*batch augmentation"]
    excess: Float[Array, "*batch augmentation"]
    suspect: Int[Array, "*batch augmentation"]
    is_proper: Bool[Array, "*batch augmentation"]
    is_visible: Bool[Array, "*batch augmentation"]
    chosen: Int[Array, "*batch"]


def strength(
    key: Key[Array, ""],
    logits_fn: LogitsFn,
    images: Shaped[Array, "row height width channel"],
    labels: Int[Array, " row"],
    augments: Sequence[Augment],
    *,
    classes: int,
    views: int = 8,
    tolerance: float = 0.05,
    batch_size: int = 64,
) -> Strength:
    """Choose an augmentation that is strong but proper, without knowing the trigger.

    d[c] is what an augmentation takes from the agreement of class c. Its cost is median d, its
    excess max d - median d. Proper is a cost up to the tolerance; visible an excess above three
    of its errors, which are the spread of d, 1.48 median |d - median d|, and that of a share of
    the rows of a class, 1 / (2 sqrt(n)). Of those that are both, and whose excess is the largest
    or less by the latter error alone, the one with the largest cost is chosen, the strongest;
    where no trigger is visible, the strongest that is proper.

    It fails where poison lowers no single class: labels that the attack leaves as they are
    (clean-label), or that go from every class to another (all-to-all; that cost looks
    improper). It sees nothing where the poisoned rows are few beside the error, about 3 / (2
    sqrt(n)) of the target class, or where no augmentation tried breaks the trigger. A class
    that is fragile by nature may be taken for a target; what is chosen then is still proper.

    Args:
      key: of the views; all augmentations share it.
      logits_fn: the teacher, as for `pseudo_label`.
      images: `[row, height, width, channel]`, best rows of the poisoned set that the teacher was
        not trained on: what it learnt by heart agrees under any augmentation.
      labels: their labels as they came, `[row]`.
      augments: functions of a key and an image, in any order.
      classes: number of labels, 3 or more; each has a row.
      views: as for `pseudo_label`.
      tolerance: largest cost of a proper augmentation, 0 to 1.
      batch_size: as for `pseudo_label`.

    Raises:
      ValueError: as for `pseudo_label`; fewer than 3 classes, a label not in 0 to classes - 1, a
        class without a row, no augmentation, or `tolerance` not in 0 to 1.
    """
    check_images("images", images)
    if classes < 3:
        raise ValueError(f"classes={classes}: accepted is 3 or more, to compare one with the rest")
    check_labels(labels, len(images), classes)
    count = jnp.bincount(labels, length=classes)
    if not known(count, lambda count: jnp.all(count > 0)):
        raise ValueError(f"labels: no row of class {int(jnp.argmin(count))}; each needs some")
    if not augments:
        raise ValueError("augments: none; accepted is one or more")
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance={tolerance}: accepted is 0 to 1")
    shares = []
    for augment, number in ((augmentations.identity, 1), *((a, views) for a in augments)):
        found = pseudo_label(key, logits_fn, images, augment, views=number, batch_size=batch_size)
        agrees = (found.labels == labels.astype(jnp.int32)).astype(found.confidence.dtype)
        total = jnp.zeros(classes, agrees.dtype).at[labels].add(agrees)
        shares.append(total / count.astype(agrees.dtype))
    return _judge(jnp.stack(shares), count, tolerance)


def _judge(agreement: Array, count: Array, tolerance: float) -> Strength:
    lost = agreement[0] - agreement[1:]
    cost = jnp.median(lost, axis=1)
    suspect = jnp.argmax(lost, axis=1)
    excess = jnp.max(lost, axis=1) - cost
    # 1.4826 makes the median deviation that of a normal distribution.
    spread = 1.4826 * jnp.median(jnp.abs(lost - cost[:, None]), axis=1)
    sampling = 0.5 / jnp.sqrt(count[suspect].astype(lost.dtype))
    is_visible = excess > 3 * jnp.hypot(spread, sampling)
    is_proper = cost <= tolerance
    both = is_proper & is_visible
    best = lambda score, among: jnp.argmax(jnp.where(among, score, -jnp.inf))
    # Augmentations that break the trigger altogether differ in their excess by chance.
    largest = jnp.max(jnp.where(both, excess, -jnp.inf))
    equal = both & (excess >= largest - sampling)
    chosen = jnp.where(jnp.any(both), best(cost, equal), best(cost, is_proper))
    chosen = jnp.where(jnp.any(is_proper), chosen, -1)
    return Strength(agreement, cost, excess, suspect, is_proper, is_visible, chosen)
