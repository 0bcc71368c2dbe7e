"""Parameters of a decoder as `llama.init` draws them, by NumPy: nothing is compiled."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxml.models.llama.decoder import is_shape, parameter_shapes


def drawn(config, seed=0, *, matrices=1.0, rest=1.0, dtype="float32"):
    """Return parameters, the matrices and the rest of them multiplied by a number each."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        name = path[-1].key
        if name.endswith("norm"):
            leaf = np.ones(shape)
        else:
            leaf = np.zeros(shape) if name.endswith("bias") else rng.normal(0, 0.02, shape)
        return jnp.asarray((matrices if len(shape) > 1 else rest) * leaf, dtype)

    return jax.tree_util.tree_map_with_path(draw, parameter_shapes(config), is_leaf=is_shape)
