"""Low-rank adaptation (LoRA): a small tree of factors that is added to the parameters."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxml import checks
from jaxml.models.llama.decoder import Params
from jaxml.precision import at_least_single

Factors = dict[str, dict[str, Array]]
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def lora_init(
    key: Key[Array, ""],
    params: Params,
    *,
    rank: int = 8,
    names: Sequence[str] = ("q", "k", "v", "o"),
) -> Factors:
    """Return factors of a change that is nothing yet: a normal of variance 1 / in, and b = 0.

    Args:
      key: consumed.
      params: of the decoder.
      rank: of the change of each matrix.
      names: matrices of the layers that change.

    Returns:
      `{name: {"a": [layer, in, rank], "b": [layer, rank, out]}}`, in the dtype of the matrix.

    Raises:
      ValueError: `rank` is below 1, or a name is not of a matrix.

    Source: Hu et al., "LoRA: low-rank adaptation of large language models" (ICLR 2022).
    """
    checks.counts(rank=rank)
    if not names or not set(names) <= set(MATRICES):
        raise checks.refused("names", tuple(names), f"some of {', '.join(MATRICES)}")

    def factors(name, key):
        layers, inner, outer = params["layers"][name].shape
        dtype = params["layers"][name].dtype
        a = jax.random.normal(key, (layers, inner, rank), at_least_single(dtype)) * inner**-0.5
        return {"a": a.astype(dtype), "b": jnp.zeros((layers, rank, outer), dtype)}

    keys = jax.random.split(key, len(names))
    return {name: factors(name, key) for name, key in zip(names, keys, strict=True)}


def lora_merge(
    params: Params, factors: Factors, *, scale: float | Float[Array, ""] = 1.0
) -> Params:
    """Return the parameters with scale a b added to each matrix that has factors.

    What it returns is of the shape of `params`: train the factors by a loss that merges first.

    Args:
      params: of the decoder; they are the reference of the unlearned model at no cost.
      factors: as of `lora_init`, `{name: {"a": [layer, in, rank], "b": [layer, rank, out]}}`.
      scale: alpha / rank in the paper.

    Raises:
      ValueError: factors that do not fit the parameters.
    """
    layers = dict(params["layers"])
    for name, factor in factors.items():
        matrix = layers.get(name)
        shape = (*factor["a"].shape[:2], factor["b"].shape[-1])
        if matrix is None:
            raise checks.refused("factors", name, f"factors of {', '.join(MATRICES)}")
        if matrix.shape != shape:
            fitting = f"factors of a matrix {matrix.shape}, as of params"
            raise checks.refused(f"factors[{name!r}]", shape, fitting)
        change = factor["a"] @ factor["b"]
        layers[name] = matrix + jnp.asarray(scale, matrix.dtype) * change.astype(matrix.dtype)
    return {**params, "layers": layers}
