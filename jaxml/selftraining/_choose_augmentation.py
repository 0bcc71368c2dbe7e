"""Which augmentation is strong enough for a trigger and still keeps the class, told from labels.

The trigger is not known, nor which labels are poisoned. What is seen is how often the labels of
the teacher under an augmentation agree with those of the set, class by class. Where poison has
one target, the rows that carry it all bear one label: their loss of the trigger lowers the
agreement of that class alone, by their share of it, while a loss of the content of images lowers
it in all classes. So the median over the classes tells the cost, and the class that stands out
from it the effect.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxml import augment as augmentations
from jaxml import checks
from jaxml.augment import Augment
from jaxml.precision import at_least_single
from jaxml.selftraining._pseudo_label import LogitsFn, pseudo_label
from jaxml.tracing import known, nan_unless


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AugmentationChoice:
    """Result of `choose_augmentation`.

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


def choose_augmentation(
    key: Key[Array, ""],
    logits_fn: LogitsFn,
    augments: Sequence[Augment],
    images: Shaped[Array, "row height width channel"],
    labels: Int[Array, " row"],
    *,
    classes: int,
    views: int = 8,
    tolerance: float = 0.05,
    batch_size: int = 64,
) -> AugmentationChoice:
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
      augments: functions of a key and an image, in any order.
      images: `[row, height, width, channel]`, best rows of the poisoned set that the teacher was
        not trained on: what it learnt by heart agrees under any augmentation.
      labels: labels of the images as they came, `[row]`.
      classes: number of labels, 3 or more; each has a row.
      views: as for `pseudo_label`.
      tolerance: largest cost of a proper augmentation, 0 to 1.
      batch_size: as for `pseudo_label`.

    Returns:
      `AugmentationChoice`, whose arrays have the order of `augments`.

    Raises:
      ValueError: as for `pseudo_label`; fewer than 3 classes, a label not in 0 to classes - 1, a
        class without a row, no augmentation, or `tolerance` not in 0 to 1.
    """
    checks.images(or_bytes=True, images=images)
    # One class is compared with the median of all.
    checks.counts(least=3, classes=classes)
    checks.labels(labels=labels, rows=len(images), classes=classes)
    count = jnp.bincount(labels, length=classes)
    if not known(count, lambda count: jnp.all(count > 0)):
        none = f"no row of class {int(jnp.argmin(count))}"
        raise checks.refused("labels", labels, f"a row or more of each of {classes}", holds=none)
    if not augments:
        raise checks.refused("augments", augments, "one or more")
    checks.within(0, 1, tolerance=tolerance)
    shares = []
    for augment, number in ((augmentations.identity, 1), *((a, views) for a in augments)):
        new = pseudo_label(key, logits_fn, augment, images, views=number, batch_size=batch_size)
        dtype = at_least_single(new.confidence.dtype)
        agrees = (new.labels == labels.astype(jnp.int32)).astype(dtype)
        agrees = nan_unless(~jnp.isnan(new.confidence), agrees)
        total = jnp.zeros(classes, agrees.dtype).at[labels].add(agrees)
        shares.append(total / count.astype(agrees.dtype))
    return _judge(jnp.stack(shares), count, tolerance)


def _judge(agreement: Array, count: Array, tolerance: float) -> AugmentationChoice:
    lost = agreement[:1] - agreement[1:]
    cost = jnp.median(lost, axis=1)
    suspect = jnp.argmax(lost, axis=1)
    excess = jnp.max(lost, axis=1) - cost
    # 1.4826 makes the median deviation that of a normal distribution.
    spread = 1.4826 * jnp.median(jnp.abs(lost - cost[:, None]), axis=1)
    sampling = 0.5 / jnp.sqrt(count[suspect].astype(lost.dtype))
    is_visible = excess > 3 * jnp.hypot(spread, sampling)
    is_proper = cost <= tolerance
    both = is_proper & is_visible
    # Augmentations that break the trigger altogether differ in their excess by chance.
    largest = jnp.max(jnp.where(both, excess, -jnp.inf))
    equal = both & (excess >= largest - sampling)

    def strongest(among):
        return jnp.argmax(jnp.where(among, cost, -jnp.inf))

    chosen = jnp.where(jnp.any(both), strongest(equal), strongest(is_proper))
    chosen = jnp.where(jnp.any(is_proper), chosen, -1)
    return AugmentationChoice(agreement, cost, excess, suspect, is_proper, is_visible, chosen)
