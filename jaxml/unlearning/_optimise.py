"""The loop of an optimizer as one scan, and the optimizer that unlearning takes by default."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Key, PyTree

from jaxml import checks
from jaxml.optimizer import optimizer_step

# Of parameters and a key, to a scalar and terms by name.
Loss = Callable[[PyTree, Array], tuple[Array, dict[str, Array]]]


# Kept, as a compiled loop is known by the object.
@functools.lru_cache(maxsize=32)
def adamw(learning_rate: float) -> optax.GradientTransformation:
    """Return the optimizer of unlearning, without decay.

    Args:
      learning_rate: constant.
    """
    return optax.adamw(learning_rate, weight_decay=0.0)


def optimizer_or_adamw(
    optimizer: optax.GradientTransformation | None, learning_rate: float, **trees: PyTree
) -> optax.GradientTransformation:
    """Return the caller's optimizer, or that of unlearning for parameters that it can train.

    Args:
      optimizer: None for that of unlearning.
      learning_rate: of that.
      **trees: the parameters, by the name of the argument.

    Raises:
      ValueError: parameters of float16, in which its epsilon of 1e-8 is 0, and steps are 0 / 0.
    """
    if optimizer is not None:
        return optimizer
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if leaf.dtype == jnp.float16:
                accepted = "bfloat16, float32 or float64, or an optimizer for float16"
                raise checks.refused(f"{name}{jax.tree_util.keystr(path)}", leaf, accepted)
    return adamw(learning_rate)


def minimise(
    key: Key[Array, ""],
    params: PyTree,
    loss: Loss,
    *,
    steps: int,
    optimizer: optax.GradientTransformation,
) -> tuple[PyTree, dict[str, Array]]:
    """Return the parameters after some steps, and "loss" and the terms before each, `[step]`.

    Args:
      key: each step has one of its own; consumed.
      params: pytree of what is trained.
      loss: function of parameters and the key of the step, to a scalar and terms by name.
      steps: of the optimizer, static.
      optimizer: of optax.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)

    def step(state, number):
        params, opt_state = state
        (value, terms), slope = gradient(params, jax.random.fold_in(key, number))
        updates, opt_state = optimizer_step(optimizer.update, slope, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": value, **terms}

    numbers = jnp.arange(steps, dtype=jnp.uint32)
    (params, _), history = lax.scan(step, (params, optimizer.init(params)), numbers)
    return params, history
