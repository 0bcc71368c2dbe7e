"""Self-training: a teacher labels images without labels, and a student learns from them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, Shaped

from jaxml.selftraining._checks import check_at_least_one, check_images, check_labels
from jaxml.selftraining._pseudo_label import LogitsFn, PseudoLabels
from jaxml.tracing import as_partial

Train = Callable[[Array, Array, Array, Array], LogitsFn]
Relabel = Callable[[Array, LogitsFn, Array], PseudoLabels]
Labelled = Literal["relabelled", "refined", "kept", "dropped"]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["networks", "labels"], meta_fields=[]
)
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
    images: Shaped[Array, "row height width channel"],
    labels: Int[Array, " row"],
    pool: Shaped[Array, "unlabelled height width channel"],
    relabel: Relabel,
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
      train: pure function of a key, images `[row, height, width, channel]` as given here,
        targets `[row, class]` and weights `[row]` (0 for a row to leave out) to a trained
        network: a function of images in [0, 1] to logits. What it augments, and the encoder
        it may start from, are its own. A network as `jax.tree_util.Partial(f, params)` spares
        a compilation a round.
      images: `[row, height, width, channel]`, bytes or 0 to 1, with labels.
      labels: `[row]`, perhaps poisoned.
      pool: `[unlabelled, height, width, channel]`, of the same size and dtype.
      relabel: function of a key, a network and images to `PseudoLabels`.
      classes: number of labels.
      rounds: of label and student.
      labelled: "relabelled": the student sees the labelled images with the labels of `relabel`;
        "refined": the same, made surer where the label y of the views is the given one,
        (1 - p(y)) p + p(y) e_y for y = argmax p, which a label that only a trigger speaks for
        seldom is; "kept": with their own; "dropped": not at all.
      teacher: a network that is trained already, instead of one trained here.

    Raises:
      ValueError: the pool is empty, or of another size or dtype than the images; a label is not
        in 0 to classes - 1; `relabel` or a setting is not as told.

    Source: Pal et al. (SafeAI at AAAI 2023); Carmon et al., "Unlabeled data improves adversarial
    robustness" (NeurIPS 2019).
    """
    _check(images, labels, pool, classes, rounds, labelled)
    key_teacher, key = jax.random.split(key)
    if teacher is None:
        own = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
        teacher = train(key_teacher, images, own, jnp.ones(len(images), jnp.float32))
    networks, found = [as_partial(teacher)], []
    everything = jnp.concatenate([images, pool])
    for i in range(rounds):
        key_label, key_train = jax.random.split(jax.random.fold_in(key, i))
        seen = everything if labelled in ("relabelled", "refined") else pool
        new = relabel(key_label, networks[-1], seen)
        if new.targets.shape != (len(seen), classes):
            raise ValueError(
                f"relabel: targets of shape {new.targets.shape}; accepted is "
                f"({len(seen)}, {classes}), for classes={classes}"
            )
        if labelled == "refined":
            new = dataclasses.replace(new, targets=_refined(new, labels, classes))
        targets, weight = new.targets, new.kept.astype(new.targets.dtype)
        if labelled == "kept":
            seen = everything
            own = jax.nn.one_hot(labels, classes, dtype=targets.dtype)
            targets = jnp.concatenate([own, targets])
            weight = jnp.concatenate([jnp.ones(len(images), weight.dtype), weight])
        networks.append(as_partial(train(key_train, seen, targets, weight)))
        found.append(new)
    return SelfTrained(tuple(networks), tuple(found))


def _refined(new: PseudoLabels, labels: Array, classes: int) -> Array:
    given = jax.nn.one_hot(labels, classes, dtype=new.targets.dtype)
    targets, rest = jnp.split(new.targets, [len(labels)])
    agree = new.labels[: len(labels)] == labels.astype(new.labels.dtype)
    weight = jnp.where(agree, new.confidence[: len(labels)], 0)[:, None]
    return jnp.concatenate([targets + weight * (given - targets), rest])


def _check(images, labels, pool, classes, rounds, labelled) -> None:
    check_at_least_one(classes=classes, rounds=rounds)
    check_images("images", images)
    check_images("pool", pool)
    if pool.shape[1:] != images.shape[1:] or pool.dtype != images.dtype:
        shown = lambda x: f"{x.dtype}{list(x.shape[1:])}"
        raise ValueError(
            f"pool: images of {shown(pool)}; accepted are {shown(images)}, as those with labels"
        )
    check_labels(labels, len(images), classes)
    if labelled not in get_args(Labelled):
        raise ValueError(f"labelled={labelled!r}: accepted are {', '.join(get_args(Labelled))}")
