"""Quantization: small changes of the parameters may vanish when these are rounded."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxml import checks


def quantize(
    params: PyTree,
    *,
    bits: int = 4,
    group: int | None = None,
    keep: Sequence[str] = ("embed", "head", "norm", "bias"),
) -> PyTree:
    """Return the parameters as they are after their matrices were rounded to a few bits.

    Round to nearest: each output channel, or each group of its inputs, has a step of its largest
    magnitude over 2^(bits - 1) - 1; weights become the nearest multiple of it. Unlearning that
    moved the weights by less than half a step is undone. In a small model what `keep` leaves as
    it is may be a third of all weights.

    Args:
      params: pytree of arrays; matrices are `[*stack, in, out]`. Vectors and integers stay.
      bits: 2 to 8.
      group: inputs that share a step; all of them by default.
      keep: leaves stay whose own name in the tree ends in one of these: embeddings and head are
        usually left as they are, and norms and biases of several layers look like matrices.

    Returns:
      The same tree with the rounded values, of the same dtype.

    Raises:
      ValueError: `bits` or `group` is out of range, or inputs are not a multiple of `group`.

    Source: Zhang et al., "Catastrophic failure of LLM unlearning via quantization" (ICLR 2025).
    """
    checks.within(2, 8, bits=bits)
    if group is not None:
        checks.counts(group=group)

    def of_leaf(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        if leaf.ndim < 2 or not leaf.size or not floating or name.endswith(tuple(keep)):
            return leaf
        inputs = leaf.shape[-2]
        if group is not None and inputs % group:
            where = f"params{jax.tree_util.keystr(path)}"
            raise checks.refused(where, leaf, f"a multiple of group={group} inputs")
        return _rounded(leaf, bits, group or inputs)

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def _rounded(matrix: Array, bits: int, group: int) -> Array:
    *stack, inputs, outputs = matrix.shape
    wide = matrix if matrix.dtype.itemsize >= 4 else matrix.astype(jnp.float32)
    w = wide.reshape(*stack, inputs // group, group, outputs)
    step = jnp.max(jnp.abs(w), axis=-2, keepdims=True) / (2 ** (bits - 1) - 1)
    # A group of zeros has no step.
    nearest = jnp.where(step == 0, 0, jnp.round(w / jnp.where(step == 0, 1, step)) * step)
    return nearest.reshape(matrix.shape).astype(matrix.dtype)
