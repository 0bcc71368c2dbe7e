"""Anti-backdoor learning: the rows that a network learns first."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxml import checks


def abl(losses: Float[Array, "*epoch row"]) -> Float[Array, " row"]:
    """Score rows by how low their loss is early in training.

    Minus the loss, its mean over epochs if there are several. The method takes the
    losses of a network trained for a few epochs by `abl_loss`.

    Args:
      losses: cross-entropy of each row with its given label early in training, `[row]` or
        `[epoch, row]`.

    Returns:
      Scores `[row]`, higher is more suspicious.

    Raises:
      ValueError: the losses are not floating-point numbers `[row]` or `[epoch, row]`.

    Source: Li et al. 2021 (NeurIPS, "Anti-backdoor learning").
    """
    if losses.ndim not in (1, 2) or 0 in losses.shape:
        raise checks.refused("losses", losses, "[row] or [epoch, row], none of length 0")
    checks.floating(losses=losses)
    return -jnp.mean(losses.reshape(-1, losses.shape[-1]), axis=0)


def abl_loss(loss: Float[Array, "*any"], *, gamma: float = 0.5) -> Float[Array, "*any"]:
    """Turn a loss into one whose descent holds it at `gamma`: sign(L - gamma) L.

    Poisoned rows, which are learnt fast, stay near `gamma` from below and clean ones above.

    Args:
      loss: cross-entropy in nats, of a batch (as released) or of each row, any shape `[...]`.
      gamma: the loss to hold.

    Returns:
      The loss to train by, of the shape of `loss`.

    Raises:
      ValueError: `gamma` is negative, or the loss is not floating-point.

    Source: Li et al. 2021 (NeurIPS, "Anti-backdoor learning").
    """
    checks.floating(loss=loss)
    checks.at_least(0, gamma=gamma)
    return lax.stop_gradient(jnp.sign(loss - gamma)) * loss
