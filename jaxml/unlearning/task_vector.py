"""Task vectors: what training on the forget set added to the parameters is taken away."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxml.unlearning.objectives import Scalar


def task_vector(finetuned: PyTree, base: PyTree) -> PyTree:
    """Return what fine-tuning added to the parameters: finetuned - base, leaf by leaf.

    Args:
      finetuned: parameters after training on what is to be forgotten, a pytree of arrays
        `[...]`.
      base: those before.

    Raises:
      ValueError: the trees have different structures, shapes or dtypes.

    Source: Ilharco et al., "Editing models with task arithmetic" (ICLR 2023).
    """
    _check_trees(finetuned=finetuned, base=base)
    return jax.tree.map(lambda after, before: after - before, finetuned, base)


def subtract_task_vector(params: PyTree, vector: PyTree, *, scale: Scalar = 5.0) -> PyTree:
    """Return params - scale vector: the parameters with the task forgotten.

    Args:
      params: a pytree of arrays `[...]`.
      vector: as of `task_vector`, of the same structure.
      scale: 5 in MUSE, after 10 epochs of training on the forget set at a rate of 1e-5.

    Raises:
      ValueError: the trees have different structures, shapes or dtypes.
    """
    _check_trees(params=params, vector=vector)
    return jax.tree.map(lambda p, v: p - jnp.asarray(scale, v.dtype) * v, params, vector)


def _check_trees(**trees: PyTree) -> None:
    (first, one), (second, other) = trees.items()
    if jax.tree.structure(one) != jax.tree.structure(other):
        raise ValueError(
            f"{second}: {jax.tree.structure(other)}; {first} has {jax.tree.structure(one)}"
        )
    kind = lambda leaf: f"{leaf.dtype}{list(leaf.shape)}"
    pairs = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True)
    for (path, leaf), mate in pairs:
        if kind(leaf) != kind(mate):
            where = jax.tree_util.keystr(path)
            raise ValueError(f"{second}{where}: {kind(mate)}; {first} has {kind(leaf)}")
