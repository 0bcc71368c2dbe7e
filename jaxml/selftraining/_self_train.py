"""Self-training: a teacher labels images without labels, and a student learns from them."""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, Shaped

from jaxml import checks
from jaxml.selftraining._pseudo_label import LogitsFn, PseudoLabels
from jaxml.tracing import as_partial

Train = Callable[[Array, Array, Array, Array], LogitsFn]
Relabel = Callable[..., PseudoLabels]
"""Function of a key, a network and images, these as the keyword `images`, to their labels."""
Labelled = Literal["relabelled", "refined", "kept", "dropped"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SelfTrained:
    """Result of `self_train`.

    Attributes:
      networks: functions of images to logits, the teacher and the student of each round.
      labels: that each student was trained on, of the labelled rows (where they are
        relabelled or refined) and then of the pool.
    """

    networks: tuple[LogitsFn, ...]
    labels: tuple[PseudoLabels, ...]

    @property
    def teacher(self) -> LogitsFn:
        """The first network."""
        return self.networks[0]

    @property
    def student(self) -> LogitsFn:
        """The last network."""
        return self.networks[-1]


def self_train(
    key: Key[Array, ""],
    train: Train,
    relabel: Relabel,
    images: Shaped[Array, "row height width channel"],
    labels: Int[Array, " row"],
    pool: Shaped[Array, "unlabelled height width channel"],
    *,
    classes: int,
    rounds: int = 1,
    labelled: Labelled = "relabelled",
    teacher: LogitsFn | None = None,
) -> SelfTrained:
    """Train a teacher, label the pool with it, and train a student on that, in rounds.

    The student of a round is the teacher of the next. As proposed against backdoors, `relabel`
    is `functools.partial(pseudo_label, augment=a)` with an augmentation a that destroys
    triggers, and the labelled images lose their own labels too; "refined" gives up less. Vanilla
    self-training is `functools.partial(pseudo_label, augment=jaxml.augment.identity, views=1)`
    with their labels kept: where images of the pool or labels of the set carry the trigger, the
    student learns it.

    Args:
      key: of training and labels; consumed.
      train: pure function of a key, images `[row, height, width, channel]`, bytes or 0 to 1,
        targets `[row, class]` and weights `[row]` (0 for a row to leave out) to a trained
        network: a function of images in [0, 1] to logits. What it augments, and the encoder
        it may start from, are its own. A network as `jax.tree_util.Partial(f, params)` spares
        a compilation a round.
      relabel: function of a key, a network and images, these as the keyword `images`, to
        `PseudoLabels`.
      images: `[row, height, width, channel]`, bytes or 0 to 1, with labels.
      labels: `[row]`, perhaps poisoned.
      pool: `[unlabelled, height, width, channel]`, of the same size and dtype.
      classes: number of labels.
      rounds: of label and student.
      labelled: "relabelled": the student sees the labelled images with the labels of `relabel`;
        "refined": the same, made surer where the label y of the views is the given one,
        (1 - p(y)) p + p(y) e_y for y = argmax p, which a label that only a trigger speaks for
        seldom is; "kept": with their own; "dropped": not at all.
      teacher: a network that is trained already, instead of one trained here.

    Returns:
      `SelfTrained`: all networks, and what each student learnt from.

    Raises:
      ValueError: the pool is empty, or of another size or dtype than the images; images are not
        finite; a label is not in 0 to classes - 1; what `relabel` returns has another shape, or
        NaN; or a setting is out of range.

    Source: Pal et al. (SafeAI at AAAI 2023); Carmon et al., "Unlabeled data improves adversarial
    robustness" (NeurIPS 2019).
    """
    _check(images, labels, pool, classes, rounds, labelled)
    key_teacher, key = jax.random.split(key)
    if teacher is None:
        own = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
        teacher = train(key_teacher, images, own, jnp.ones(len(images), jnp.float32))
    networks, all_labels = [as_partial(teacher)], []
    everything = jnp.concatenate([images, pool])
    for i in range(rounds):
        key_label, key_train = jax.random.split(jax.random.fold_in(key, i))
        seen = everything if labelled in ("relabelled", "refined") else pool
        new = relabel(key_label, networks[-1], images=seen)
        if new.targets.shape != (len(seen), classes):
            shape = f"[{len(seen)}, classes={classes}]"
            raise checks.refused("relabel(images).targets", new.targets, shape)
        checks.finite(**{"relabel(images).targets": new.targets})
        if labelled == "refined":
            new = dataclasses.replace(new, targets=_refined(new, labels, classes))
        targets, weight = new.targets, new.kept.astype(new.targets.dtype)
        if labelled == "kept":
            seen = everything
            own = jax.nn.one_hot(labels, classes, dtype=targets.dtype)
            targets = jnp.concatenate([own, targets])
            weight = jnp.concatenate([jnp.ones(len(images), weight.dtype), weight])
        networks.append(as_partial(train(key_train, seen, targets, weight)))
        all_labels.append(new)
    return SelfTrained(tuple(networks), tuple(all_labels))


def _refined(new: PseudoLabels, labels: Array, classes: int) -> Array:
    """Return the targets, those of the first rows nearer to their labels where these agree."""
    one_hot = jax.nn.one_hot(labels, classes, dtype=new.targets.dtype)
    targets, rest = jnp.split(new.targets, [len(labels)])
    agree = new.labels[: len(labels)] == labels.astype(new.labels.dtype)
    weight = jnp.where(agree, new.confidence[: len(labels)], 0)[:, None]
    return jnp.concatenate([targets + weight * (one_hot - targets), rest])


def _check(images, labels, pool, classes, rounds, labelled) -> None:
    checks.counts(classes=classes, rounds=rounds)
    checks.images(or_bytes=True, images=images, pool=pool)
    checks.finite(images=images, pool=pool)
    if pool.shape[1:] != images.shape[1:] or pool.dtype != images.dtype:
        sides = ", ".join(map(str, images.shape[1:]))
        raise checks.refused("pool", pool, f"{images.dtype}[row, {sides}], as images")
    checks.labels(labels=labels, rows=len(images), classes=classes)
    checks.choice(get_args(Labelled), labelled=labelled)
