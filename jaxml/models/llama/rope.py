"""Rotary position embedding, with what was done to it for long texts."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxml.models.llama.config import LlamaConfig


def frequencies(config: LlamaConfig) -> np.ndarray:
    """Return the angle by which each pair of components turns from token to token.

    Args:
      config: shape of the decoder.

    Returns:
      Radians, numpy `[head_dim / 2]`, float64.

    Source: Su et al., "RoFormer" (2021), equation 15; "The Llama 3 herd of models" (2024) for
    its scaling.
    """
    # theta^(-2 i / head_dim)
    turn = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    scaling = config.scaling
    if scaling is None:
        return turn
    if scaling.kind == "linear":
        return turn / scaling.factor
    turns = scaling.original_length * turn / (2 * np.pi)
    kept = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return kept * turn + (1 - kept) * turn / scaling.factor


def rotation(
    positions: Int[Array, " *time"], config: LlamaConfig, dtype: np.dtype
) -> tuple[Float[Array, "*time half"], Float[Array, "*time half"]]:
    """Return cosine and sine of the angles at positions, `[*time, head_dim / 2]` each."""
    angle = jnp.multiply.outer(positions.astype(dtype), jnp.asarray(frequencies(config), dtype))
    return jnp.cos(angle), jnp.sin(angle)


def rotate(
    x: Float[Array, "row time head component"],
    turn: tuple[Float[Array, "time half"], Float[Array, "time half"]],
) -> Float[Array, "row time head component"]:
    """Return queries or keys turned; component i is paired with i + head_dim / 2."""
    cosine, sine = (part[None, :, None].astype(x.dtype) for part in turn)
    one, other = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([one * cosine - other * sine, other * cosine + one * sine], axis=-1)
