"""Representation misdirection: hidden states of what is to be forgotten go to one direction."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jaxml import checks
from jaxml.precision import half_as_single
from jaxml.unlearning._counted import check_values, counted_mean
from jaxml.unlearning._forget_batch import Scalar


@half_as_single
def rmu(
    hidden_forget: Float[Array, "*forget width"],
    control: Float[Array, " width"],
    hidden_retain: Float[Array, "*retain width"],
    frozen_retain: Float[Array, "*retain width"],
    *,
    alpha: Scalar = 100.0,
    forget_mask: Bool[Array, " *forget"] | None = None,
    retain_mask: Bool[Array, " *retain"] | None = None,
) -> Float[Array, ""]:
    """Return the loss of representation misdirection for unlearning (RMU).

    mse(hidden_forget, control) + alpha mse(hidden_retain, frozen_retain), each the mean over
    positions and components. The paper sums over components: its loss is `width` times this.

    Args:
      hidden_forget: output of the steered block on what is to be forgotten,
        `[*forget, width]`.
      control: target of all its positions, `[width]`, as of `rmu_control`.
      hidden_retain: output of the block on what is to be kept, `[*retain, width]`.
      frozen_retain: output of the block of the model before unlearning, `[*retain, width]`.
      alpha: weight of the second term; 1200 for Zephyr-7B with `scale=6.5` in `rmu_control`.
      forget_mask: positions that count, `[*forget]`; all by default, padding included, as the
        released code has it.
      retain_mask: positions that count, `[*retain]`; all by default.

    Returns:
      The loss.

    Raises:
      ValueError: the shapes do not fit or a wrong dtype.

    Source: Li et al., "The WMDP benchmark: measuring and reducing malicious use with unlearning"
    (ICML 2024), section 4, and its released code.
    """
    check_values(hidden_forget=hidden_forget, control=control, hidden_retain=hidden_retain)
    if control.shape != hidden_forget.shape[-1:]:
        width = hidden_forget.shape[-1] if hidden_forget.ndim else 0
        raise checks.refused("control", control, f"[{width}], the width of hidden_forget")
    checks.same_shape(hidden_retain=hidden_retain, frozen_retain=frozen_retain)
    control = jnp.expand_dims(control, range(hidden_forget.ndim - 1))
    forget = _mean_square(hidden_forget - control, forget_mask, name="hidden_forget")
    retain = _mean_square(hidden_retain - frozen_retain, retain_mask, name="hidden_retain")
    return forget + alpha * retain


def rmu_control(
    key: Key[Array, ""], width: int, *, scale: float = 20.0, dtype: jax.typing.DTypeLike = "float32"
) -> Float[Array, " width"]:
    """Return the target of `rmu`: a random direction of positive components, times `scale`.

    Components are uniform on 0 to 1 before the norm is set. One for each subject to forget,
    fixed for the whole of training.

    Args:
      key: consumed.
      width: components of a hidden state.
      scale: norm of the result; of the size of the norm of the hidden states.
      dtype: of the result.

    Returns:
      `[width]`, of norm `scale`.

    Raises:
      ValueError: `width` is below 1 or `scale` not positive.
    """
    checks.counts(width=width)
    checks.positive(scale=scale)
    direction = jax.random.uniform(key, (width,), dtype)
    return scale * direction / jnp.linalg.norm(direction)


def _mean_square(difference: Array, mask: Array | None, *, name: str) -> Array:
    square = jnp.mean(jnp.square(difference), axis=-1)
    return counted_mean(square, mask, name=f"{name} without its last axis")
