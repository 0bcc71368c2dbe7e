"""Task vectors: what training on the forget set added to the parameters is taken away."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxml import checks
from jaxml.unlearning._forget_batch import Scalar


def task_vector(finetuned: PyTree, base: PyTree) -> PyTree:
    """Return what fine-tuning added to the parameters: finetuned - base, leaf by leaf.

    Args:
      finetuned: parameters after training on what is to be forgotten, a pytree of arrays
        `[...]`.
      base: parameters before.

    Returns:
      A tree as `base`.

    Raises:
      ValueError: the trees have different structures, shapes or dtypes.

    Source: Ilharco et al., "Editing models with task arithmetic" (ICLR 2023).
    """
    checks.same_trees(finetuned=finetuned, base=base)
    return jax.tree.map(lambda after, before: after - before, finetuned, base)


def subtract_task_vector(params: PyTree, vector: PyTree, *, scale: Scalar = 5.0) -> PyTree:
    """Return params - scale vector: the parameters with the task forgotten.

    Args:
      params: a pytree of arrays `[...]`.
      vector: as of `task_vector`, of the same structure.
      scale: 5 in MUSE, after 10 epochs of training on the forget set at a rate of 1e-5.

    Returns:
      A tree as `params`.

    Raises:
      ValueError: the trees have different structures, shapes or dtypes.
    """
    checks.same_trees(params=params, vector=vector)
    return jax.tree.map(lambda p, v: p - jnp.asarray(scale, v.dtype) * v, params, vector)
